"""ABX discrimination (Schatz et al. 2013), query by example without training: X is nearer to A, of its own kind, than
to B of another kind.

Distances are the mean cosine distance along the best path of dynamic time warping. With `across`, A and B agree in a
column (speaker) in which X differs from both. The layer is the one with the fewest errors among triples of the training
part.

Shapes: L layers, T frames, D dimensions, N triples, R seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.alignments import Alignments
from speechssl.data import OnError
from speechssl.errors import ConfigError
from speechssl.frames import FrameSource
from speechssl.manifest import Manifest
from speechssl.probe.classify import Labels
from speechssl.probe.results import Floats

_MIN_SPAN_FRAMES = 2


@dataclass(frozen=True, kw_only=True)
class Items:
    """Spans of utterances with their kind: `spans` are (start, end) in seconds, None for whole utterances."""

    ids: Labels
    kinds: Labels
    contexts: Labels | None
    spans: Sequence[tuple[float, float] | None]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Triples:
    """Item numbers of A, B and X, i64 `[N]` each."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    x: NDArray[np.int64]

    @property
    def items(self) -> set[int]:
        """All that occur."""
        return set(np.concatenate([self.a, self.b, self.x]).tolist())


def aligned_items(ids: Labels, contexts: Labels | None, alignments: Alignments) -> Items:
    """The aligned spans of some utterances as items."""
    found = [
        (str(name), span, "" if contexts is None else str(contexts[row]))
        for row, name in enumerate(ids)
        for span in alignments.get(str(name), ())
    ]
    return Items(
        ids=np.array([name for name, _, _ in found], dtype=np.str_),
        kinds=np.array([span.label for _, span, _ in found], dtype=np.str_),
        contexts=None if contexts is None else np.array([context for _, _, context in found], dtype=np.str_),
        spans=[(span.start, span.end) for _, span, _ in found],
    )


def draw_triples(items: Items, num_triples: int, *, seed: int, part: str) -> Triples:
    """Seeded triples; kinds get equal chances whatever their frequency.

    Raises:
        ConfigError: no triple of this kind exists.
    """
    random = np.random.default_rng([seed, 1])
    kinds = np.unique(items.kinds)
    contexts = np.full(len(items), "") if items.contexts is None else items.contexts
    found: list[tuple[int, int, int]] = []
    for _ in range(20 * num_triples):  # a draw without a partner is drawn again
        if len(found) == num_triples or len(kinds) < 2:
            break
        x = int(random.choice(np.flatnonzero(items.kinds == random.choice(kinds))))
        elsewhere = contexts != contexts[x] if items.contexts is not None else contexts == contexts[x]
        same = np.flatnonzero((items.kinds == items.kinds[x]) & elsewhere & (np.arange(len(items)) != x))
        if not len(same):
            continue
        a = int(random.choice(same))
        other = np.flatnonzero((items.kinds == random.choice(kinds)) & (contexts == contexts[a]))
        if not len(other) or items.kinds[other[0]] == items.kinds[x]:
            continue
        found.append((a, int(random.choice(other)), x))
    if not found:
        raise ConfigError(
            f"the {part} part of {len(items)} recordings has no triple, two of one kind and one of another"
            f"{', across values of the column' if items.contexts is not None else ''}; give more recordings"
        )
    drawn = np.array(found, dtype=np.int64)
    return Triples(a=drawn[:, 0], b=drawn[:, 1], x=drawn[:, 2])


def load_items(
    manifest: Manifest, source: FrameSource, items: Items, wanted: set[int], *, on_error: OnError
) -> dict[int, NDArray[np.float16]]:
    """Unit-length frames `[L, T, D]` of the wanted items, in half precision; without those that cannot be used."""
    by_id: dict[str, list[int]] = {}
    for number in sorted(wanted):
        by_id.setdefault(str(items.ids[number]), []).append(number)
    rows = manifest.filter(np.isin(manifest.column("id").to_pylist(), list(by_id)))
    found: dict[int, NDArray[np.float16]] = {}
    for name, frames in source.stream(rows, on_error=on_error):
        scaled = frames / np.maximum(np.linalg.norm(frames, axis=2, keepdims=True), 1e-9)
        times = source.times(frames.shape[1])
        for number in by_id[name]:
            span = items.spans[number]
            inside = scaled
            if span is not None:
                keep = (times >= span[0]) & (times < span[1])
                if keep.sum() < _MIN_SPAN_FRAMES:  # so short that the frames around its middle stand for it
                    keep = np.zeros(len(times), dtype=bool)
                    keep[np.argsort(abs(times - sum(span) / 2), kind="stable")[:_MIN_SPAN_FRAMES]] = True
                inside = scaled[:, keep]
            found[number] = inside.astype(np.float16)
    return found


def warped_distance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Mean cosine distance along the cheapest warping path between unit-length frames `[T, D]` and `[U, D]`."""
    from librosa.sequence import dtw

    costs = np.maximum(1 - first @ second.T, 0).astype(np.float64)
    totals, path = dtw(C=costs, backtrack=True)
    return float(totals[-1, -1] / len(path))


def triple_errors(triples: Triples, frames: Mapping[int, NDArray[np.float16]]) -> Floats:
    """1 where X is nearer to B, 0.5 for a tie, 0 where it is nearer to A: `[L, N]`."""
    num_layers = len(next(iter(frames.values())))
    errors = np.zeros((num_layers, len(triples.x)))
    for place, (a, b, x) in enumerate(zip(triples.a, triples.b, triples.x, strict=True)):
        for layer in range(num_layers):
            mine = frames[int(x)][layer].astype(np.float32)
            near, far = (warped_distance(frames[int(n)][layer].astype(np.float32), mine) for n in (a, b))
            errors[layer, place] = 0.5 if near == far else float(near > far)
    return errors
