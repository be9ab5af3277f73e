"""Speaker verification without training a model: are two utterances of one speaker? Equal error rate of cosines.

Vectors are centred and scaled by the training part's mean and deviation; the layer is the one with the lowest equal
error rate among pairs of the training part. Training and test part share no speaker.

Shapes: N utterances, L layers, D dimensions, P pairs, B replicates, R seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.probe.classify import Labels
from speechssl.probe.results import Floats, Outcome

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Pairs of utterances as row numbers i64 `[P]` each, and whether both are of one speaker, bool `[P]`."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]


def draw_trials(speakers: Labels, *, num_pairs: int, seed: int) -> Trials:
    """All pairs, or where they are too many a seeded draw with as many of one speaker (as there are) as of two."""
    first, second = np.triu_indices(len(speakers), k=1)
    same = speakers[first] == speakers[second]
    if len(first) > num_pairs:
        random = np.random.default_rng(seed)
        of_one, of_two = np.flatnonzero(same), np.flatnonzero(~same)
        some = random.permutation(of_one)[: num_pairs // 2]
        keep = np.sort(np.concatenate([some, random.permutation(of_two)[: num_pairs - len(some)]]))
        first, second, same = first[keep], second[keep], same[keep]
    return Trials(first=first, second=second, same=same)


def equal_error_rate(scores: Floats, same: NDArray[np.bool_], weights: Floats | None = None) -> float:
    """Where as large a share of pairs of one speaker is refused as of pairs of two is accepted, ties halved.

    `scores` `[P]` are higher for pairs that seem of one speaker; the rate is linear between neighbouring thresholds.
    """
    weights = np.ones(len(scores)) if weights is None else weights
    return float(_rates(scores, same, weights[None])[0])


def _rates(scores: Floats, same: NDArray[np.bool_], weights: Floats) -> Floats:
    """Equal error rates under weights `[B, P]`."""
    order = np.argsort(scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last of each run of equal scores
    rates = []
    for row in weights:
        mine = row[order]
        one, two = np.where(same[order], mine, 0), np.where(same[order], 0, mine)
        if not one.sum() or not two.sum():
            rates.append(np.nan)
            continue
        missed = np.concatenate([[0.0], np.cumsum(one)[ends] / one.sum()])  # refused up to and with this score
        accepted = np.concatenate([[1.0], 1 - np.cumsum(two)[ends] / two.sum()])
        place = int(np.argmax(missed >= accepted))  # the curves cross between place - 1 and place
        gap = (missed - accepted)[place - 1 : place + 1]
        share = -gap[0] / (gap[1] - gap[0]) if gap[1] != gap[0] else 0.5
        rates.append(missed[place - 1] + share * (missed[place] - missed[place - 1]))
    return np.array(rates)


def cosines(vectors: Vectors, trials: Trials, like: Vectors) -> Floats:
    """Cosine of every pair of vectors `[N, D]`, standardised as the training vectors `like` `[M, D]` are."""
    scale = like.std(axis=0)
    scaled = (vectors - like.mean(axis=0)) / np.where(scale > 1e-6, scale, 1.0)
    scaled = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), 1e-12)
    products: Floats = (scaled[trials.first].astype(np.float64) * scaled[trials.second]).sum(axis=1)
    return products


def verify(
    train: Sequence[Vectors],
    test: Sequence[Vectors],
    train_speakers: Labels,
    test_speakers: Labels,
    *,
    layers: tuple[str, ...],
    num_seeds: int,
    num_pairs: int,
    num_bootstrap: int,
    seed: int,
) -> Outcome:
    """Vectors `[N, L, D]` of both parts, one for every seed or one for all -> equal error rates.

    Speakers are resampled: a pair counts as often as both of its speakers were drawn, multiplied.
    """
    count = train[0].shape[1]
    drawn = _draw_speakers(test_speakers, num_bootstrap, seed)
    values, chosen, replicates = np.zeros((num_seeds, count)), [], np.zeros((num_seeds, count, num_bootstrap))
    for number in range(num_seeds):
        mine, theirs = train[number % len(train)], test[number % len(test)]
        inner = draw_trials(train_speakers, num_pairs=num_pairs, seed=seed + number)
        outer = draw_trials(test_speakers, num_pairs=num_pairs, seed=seed + number)
        inside = [equal_error_rate(cosines(mine[:, n], inner, mine[:, n]), inner.same) for n in range(count)]
        chosen.append(int(np.argmin(inside)))
        weights = np.where(outer.same, drawn[:, outer.first], drawn[:, outer.first] * drawn[:, outer.second])
        for layer in range(count):
            scores = cosines(theirs[:, layer], outer, mine[:, layer])
            values[number, layer] = equal_error_rate(scores, outer.same)
            replicates[number, layer] = _rates(scores, outer.same, weights)
    picked = np.random.default_rng(seed).integers(num_seeds, size=num_bootstrap)
    every = np.arange(num_bootstrap)
    replicates = np.where(np.isnan(replicates), values[:, :, None], replicates)
    return Outcome(
        layers=layers,
        values=values,
        replicates=replicates[picked, :, every].T,
        chosen_replicates=replicates[picked, np.array(chosen)[picked], every],
        chosen=tuple(chosen),
        dimension=train[0].shape[2],
    )


def _draw_speakers(speakers: Labels, num_bootstrap: int, seed: int) -> Floats:
    """How often the speaker of each utterance was drawn, `[B, N]`."""
    numbers = np.unique(speakers, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=num_bootstrap)
    return np.asarray(drawn[:, numbers], dtype=np.float64)
