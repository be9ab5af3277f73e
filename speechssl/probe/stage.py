"""The stage: representations of the same utterances, probed for one column of their manifest."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.encoder import SpeechEncoder, resolve_device
from speechssl.errors import AudioError, ConfigError
from speechssl.interop import load_encoder
from speechssl.manifest import Manifest
from speechssl.probe.classify import (
    Choice,
    Difference,
    ProbeScore,
    bootstrap_accuracies,
    choose,
    count_hits,
    interval,
)
from speechssl.probe.features import BASELINES, CONTEXT, Layer, LayerVectors, encoder_vectors, feature_vectors
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
    encoders: dict[str, SpeechEncoder] = {}
    for word in config.representations:
        name, equals, source = word.partition("=")
        if not equals or Path(word).exists():  # a path may hold the sign too
            name = source = word
        if name in encoders:
            raise ConfigError(f"two representations are called {name!r}; name them apart as NAME=CHECKPOINT")
        if word not in BASELINES:
            encoders[name] = load_encoder(source, device=resolve_device(config.device))
    baselines = [name for name in config.representations if name in BASELINES]
    result = probe(train, test, encoders, config=config, baselines=baselines, progress=progress)
    if config.output is not None:
        config.output.mkdir(parents=True, exist_ok=True)
        temporary = config.output / f".{RESULT_NAME}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, config.output / RESULT_NAME)
    return result


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
    _check_names(baselines, encoders)
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
    hits: dict[str, NDArray[np.float64]] = {}
    choices: dict[str, list[Choice]] = {}
    for name, representation in found.items():
        tell(f"{name}: classifiers")
        hits[name], choices[name] = _classify(representation, draws, test_part, config)
    rates, unit = bootstrap_accuracies(
        list(hits.values()), test_part.groups, num_bootstrap=config.num_bootstrap, seed=config.seed
    )
    replicates = dict(zip(hits, rates, strict=True))
    return ProbeResult(
        label=config.label,
        scores=tuple(_score(name, hits[name], replicates[name], choices[name], found[name], config) for name in found),
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
    if config.layer != CONTEXT and not 0 <= int(config.layer) <= encoder.config.num_layers:
        raise ConfigError(
            f"layer must be between 0 and {encoder.config.num_layers} for {name}, or {CONTEXT}, but is {config.layer}"
        )
    return [config.layer]


def _classify(
    representation: Representation, draws: Sequence[Part], test: Part, config: ProbeConfig
) -> tuple[NDArray[np.float64], list[Choice]]:
    """Hits `[R, N]` on the test part, and what was chosen for each seed inside its training utterances."""
    rows: list[NDArray[np.float64]] = []
    choices: list[Choice] = []
    same = config.num_train is None and len(representation.vectors) == 1  # then seeds would only repeat the work
    for seed, draw in enumerate(draws):
        if same and seed:
            rows.append(rows[0])
            choices.append(choices[0])
            continue
        vectors = representation.stack(draw, seed)
        chosen = choose(vectors, draw.labels, draw.groups, seed=config.seed + seed)
        rows.append(
            count_hits(
                vectors[:, chosen.layer],
                draw.labels,
                representation.stack(test, seed)[:, chosen.layer],
                test.labels,
                strength=chosen.strength,
            )
        )
        choices.append(chosen)
    return np.stack(rows), choices


def _score(
    name: str,
    hits: NDArray[np.float64],
    replicates: NDArray[np.float64],
    choices: Sequence[Choice],
    representation: Representation,
    config: ProbeConfig,
) -> ProbeScore:
    return ProbeScore(
        name=name,
        accuracy=float(hits.mean()),
        interval=interval(replicates, config.confidence),
        seed_accuracies=tuple(float(rate) for rate in hits.mean(axis=1)),
        layers=tuple(representation.layers[choice.layer] for choice in choices) if representation.layers else (),
        strengths=tuple(choice.strength for choice in choices),
        dimension=int(next(iter(representation.vectors[0].values())).shape[1]),
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


def _check_names(baselines: Sequence[str], encoders: Mapping[str, SpeechEncoder]) -> None:
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise ConfigError(f"no baseline is called {unknown[0]!r}; there are {', '.join(BASELINES)}")
    clash = [name for name in encoders if name in BASELINES]
    if clash:
        raise ConfigError(f"an encoder cannot be called {clash[0]!r}, as a baseline is; give it another name")
    if "random" in baselines and not encoders:
        raise ConfigError("the random baseline needs an encoder's architecture; name a checkpoint too, or leave it out")
