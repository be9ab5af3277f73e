"""LJ Speech: `metadata.csv` with lines `id|text|normalized text`, and `wavs/{id}.wav`. One reader, no splits."""

from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, find_files, stem
from speechssl.manifest.transcripts import read_lines


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """Recordings with `text` the normalized one (numbers spelled), `raw_text` as printed, and `chapter`."""
    candidates = [folder for folder in (root, *sorted(root.glob("LJSpeech*"))) if (folder / "metadata.csv").is_file()]
    if not candidates:
        raise ManifestError(f"{root}: holds no metadata.csv; --root must be the unpacked LJ Speech")
    found = Found(root=candidates[0])
    table = found.root / "metadata.csv"
    files = {stem(path): path for path in find_files(found.root)}
    missing = []
    for number, line in enumerate(read_lines(table), start=1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("|")]
        if len(fields) not in (2, 3):
            raise ManifestError(f"{table}:{number}: {len(fields)} fields instead of `id|text|normalized text`")
        path = files.pop(fields[0], None)
        if path is None:
            missing.append(fields[0])
            continue
        found.recordings.append(
            Recording(
                path=path,
                id=fields[0],
                text=fields[-1] or None,
                speaker="linda_johnson",
                language="en",
                extra={"raw_text": fields[1], "chapter": fields[0].split("-")[0]},
            )
        )
    found.leave_out_texts("metadata.csv", missing)
    found.leave_out_all("wavs", files.values(), "has no line in metadata.csv")
    if not found.recordings:
        raise ManifestError(
            f"{found.root}: none of the recordings that metadata.csv names is there; look for the folder wavs"
        )
    return found
