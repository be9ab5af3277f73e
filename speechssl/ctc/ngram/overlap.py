"""Sentences of a test that stand in a training text too."""

from collections.abc import Collection, Sequence

MIN_CONTAINED_WORDS = 4
"""Shorter sentences (`thank you`) are found as whole lines only: inside others they say nothing of a leak."""

EQUAL = "a sentence that is tested on"
CONTAINS = "holds a sentence that is tested on"


def find_overlaps(lines: Sequence[str], tested: Collection[str], *, whole: bool = False) -> dict[int, str]:
    """Rows of `lines` that are, or hold word by word, one of the sentences `tested`, with the reason.

    Texts are normalised already. `whole` compares whole lines only.
    """
    sentences = set(tested)
    by_beginning: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    if not whole:
        for sentence in sentences:
            words = tuple(sentence.split())
            if len(words) >= MIN_CONTAINED_WORDS:
                by_beginning.setdefault(words[:MIN_CONTAINED_WORDS], []).append(words)
    found = {}
    for row, line in enumerate(lines):
        if line in sentences:
            found[row] = EQUAL
        elif by_beginning and _holds(tuple(line.split()), by_beginning):
            found[row] = CONTAINS
    return found


def _holds(words: tuple[str, ...], by_beginning: dict[tuple[str, ...], list[tuple[str, ...]]]) -> bool:
    for start in range(len(words) - MIN_CONTAINED_WORDS + 1):
        for sentence in by_beginning.get(words[start : start + MIN_CONTAINED_WORDS], ()):
            if words[start : start + len(sentence)] == sentence:
                return True
    return False
