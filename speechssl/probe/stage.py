"""The stage: representations of the same utterances, probed for one column of their manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.encoder import SpeechEncoder
from speechssl.manifest import Manifest
from speechssl.probe.classify import (
    Choice,
    LayerScore,
    ProbeScore,
    best_choice,
    bootstrap_accuracies,
    choose_each,
    count_hits,
    differences,
)
from speechssl.probe.features import BASELINES, LayerVectors
from speechssl.probe.parts import (
    Part,
    check_left,
    check_parts,
    draw_training,
    labelled_part,
    load_parts,
    majority,
    strings,
)
from speechssl.probe.results import write_result
from speechssl.probe.settings import ProbeConfig, ProbeResult
from speechssl.probe.sources import check_names, frame_sources, layer_names, open_representations, utterance_vectors
from speechssl.progress import Tell
from speechssl.scoring.bootstrap import interval


@dataclass(frozen=True, kw_only=True)
class Representation:
    """Vectors `[layers, D]` of every utterance, for each seed in turn (one for all seeds unless it is random)."""

    vectors: Sequence[LayerVectors]
    layers: tuple[str, ...]

    def stack(self, part: Part, seed: int) -> NDArray[np.float32]:
        """Vectors `[N, layers, D]` of a part."""
        found = self.vectors[seed % len(self.vectors)]
        return np.stack([found[str(name)] for name in part.ids])


def run(config: ProbeConfig, *, progress: Tell | None = None) -> ProbeResult:
    """Probe manifests and checkpoints as configured; writes `output/probe.json` where an output is named.

    Raises:
        ConfigError: a setting, or a column that it names, does not fit the manifest.
        ManifestError, CheckpointError: an input cannot be read.
        AudioError: too few recordings can be used.
    """
    train, test = load_parts(config)
    baselines, encoders = open_representations(config)
    result = probe(train, test, encoders, config=config, baselines=baselines, progress=progress)
    if config.output is not None:
        write_result(config.output, result.to_dict())
    return result


def probe(
    train: Manifest,
    test: Manifest,
    encoders: Mapping[str, SpeechEncoder],
    *,
    config: ProbeConfig,
    baselines: Sequence[str] = BASELINES,
    progress: Tell | None = None,
) -> ProbeResult:
    """Probe baselines and encoders on a training and a test part.

    For each seed the training utterances are drawn; layer and strength of regularisation are chosen on them by
    cross-validation; the classifier of all of them is then counted on the test part, on which nothing is chosen. The
    random encoder of a seed has weights drawn from that seed.

    Args:
        train: the training part, with the column `config.label`.
        test: the test part.
        encoders: name -> encoder.
        config: label, group, pooling, layer and seeds; its paths and `representations` are not looked at.
        baselines: some of `log_mel`, `mfcc`, `random` (the first encoder's architecture).
        progress: called with a line about what is being done.

    Raises:
        ConfigError: no such column, fewer than two classes, parts that overlap, or `random` without an encoder.
        AudioError: too few recordings can be used.
    """
    tell = progress or (lambda line: None)
    check_names(baselines, encoders)
    train_part, test_part = labelled_part(train, config), labelled_part(test, config)
    unlabelled = len(train) + len(test) - len(train_part.ids) - len(test_part.ids)
    check_parts(train_part, test_part, config)
    draws = [train_part.select(rows) for rows in draw_training(train_part, config)]
    used = [train.filter(np.isin(strings(train, "id"), np.concatenate([draw.ids for draw in draws])))]
    used.append(test.filter(np.isin(strings(test, "id"), test_part.ids)))
    failures: dict[str, str] = {}
    found: dict[str, Representation] = {}
    for name in [*baselines, *encoders]:
        tell(f"{name}: vectors of {sum(map(len, used))} utterances")
        found[name] = _represent(name, used, encoders, config, failures)
    draws = [draw.without(list(failures)) for draw in draws]
    test_part = test_part.without(list(failures))
    check_left(draws, test_part, config, failures)
    counted: dict[str, _Counted] = {}
    for name, representation in found.items():
        tell(f"{name}: classifiers")
        counted[name] = _classify(representation, draws, test_part, config)
    hits = {name: found_hits.hits for name, found_hits in counted.items()}
    rates, unit = bootstrap_accuracies(
        list(hits.values()), test_part.groups, num_bootstrap=config.num_bootstrap, seed=config.seed
    )
    replicates = dict(zip(hits, rates, strict=True))
    means = {name: float(found_hits.mean()) for name, found_hits in hits.items()}
    return ProbeResult(
        label=config.label,
        scores=tuple(_score(name, counted[name], replicates[name], found[name], test_part, config) for name in found),
        differences=tuple(differences(means, replicates, baselines, config.confidence)),
        num_train=len(draws[0].ids),
        num_test=len(test_part.ids),
        num_classes=len(set(train_part.labels)),
        num_seeds=config.num_seeds,
        pool=config.pool,
        confidence=config.confidence,
        interval_over=unit if config.group is None or unit == "utterances" else f"values of {config.group}",
        majority=float(np.mean([majority(draw, test_part) for draw in draws])),
        skipped=tuple(failures.items()),
        unlabelled=unlabelled,
    )


def _represent(
    name: str,
    manifests: Sequence[Manifest],
    encoders: Mapping[str, SpeechEncoder],
    config: ProbeConfig,
    failures: dict[str, str],
) -> Representation:
    """Vectors of all utterances; those without go into `failures`."""
    vectors: list[LayerVectors] = []
    layers: tuple[str, ...] = ()
    for source in frame_sources(name, encoders, config):
        vectors.append(utterance_vectors(source, manifests, config.pool, failures))
        layers = layer_names(source)
    return Representation(vectors=vectors, layers=layers)


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """`every` hits `[R, L, N]` on the test part (L = 1 where only the chosen layer is counted), and the choices."""

    every: NDArray[np.float64]
    choices: Sequence[Choice]

    @property
    def hits(self) -> NDArray[np.float64]:
        """Hits `[R, N]` of the layers that were chosen."""
        if self.every.shape[1] == 1:
            return self.every[:, 0]
        return np.stack([hits[choice.layer] for hits, choice in zip(self.every, self.choices, strict=True)])


def _classify(representation: Representation, draws: Sequence[Part], test: Part, config: ProbeConfig) -> _Counted:
    """Hits on the test part, and what was chosen for each seed inside its training utterances."""
    rows: list[NDArray[np.float64]] = []
    choices: list[Choice] = []
    same = config.num_train is None and len(representation.vectors) == 1  # then seeds would only repeat the work
    for seed, draw in enumerate(draws):
        if same and seed:
            rows.append(rows[0])
            choices.append(choices[0])
            continue
        train_vectors, test_vectors = representation.stack(draw, seed), representation.stack(test, seed)
        found = choose_each(train_vectors, draw.labels, draw.groups, seed=config.seed + seed)
        choices.append(best_choice(found))
        counted = found if config.layerwise else [choices[-1]]
        rows.append(
            np.stack(
                [
                    count_hits(
                        train_vectors[:, choice.layer],
                        draw.labels,
                        test_vectors[:, choice.layer],
                        test.labels,
                        strength=choice.strength,
                    )
                    for choice in counted
                ]
            )
        )
    return _Counted(every=np.stack(rows), choices=choices)


def _score(
    name: str,
    counted: _Counted,
    replicates: NDArray[np.float64],
    representation: Representation,
    test: Part,
    config: ProbeConfig,
) -> ProbeScore:
    hits, choices = counted.hits, counted.choices
    layerwise: list[LayerScore] = []
    if config.layerwise and len(representation.layers) > 1:
        every = [counted.every[:, layer] for layer in range(counted.every.shape[1])]
        rates, _ = bootstrap_accuracies(every, test.groups, num_bootstrap=config.num_bootstrap, seed=config.seed)
        layerwise = [
            LayerScore(layer=layer, value=float(one.mean()), interval=interval(rate, config.confidence))
            for layer, one, rate in zip(representation.layers, every, rates, strict=True)
        ]
    return ProbeScore(
        name=name,
        accuracy=float(hits.mean()),
        interval=interval(replicates, config.confidence),
        seed_accuracies=tuple(float(rate) for rate in hits.mean(axis=1)),
        layers=tuple(representation.layers[choice.layer] for choice in choices) if representation.layers else (),
        strengths=tuple(choice.strength for choice in choices),
        dimension=int(next(iter(representation.vectors[0].values())).shape[1]),
        layerwise=tuple(layerwise),
    )
