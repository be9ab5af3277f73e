"""Classification of single frames by a linear classifier: characters or phones of an alignment.

Shapes: N frames, L layers, D dimensions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.alignments import Alignments, frame_labels
from speechssl.data import OnError
from speechssl.frames import FrameSource
from speechssl.manifest import Manifest
from speechssl.probe.classify import DEFAULT_STRENGTH, Choice, Labels, count_hits

STRENGTHS = (1e-2, 1e-1, 1.0)  # frames are many, so the search is shorter than that of utterances
INNER_SHARE = 0.2
GRID_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class LabelledFrames:
    """`frames` `[N, L, D]`, their labels and the utterances they are of, `[N]` each; `draws` bool `[R, N]`."""

    frames: NDArray[np.float32]
    labels: Labels
    owners: Labels
    draws: NDArray[np.bool_]

    def select(self, keep: NDArray[np.bool_]) -> "LabelledFrames":
        """Some of them."""
        return LabelledFrames(
            frames=self.frames[keep], labels=self.labels[keep], owners=self.owners[keep], draws=self.draws[:, keep]
        )


@dataclass(frozen=True, kw_only=True)
class Moments:
    """When to look at an utterance: `times` in seconds and labels `[n]`, and which seeds drew them, bool `[R, n]`."""

    times: NDArray[np.float64]
    labels: Labels
    draws: NDArray[np.bool_]


def draw_moments(ids: Labels, alignments: Alignments, *, max_frames: int, seeds: Sequence[int]) -> dict[str, Moments]:
    """For each seed a draw of labelled moments, from a grid of 20 ms, of all the utterances together."""
    grids: dict[str, tuple[NDArray[np.float64], Labels]] = {}
    for name in map(str, ids):
        spans = alignments.get(name, ())
        if spans:
            times: NDArray[np.float64] = np.asarray(
                GRID_SECONDS * (np.arange(int(max(span.end for span in spans) / GRID_SECONDS)) + 0.5), dtype=np.float64
            )
            found = frame_labels(spans, times)
            grids[name] = (times[found != ""], found[found != ""])
    total = sum(len(times) for times, _ in grids.values())
    draws = np.zeros((len(seeds), total), dtype=bool)
    for row, seed in zip(draws, seeds, strict=True):
        row[np.random.default_rng(seed).permutation(total)[:max_frames]] = True
    moments: dict[str, Moments] = {}
    first = 0
    for name, (times, labels) in grids.items():
        mine = draws[:, first : first + len(times)]
        first += len(times)
        chosen = mine.any(axis=0)
        if chosen.any():
            moments[name] = Moments(times=times[chosen], labels=labels[chosen], draws=mine[:, chosen])
    return moments


def gather(
    manifest: Manifest, source: FrameSource, moments: Mapping[str, Moments], *, on_error: OnError
) -> LabelledFrames:
    """The frame whose centre is nearest to each moment, so that every representation is asked about the same speech.

    Utterances that cannot be used are missing.
    """
    rows = manifest.filter(np.isin(manifest.column("id").to_pylist(), list(moments)))
    found: dict[str, NDArray[np.float32]] = {}
    for name, frames in source.stream(rows, on_error=on_error):
        places = np.abs(source.times(frames.shape[1])[None] - moments[name].times[:, None]).argmin(axis=1)
        found[name] = np.ascontiguousarray(frames[:, places].transpose(1, 0, 2))
    names = [name for name in moments if name in found]
    shape = (0, len(source.layers) or 1, source.dimension)
    num_draws = len(next(iter(moments.values())).draws)
    return LabelledFrames(
        frames=np.concatenate([np.zeros(shape, dtype=np.float32), *(found[name] for name in names)]),
        labels=np.concatenate([np.zeros(0, dtype="<U1"), *(moments[name].labels for name in names)]),
        owners=np.repeat(np.array(names, dtype=np.str_), [len(found[name]) for name in names]),
        draws=np.concatenate([np.zeros((num_draws, 0), dtype=bool), *(moments[name].draws for name in names)], axis=1),
    )


def choose_inside(train: LabelledFrames, *, seed: int) -> list[Choice]:
    """For each layer the strength with the best accuracy on a fifth of the training utterances, held out."""
    owners = np.unique(train.owners)
    held = np.random.default_rng([seed, 2]).permutation(owners)[: max(1, round(INNER_SHARE * len(owners)))]
    inner = np.isin(train.owners, held)
    choices = []
    for layer in range(train.frames.shape[1]):
        vectors = train.frames[:, layer]
        if inner.all() or len(set(train.labels[~inner])) < 2:
            choices.append(Choice(layer=layer, strength=DEFAULT_STRENGTH, accuracy=None))
            continue
        rates = [
            count_hits(vectors[~inner], train.labels[~inner], vectors[inner], train.labels[inner], strength=c).mean()
            for c in STRENGTHS
        ]
        best = int(np.argmax(rates))
        choices.append(Choice(layer=layer, strength=STRENGTHS[best], accuracy=float(rates[best])))
    return choices


def count_layers(train: LabelledFrames, test: LabelledFrames, choices: Sequence[Choice]) -> NDArray[np.float64]:
    """1 for every test frame that the classifier of each layer labels rightly, else 0: `[L, N]`."""
    return np.stack(
        [
            count_hits(
                train.frames[:, choice.layer],
                train.labels,
                test.frames[:, choice.layer],
                test.labels,
                strength=choice.strength,
            )
            for choice in choices
        ]
    )
