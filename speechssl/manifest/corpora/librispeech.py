"""LibriSpeech: `{split}/{speaker}/{chapter}/{speaker}-{chapter}-{number}.flac` with a `.trans.txt` in each chapter."""

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
    """Manifest of every split that is there, with the columns split and chapter (and gender, from SPEAKERS.TXT)."""
    root = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    splits = [split for split in card.splits if (root / split).is_dir()]
    if not splits:
        raise ManifestError(
            f"{root}: holds none of the folders {', '.join(card.splits)}; --root must be the unpacked LibriSpeech"
        )
    genders = _read_genders(root / "SPEAKERS.TXT")
    recordings = []
    skipped: list[tuple[str, str]] = []
    for split in splits:
        texts = _read_texts(root / split)
        found = set()
        for path in find_recordings(root / split):
            name = os.path.splitext(os.path.basename(path))[0]
            parts = name.split("-")
            if len(parts) != 3:
                skipped.append((f"{split}/{path}", "name is not {speaker}-{chapter}-{number}"))
                continue
            found.add(name)
            extra = {"split": split, "chapter": parts[1], "gender": genders.get(parts[0])}
            recordings.append(
                Recording(
                    path=f"{split}/{path}", id=name, text=texts.get(name), speaker=parts[0], language="en", extra=extra
                )
            )
        skipped += [(f"{split}/{name}", "has a text but no recording") for name in sorted(texts.keys() - found)]
    return build_from_recordings(recordings, root, skipped=skipped, num_workers=num_workers, progress=progress)


def _read_texts(folder: Path) -> dict[str, str]:
    """Texts by utterance of a split."""
    texts = {}
    for path in sorted(folder.glob("*/*/*.trans.txt")):
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            name, space, text = line.strip().partition(" ")
            if not space:
                raise ManifestError(f"{path}:{number}: no text after {name!r}; lines must be `id TEXT`")
            texts[name] = text.strip()
    return texts


def _read_genders(path: Path) -> dict[str, str]:
    """`F` or `M` by speaker; empty when the file is not there."""
    if not path.is_file():
        return {}
    rows = [line.split("|") for line in read_lines(path) if line.strip() and not line.startswith(";")]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) > 1}
