"""Libri-light: unlabelled audiobooks, and the label subsets that were cut from LibriSpeech.

Unlabelled: `{small,medium,large}/{speaker}/{book}/{file}.flac` with `{file}.json` (speaker, book, snr, voice activity).
Labelled: `librispeech_finetuning/1h/{0..5}/{clean,other}/...` and `9h/{clean,other}/...`, chapters as in LibriSpeech;
10 min is the first of the six folds, 1 h all of them, 10 h those and the nine hours.
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, find_files
from speechssl.manifest.corpora.librispeech import add_chapters

_LABELLED = "librispeech_finetuning"
_MIN_SECONDS = 0.1  # shorter stretches of voice are no speech to learn from


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """What is there of the unlabelled parts and of the label subsets.

    The unlabelled files last up to hours, so that each gives many rows: spans of consecutive voice activity, with the
    pauses within, of up to `max_span_seconds` (card). A file without a `.json` is one row. Columns: split, snr, book,
    genre; for labelled rows subset, chapter and part (clean or other).
    """
    found = Found(root=root)
    sizes = [split for split in card.splits if split != "finetuning"]
    present = [size for size in sizes if (root / size).is_dir()]
    if root.name in sizes and not present:  # one of the archives alone
        found.root, present = root.parent, [root.name]
    labelled = next((name for name in (_LABELLED, ".") if (root / name / "1h").is_dir()), None)
    for size in [size for size in present if size in splits]:
        _add_books(found, size, float(card.details["max_span_seconds"]))
    if labelled is not None and "finetuning" in splits:
        _add_labelled(found, labelled)
    if not present and labelled is None:
        raise ManifestError(
            f"{root}: holds none of the folders {', '.join(sizes)}, {_LABELLED}; --root must be where Libri-light lies"
        )
    return found


def merge_spans(voice: Sequence[tuple[float, float]], max_seconds: float) -> Iterator[tuple[float, float]]:
    """Join consecutive stretches of voice, `(start, end)` in seconds, as long as they last at most `max_seconds`.

    A single stretch that is longer stays whole.
    """
    start = end = math.nan
    for begin, stop in voice:
        if stop - start <= max_seconds:  # never true for the first
            end = stop
            continue
        if not math.isnan(start):
            yield start, end
        start, end = begin, stop
    if not math.isnan(start):
        yield start, end


def _add_books(found: Found, size: str, max_seconds: float) -> None:
    """Add the unlabelled files of one size."""
    facts = {path.removesuffix(".json"): path for path in find_files(found.root / size, {".json"})}
    without = []
    for path in find_files(found.root / size):
        name = path.rsplit(".", 1)[0]
        known = facts.pop(name, None)
        full = f"{size}/{path}"
        if known is None:
            without.append(full)
            extra = {"split": size, "book": Path(path).parent.name}
            speaker = path.split("/")[0]
            found.recordings.append(
                Recording(path=full, id=f"{size}/{name}", speaker=speaker, language="en", extra=extra)
            )
            continue
        content = _read_facts(found.root / size / known)
        spans = list(merge_spans(_voice(content, found.root / size / known), max_seconds))
        if not spans:
            found.leave_out(full, "no voice in it, says its .json", size)
        for number, (start, end) in enumerate(spans):
            found.recordings.append(
                Recording(
                    path=full,
                    id=f"{size}/{name}-{number:04d}",
                    speaker=str(content.get("speaker", path.split("/")[0])),
                    language="en",
                    offset=start,
                    duration=end - start,
                    extra={"split": size, "book": Path(path).parent.name} | _columns(content),
                )
            )
    if without:
        found.note(f"{size}: {len(without)} files have no .json and are one row each: {min(without)}", size)
    for name in sorted(facts):
        found.leave_out(f"{size}/{facts[name]}", "has a .json but no recording", size)


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read as JSON ({error}); unpack the archive again") from None
    if not isinstance(content, dict):
        raise ManifestError(f"{path}: must be a JSON object; unpack the archive again")
    return content


def _voice(content: dict[str, Any], path: Path) -> list[tuple[float, float]]:
    """Stretches of voice that last long enough to be speech."""
    try:
        spans = [(float(start), float(end)) for start, end in content["voice_activity"]]
    except (KeyError, TypeError, ValueError):
        raise ManifestError(f"{path}: has no voice_activity of the form [[start, end], ...]") from None
    return [(start, end) for start, end in spans if end - start >= _MIN_SECONDS]


def _columns(content: dict[str, Any]) -> dict[str, Any]:
    book = content.get("book_meta") or {}
    snr = content.get("snr")
    return {
        "snr": None if snr is None else float(snr),
        "title": book.get("title"),
        "genre": book.get("meta_genre"),
    }


def _add_labelled(found: Found, folder: str) -> None:
    """Add the label subsets, and note the folds that are absent."""
    prefix = "" if folder == "." else f"{folder}/"
    parts = [(f"1h/{fold}", "10min" if fold == 0 else "1h") for fold in range(6)] + [("9h", "10h")]
    for part, subset in parts:
        for quality in ("clean", "other"):
            path = f"{prefix}{part}/{quality}"
            if not (found.root / path).is_dir():
                found.note(f"{path} is not there: the subsets from {subset} on are not whole", "finetuning")
                continue
            columns = {"split": "finetuning", "subset": subset, "part": quality}
            add_chapters(found, path, split="finetuning", genders={}, columns=columns)
