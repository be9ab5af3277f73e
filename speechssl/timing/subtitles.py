"""Words as subtitles: SubRip (.srt) and WebVTT (.vtt)."""

from collections.abc import Sequence

from speechssl.timing.words import Word

# Usual limits of readable subtitles: two lines of 42 characters, seven seconds; a pause begins a new one.
MAX_CUE_CHARACTERS = 84
MAX_CUE_SECONDS = 7.0
CUE_PAUSE_SECONDS = 0.8


def to_srt(words: Sequence[Word]) -> str:
    """Words as SubRip subtitles, cut at pauses and at `MAX_CUE_SECONDS` or `MAX_CUE_CHARACTERS`.

    The format has no place for confidences.
    """
    blocks = [
        f"{number}\n{_clock(cue[0].start_seconds, ',')} --> {_clock(cue[-1].end_seconds, ',')}\n"
        f"{' '.join(word.text for word in cue)}\n"
        for number, cue in enumerate(cues(words), start=1)
    ]
    return "\n".join(blocks)


def to_vtt(words: Sequence[Word]) -> str:
    """Words as WebVTT, cut like `to_srt`; every word has its own time stamp within the cue, so players can follow.

    Confidences stand in a `NOTE` before the cue, which players skip: one number a word.
    """
    blocks = ["WEBVTT\n"]
    for cue in cues(words):
        stamped = [_escape(cue[0].text)]
        stamped += [f"<{_clock(word.start_seconds, '.')}>{_escape(word.text)}" for word in cue[1:]]
        note = ""
        if all(word.confidence is not None for word in cue):
            note = f"NOTE confidence {' '.join(f'{word.confidence:.3f}' for word in cue)}\n\n"
        times = f"{_clock(cue[0].start_seconds, '.')} --> {_clock(cue[-1].end_seconds, '.')}"
        blocks.append(f"{note}{times}\n{' '.join(stamped)}\n")
    return "\n".join(blocks)


def cues(words: Sequence[Word]) -> list[list[Word]]:
    """Words grouped into subtitles."""
    found: list[list[Word]] = []
    for word in words:
        if found and _continues(found[-1], word):
            found[-1].append(word)
        else:
            found.append([word])
    return found


def _continues(cue: Sequence[Word], word: Word) -> bool:
    return (
        word.start_seconds - cue[-1].end_seconds <= CUE_PAUSE_SECONDS
        and word.end_seconds - cue[0].start_seconds <= MAX_CUE_SECONDS
        and sum(len(part.text) + 1 for part in cue) + len(word.text) <= MAX_CUE_CHARACTERS
    )


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
