"""LibriSpeech: `{split}/{speaker}/{chapter}/{speaker}-{chapter}-{number}.flac` with a `.trans.txt` in each chapter."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, descend, find_files, read_id_texts, stem
from speechssl.manifest.transcripts import read_lines


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """Every split that is there, with the columns split and chapter (and gender, from SPEAKERS.TXT)."""
    found = Found(root=descend(root, "LibriSpeech"))
    present = [split for split in card.splits if (found.root / split).is_dir()]
    if not present:
        raise ManifestError(
            f"{found.root}: holds none of the folders {', '.join(card.splits)}; --root must be the unpacked LibriSpeech"
        )
    genders = _read_genders(found.root / "SPEAKERS.TXT")
    for split in [split for split in present if split in splits]:
        add_chapters(found, split, split=split, genders=genders, columns={"split": split})
    return found


def add_chapters(
    found: Found, folder: str, *, split: str, genders: Mapping[str, str], columns: Mapping[str, Any]
) -> None:
    """Add the chapters below a folder of the corpus, which have the same `columns`, and what is amiss in them."""
    texts: dict[str, str] = {}
    for path in find_files(found.root / folder, {".txt"}):
        if path.endswith(".trans.txt"):
            texts |= read_id_texts(found.root / folder / path)
    untold = []
    for path in find_files(found.root / folder):
        name = stem(path)
        parts = name.split("-")
        if len(parts) != 3:
            found.leave_out(f"{folder}/{path}", "name is not {speaker}-{chapter}-{number}", split)
            continue
        text = texts.pop(name, None)
        if text is None:
            untold.append(f"{folder}/{path}")
        extra = {**columns, "chapter": parts[1], "gender": genders.get(parts[0])}
        found.recordings.append(
            Recording(path=f"{folder}/{path}", id=name, text=text, speaker=parts[0], language="en", extra=extra)
        )
    found.note_untold(folder, untold, split)
    found.leave_out_texts(folder, [f"{folder}/{name}" for name in texts], split)


def _read_genders(path: Path) -> dict[str, str]:
    """`F` or `M` by speaker; empty when the file is not there."""
    if not path.is_file():
        return {}
    rows = [line.split("|") for line in read_lines(path) if line.strip() and not line.startswith(";")]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) > 1}
