"""LJ Speech: `metadata.csv` with lines `id|text|normalized text`, and `wavs/{id}.wav`. One reader, no splits."""

import os
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import BuildResult, Recording, build_from_recordings, find_recordings
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.scan import Progress
from speechssl.manifest.transcripts import read_lines


def prepare(
    card: CorpusCard, root: Path, *, num_workers: int | None = None, progress: Progress | None = None
) -> BuildResult:
    """Manifest with `text` the normalized one (numbers spelled), `raw_text` as printed, and `chapter`."""
    candidates = [folder for folder in (root, *sorted(root.glob("LJSpeech*"))) if (folder / "metadata.csv").is_file()]
    if not candidates:
        raise ManifestError(f"{root}: holds no metadata.csv; --root must be the unpacked LJ Speech")
    root = candidates[0]
    files = {os.path.splitext(os.path.basename(path))[0]: path for path in find_recordings(root)}
    recordings = []
    skipped: list[tuple[str, str]] = []
    for number, line in enumerate(read_lines(root / "metadata.csv"), start=1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) not in (2, 3):
            raise ManifestError(
                f"{root / 'metadata.csv'}:{number}: {len(fields)} fields instead of `id|text|normalized text`"
            )
        path = files.pop(fields[0], None)
        if path is None:
            skipped.append((fields[0], "has a text but no recording"))
            continue
        recordings.append(
            Recording(
                path=path,
                id=fields[0],
                text=fields[-1] or None,
                speaker="linda_johnson",
                language="en",
                extra={"raw_text": fields[1], "chapter": fields[0].split("-")[0]},
            )
        )
    skipped += [(path, "has no line in metadata.csv") for path in sorted(files.values())]
    if not recordings:
        raise ManifestError(
            f"{root}: none of the recordings that metadata.csv names is there; look for the folder wavs"
        )
    return build_from_recordings(recordings, root, skipped=skipped, num_workers=num_workers, progress=progress)
