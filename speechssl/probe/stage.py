"""The stage: representations of the same utterances, probed for one column of their manifest."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.encoder import SpeechEncoder, resolve_device
from speechssl.errors import AudioError, ConfigError
from speechssl.frames import CONTEXT, Layer, check_layer
from speechssl.interop import load_encoder
from speechssl.manifest import Manifest
from speechssl.probe.classify import (
    Choice,
    Difference,
    LayerScore,
    ProbeScore,
    best_choice,
    bootstrap_accuracies,
    choose_each,
    count_hits,
    interval,
)
from speechssl.probe.features import BASELINES, LayerVectors, encoder_vectors, feature_vectors
from speechssl.probe.parts import Part, check_left, check_parts, draw_training, labelled_part, majority, split, strings
from speechssl.probe.settings import ProbeConfig, ProbeResult
from speechssl.types import Utterance

RESULT_NAME = "probe.json"
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Representation:
    """Vectors `[layers, D]` of every utterance, for each seed in turn (one for all seeds unless it is random)."""

    vectors: Sequence[LayerVectors]
    layers: tuple[str, ...]

    def stack(self, part: Part, seed: int) -> NDArray[np.float32]:
        """Vectors `[N, layers, D]` of a part."""
        found = self.vectors[seed % len(self.vectors)]
        return np.stack([found[str(name)] for name in part.ids])


def run(config: ProbeConfig, *, progress: Progress | None = None) -> ProbeResult:
    """Probe manifests and checkpoints as configured; writes `output/probe.json` where an output is named.

    Raises:
        ConfigError: a setting, or a column that it names, does not fit the manifest.
        ManifestError, CheckpointError: an input cannot be read.
        AudioError: too few recordings can be used.
    """
    manifest = Manifest.load(config.manifest)
    if config.test_manifest is not None:
        train, test = manifest, Manifest.load(config.test_manifest)
    else:
        train, test = split(manifest, config)
    baselines, encoders = open_representations(config)
    result = probe(train, test, encoders, config=config, baselines=baselines, progress=progress)
    if config.output is not None:
        write_result(config.output, result.to_dict())
    return result


def open_representations(config: ProbeConfig) -> tuple[list[str], dict[str, SpeechEncoder]]:
    """The baselines that are named, and the encoders by name.

    Raises:
        ConfigError: a name is given twice.
        CheckpointError: a checkpoint cannot be read.
    """
    encoders: dict[str, SpeechEncoder] = {}
    for word in config.representations:
        name, equals, source = word.partition("=")
        if not equals or Path(word).exists():  # a path may hold the sign too
            name = source = word
        if name in encoders:
            raise ConfigError(f"two representations are called {name!r}; name them apart as NAME=CHECKPOINT")
        if word not in BASELINES:
            encoders[name] = load_encoder(source, device=resolve_device(config.device))
    return [name for name in config.representations if name in BASELINES], encoders


def write_result(folder: Path, values: Mapping[str, Any]) -> None:
    """Write `probe.json`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{RESULT_NAME}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, folder / RESULT_NAME)


def probe(
    train: Manifest,
    test: Manifest,
    encoders: Mapping[str, SpeechEncoder],
    *,
    config: ProbeConfig,
    baselines: Sequence[str] = BASELINES,
    progress: Progress | None = None,
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
    return ProbeResult(
        label=config.label,
        scores=tuple(_score(name, counted[name], replicates[name], found[name], test_part, config) for name in found),
        differences=tuple(_differences(hits, replicates, baselines, config.confidence)),
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

    def failed(utterance: Utterance, error: AudioError) -> None:
        failures.setdefault(utterance.id, str(error))

    if name in ("log_mel", "mfcc"):
        vectors: LayerVectors = {}
        for manifest in manifests:
            vectors |= feature_vectors(manifest, name, pool=config.pool, on_error=failed)  # type: ignore[arg-type]
        return Representation(vectors=[_finite(vectors, failures)], layers=())
    if name == "random":
        like = next(iter(encoders.values()))
        seeds = [config.seed + number for number in range(config.num_seeds)]
        sources: Iterator[SpeechEncoder] = (SpeechEncoder(like.config, seed=seed).to(like.device) for seed in seeds)
    else:
        sources = iter([encoders[name]])
    every: list[LayerVectors] = []
    layers: list[Layer] = []
    for encoder in sources:
        layers = _layers(name, encoder, config)
        vectors = {}
        for manifest in manifests:
            vectors |= encoder_vectors(
                manifest,
                encoder,
                layers=layers,
                pool=config.pool,
                on_error=failed,
                batch_seconds=config.batch_seconds,
            )
        every.append(_finite(vectors, failures))
    return Representation(vectors=every, layers=tuple(map(str, layers)))


def _finite(vectors: LayerVectors, failures: dict[str, str]) -> LayerVectors:
    for name, values in vectors.items():
        if not np.isfinite(values).all():
            failures.setdefault(name, f"{name}: its vectors are not finite; listen to the recording")
    return vectors


def _layers(name: str, encoder: SpeechEncoder, config: ProbeConfig) -> list[Layer]:
    if config.layer is None:
        return [*range(encoder.config.num_layers + 1), CONTEXT]
    return [check_layer(config.layer, encoder, name)]


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


def _differences(
    hits: Mapping[str, NDArray[np.float64]],
    replicates: Mapping[str, NDArray[np.float64]],
    baselines: Sequence[str],
    confidence: float,
) -> list[Difference]:
    return [
        Difference(
            name=name,
            baseline=baseline,
            difference=float(hits[name].mean() - hits[baseline].mean()),
            interval=interval(replicates[name] - replicates[baseline], confidence),
        )
        for name in hits
        if name not in baselines
        for baseline in baselines
    ]


def check_names(baselines: Sequence[str], encoders: Mapping[str, SpeechEncoder]) -> None:
    """Refuse unknown baselines, encoders with a baseline's name, and a random baseline without an architecture."""
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise ConfigError(f"no baseline is called {unknown[0]!r}; there are {', '.join(BASELINES)}")
    clash = [name for name in encoders if name in BASELINES]
    if clash:
        raise ConfigError(f"an encoder cannot be called {clash[0]!r}, as a baseline is; give it another name")
    if "random" in baselines and not encoders:
        raise ConfigError("the random baseline needs an encoder's architecture; name a checkpoint too, or leave it out")
