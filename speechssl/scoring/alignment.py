"""Which word of a hypothesis stands against which word of its reference.

Two rules are known in the field, and they do not always count the same:

- `levenshtein`: the fewest errors, every error costs 1. This is what jiwer and most papers since count, and ours unless
  told otherwise. The alignment among those of fewest errors is jiwer's (RapidFuzz's).
- `sclite`: NIST's sclite gives a substitution the cost 4 and an insertion or deletion 3, and counts the errors of the
  cheapest alignment. As three insertions with three deletions (18) cost less than five substitutions (20), it may count
  more errors than there need be, and finds more words right.
"""

from collections.abc import Sequence
from typing import Literal

AlignmentMethod = Literal["levenshtein", "sclite"]
Chunk = tuple[str, str, str]
"""`(kind, reference words, hypothesis words)`, kind one of `equal`, `substitute`, `delete`, `insert`."""

_SUBSTITUTION, _GAP = 4, 3  # sclite's costs
_DIAGONAL, _DELETION, _INSERTION = 0, 1, 2


def align_as_sclite(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[Chunk, ...]:
    """The cheapest alignment by sclite's costs, as chunks of one kind each; time and memory are len x len.

    Of equally cheap ones it is that which, read from the end, prefers a pair of words, then an insertion: sclite's own.
    """
    return _chunks(_backtrace(reference, hypothesis), reference, hypothesis)


def _backtrace(reference: Sequence[str], hypothesis: Sequence[str]) -> list[int]:
    """Moves from the beginning to the end."""
    width = len(hypothesis) + 1
    costs = [_GAP * column for column in range(width)]
    moves = [[_INSERTION] * width]
    for word in reference:
        above, row = costs, [_DELETION] * width
        costs = [above[0] + _GAP]
        for column in range(1, width):
            pair = above[column - 1] + (0 if word == hypothesis[column - 1] else _SUBSTITUTION)
            deletion, insertion = above[column] + _GAP, costs[column - 1] + _GAP
            best = min(pair, deletion, insertion)
            costs.append(best)
            row[column] = _DIAGONAL if best == pair else _INSERTION if best == insertion else _DELETION
        moves.append(row)
    path = []
    row_number, column = len(reference), len(hypothesis)
    while row_number or column:
        move = moves[row_number][column]
        path.append(move)
        row_number -= move != _INSERTION
        column -= move != _DELETION
    return path[::-1]


def _chunks(path: Sequence[int], reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[Chunk, ...]:
    found: list[tuple[str, list[str], list[str]]] = []
    said, heard = iter(reference), iter(hypothesis)
    for move in path:
        above = None if move == _INSERTION else next(said)
        below = None if move == _DELETION else next(heard)
        kind = "insert" if above is None else "delete" if below is None else "equal" if above == below else "substitute"
        if not found or found[-1][0] != kind:
            found.append((kind, [], []))
        if above is not None:
            found[-1][1].append(above)
        if below is not None:
            found[-1][2].append(below)
    return tuple((kind, " ".join(above), " ".join(below)) for kind, above, below in found)
