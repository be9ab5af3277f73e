"""Words as lines and tiers: CTM (sclite, Kaldi), TextGrid (Praat) and entries for JSON."""

import re
from collections.abc import Sequence
from typing import Any

from speechssl.timing.words import Character, Word

_PLACES = 3  # milliseconds; a frame lasts 20


def to_ctm(words: Sequence[Word], *, recording: str, channel: str = "1") -> str:
    """NIST's time-marked conversation format: `recording channel start duration word confidence`, a line a word.

    White space in the recording's name becomes `_`, since columns are split at it; a confidence that is not known is
    left out, as the format allows.
    """
    name = re.sub(r"\s+", "_", recording)
    lines = []
    for word in words:
        duration = word.end_seconds - word.start_seconds
        confidence = "" if word.confidence is None else f" {word.confidence:.4f}"
        lines.append(f"{name} {channel} {word.start_seconds:.3f} {duration:.3f} {word.text}{confidence}\n")
    return "".join(lines)


def to_textgrid(words: Sequence[Word], *, duration_seconds: float) -> str:
    """Praat's long text format with the interval tiers `words`, `characters` and `confidence` (the latter two where
    they are known).

    A tier covers the recording without gaps, so silence is an empty interval; of intervals that overlap by rounding the
    earlier ends where the next begins, and what would have no length is left out, since Praat refuses it.
    """
    tiers = [("words", [(word.start_seconds, word.end_seconds, word.text) for word in words])]
    characters: list[Character] = [character for word in words for character in word.characters]
    if characters:
        tiers.append(("characters", [(c.start_seconds, c.end_seconds, c.text) for c in characters]))
    if words and all(word.confidence is not None for word in words):
        tiers.append(("confidence", [(w.start_seconds, w.end_seconds, f"{w.confidence:.3f}") for w in words]))
    end = max([duration_seconds, *(word.end_seconds for word in words)])
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    lines += ["xmin = 0", f"xmax = {_number(end)}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for index, (name, intervals) in enumerate(tiers, start=1):
        filled = _without_gaps(intervals, end)
        lines += [f"    item [{index}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {_number(end)}", f"        intervals: size = {len(filled)}"]
        for number, (start, stop, text) in enumerate(filled, start=1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{number}]:", f"            xmin = {_number(start)}"]
            lines += [f"            xmax = {_number(stop)}", f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


def to_entries(words: Sequence[Word]) -> list[dict[str, Any]]:
    """Words for JSON: `word`, `start`, `end`, and `confidence` and `characters` where they are known."""
    return [
        {
            "word": word.text,
            "start": word.start_seconds,
            "end": word.end_seconds,
            **_confidence(word.confidence),
            **({"characters": [_character(c) for c in word.characters]} if word.characters else {}),
        }
        for word in words
    ]


def _character(character: Character) -> dict[str, Any]:
    times = {"start": character.start_seconds, "end": character.end_seconds}
    return {"character": character.text, **times, **_confidence(character.confidence)}


def _confidence(value: float | None) -> dict[str, float]:
    return {} if value is None else {"confidence": round(value, 4)}


def _without_gaps(intervals: Sequence[tuple[float, float, str]], end: float) -> list[tuple[float, float, str]]:
    filled: list[tuple[float, float, str]] = []
    place = 0.0
    for index, (start, stop, text) in enumerate(intervals):
        following = intervals[index + 1][0] if index + 1 < len(intervals) else end
        start = max(round(start, _PLACES), place)
        stop = round(min(stop, max(following, start)), _PLACES)
        if stop <= start:
            continue
        if start > place:
            filled.append((place, start, ""))
        filled.append((start, stop, text))
        place = stop
    if place < end or not filled:
        filled.append((place, end, ""))
    return filled


def _number(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".") or "0"
