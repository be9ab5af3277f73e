"""From spans that share audio to rows: which leak between manifests, in which pairs, and which repeat within one.

Shapes: R rows of all manifests, M manifests, N spans, G groups of equal samples, P pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechssl.manifest.audit.content import HOW, Matches
from speechssl.manifest.audit.findings import Finding
from speechssl.manifest.audit.rows import Integers, Rows
from speechssl.manifest.audit.shared import Shared

Floats = npt.NDArray[np.float64]
_NAMES = tuple(HOW)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Rows of two manifests that share audio, each `[P]`; `how` is a place in `HOW`. The shared `seconds` begin `start`
    seconds into the first row's audio, `offset` seconds later there than in the second's. `score` is the correlation of
    the waveforms, 1 for equal ones.
    """

    first: Integers
    second: Integers
    how: Integers
    score: Floats
    start: Floats
    offset: Floats
    seconds: Floats

    def __len__(self) -> int:
        return len(self.first)


class Sharing:
    """Rows by the audio they hold; `group_of` `[N]` and `matches` are between spans.

    `first_row` i64 `[G, M]` is the first row of every group in every manifest, -1 where it has none.
    """

    def __init__(self, rows: Rows, group_of: Integers, matches: Matches) -> None:
        self.rows = rows
        self.matches = matches
        self.group_of_row = group_of[rows.span_of]
        num_groups = int(group_of.max(initial=-1)) + 1
        self.first_row = np.full((num_groups, len(rows.names)), -1, dtype=np.int64)
        backwards = np.arange(len(rows) - 1, -1, -1)
        self.first_row[self.group_of_row[backwards], rows.manifest_of[backwards]] = backwards
        self.one, self.other = group_of[matches.first], group_of[matches.second]

    def leak(self) -> Shared:
        """Rows whose audio is in another manifest too, as a whole or in part."""
        has = self.first_row >= 0
        reach = has.copy()
        np.logical_or.at(reach, self.one, has[self.other])
        np.logical_or.at(reach, self.other, has[self.one])
        marked = reach[self.group_of_row].T.copy()
        marked[self.rows.manifest_of, np.arange(len(self.rows))] = False
        pairs = self.pairs()
        order = np.argsort(-pairs.seconds, kind="stable")[:5]
        ids = zip(self.rows.ids(pairs.first[order]), self.rows.ids(pairs.second[order]), strict=True)
        return Shared(
            kind="audio", rows=marked, num_values=len(pairs), examples=tuple(f"{one!r} and {two!r}" for one, two in ids)
        )

    def pairs(self) -> Pairs:
        """Pairs of rows of two manifests that share audio; of rows with equal samples the first of each manifest."""
        parts = []
        for earlier in range(len(self.rows.names)):
            for later in range(earlier + 1, len(self.rows.names)):
                parts += [
                    self._equal(earlier, later),
                    self._matched(earlier, later, turned=False),
                    self._matched(earlier, later, turned=True),
                ]
        return join_pairs(parts)

    def repeated(self) -> Finding:
        """Rows whose audio an earlier row of the same manifest holds too, as a whole or in part."""
        rows, earlier, seconds = [], [], []
        mine = self.first_row[self.group_of_row, self.rows.manifest_of]
        again = np.flatnonzero(mine != np.arange(len(self.rows)))
        rows.append(again)
        earlier.append(mine[again])
        seconds.append(self.rows.duration[again])
        for manifest in range(len(self.rows.names)):
            one, other = self.first_row[self.one, manifest], self.first_row[self.other, manifest]
            both = (one >= 0) & (other >= 0) & (one != other)
            rows.append(np.maximum(one, other)[both])
            earlier.append(np.minimum(one, other)[both])
            seconds.append(self.matches.seconds[both])
        found, first = np.unique(np.concatenate(rows), return_index=True)
        shared, partner = np.concatenate(seconds)[first], np.concatenate(earlier)[first]
        order = np.argsort(-shared, kind="stable")
        texts = [
            f"{length:.1f} s of {name}"
            for length, name in zip(shared[order].tolist(), self.rows.ids(partner[order]), strict=True)
        ]
        return Finding(kind="repeated_audio", rows=found[order], texts=texts)

    def _equal(self, earlier: int, later: int) -> Pairs:
        both = np.flatnonzero((self.first_row[:, earlier] >= 0) & (self.first_row[:, later] >= 0))
        first, second = self.first_row[both, earlier], self.first_row[both, later]
        same_span = self.rows.span_of[first] == self.rows.span_of[second]
        zero = np.zeros(len(both))
        return Pairs(
            first=first,
            second=second,
            how=np.where(same_span, _NAMES.index("span"), _NAMES.index("samples")),
            score=np.ones(len(both)),
            start=zero,
            offset=zero,
            seconds=self.rows.duration[first],
        )

    def _matched(self, earlier: int, later: int, *, turned: bool) -> Pairs:
        """Matches whose first span is in the earlier manifest and whose second in the later one, or turned round."""
        m = self.matches
        one, other = (self.other, self.one) if turned else (self.one, self.other)
        first, second = self.first_row[one, earlier], self.first_row[other, later]
        here = (first >= 0) & (second >= 0)
        return Pairs(
            first=first[here],
            second=second[here],
            how=m.how[here],
            score=m.score[here],
            start=(m.start - m.offset if turned else m.start)[here],
            offset=(-m.offset if turned else m.offset)[here],
            seconds=m.seconds[here],
        )


def join_pairs(parts: Sequence[Pairs]) -> Pairs:
    """Several lists of pairs as one."""
    whole, zero = np.zeros(0, dtype=np.int64), np.zeros(0)
    empty = Pairs(first=whole, second=whole, how=whole, score=zero, start=zero, offset=zero, seconds=zero)
    names = Pairs.__dataclass_fields__
    return Pairs(**{name: np.concatenate([getattr(part, name) for part in [*parts, empty]]) for name in names})
