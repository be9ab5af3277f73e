"""The representations that are probed: baselines and encoders, as sources of frames or of utterance vectors.

Shapes: L layers, D model dim.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from speechssl.encoder import SpeechEncoder, resolve_device
from speechssl.errors import AudioError, ConfigError
from speechssl.frames import CONTEXT, FrameSource, Layer, check_layer
from speechssl.interop import load_encoder
from speechssl.manifest import Manifest
from speechssl.probe.features import BASELINES, LayerVectors, Pooling, encoder_vectors, feature_vectors
from speechssl.probe.settings import ProbeConfig
from speechssl.types import Utterance


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


def frame_sources(name: str, encoders: Mapping[str, SpeechEncoder], config: ProbeConfig) -> Iterator[FrameSource]:
    """One source, or for the random encoder one for every seed, each made when it is asked for.

    Raises:
        ConfigError: the encoder has no such layer.
    """
    if name in ("log_mel", "mfcc"):
        yield FrameSource(name=name, batch_seconds=config.batch_seconds)
        return
    like = encoders[name] if name in encoders else next(iter(encoders.values()))
    layers: tuple[Layer, ...] = (*range(like.config.num_layers + 1), CONTEXT)
    if config.layer is not None:
        layers = (check_layer(config.layer, like, name),)
    seeds = [config.seed + number for number in range(config.num_seeds)] if name == "random" else []
    for seed in seeds:
        encoder = SpeechEncoder(like.config, seed=seed).to(like.device).eval()
        yield FrameSource(name=name, encoder=encoder, layers=layers, batch_seconds=config.batch_seconds)
    if not seeds:
        yield FrameSource(name=name, encoder=like, layers=layers, batch_seconds=config.batch_seconds)


def layer_names(source: FrameSource) -> tuple[str, ...]:
    """Its layers in words; none for hand-made features."""
    return tuple(map(str, source.layers))


def utterance_vectors(
    source: FrameSource, manifests: Sequence[Manifest], pool: Pooling, failures: dict[str, str]
) -> LayerVectors:
    """Pooled vectors `[L, D]` (`[L, 3 D]` with segments) of all recordings by id.

    Those that cannot be used, or come out as no finite number, go into `failures`: id -> reason.
    """

    def failed(utterance: Utterance, error: AudioError) -> None:
        failures.setdefault(utterance.id, str(error))

    vectors: LayerVectors = {}
    for manifest in manifests:
        if source.encoder is None:
            vectors |= feature_vectors(manifest, source.feature, pool=pool, on_error=failed)
        else:
            vectors |= encoder_vectors(
                manifest,
                source.encoder,
                layers=source.layers,
                pool=pool,
                on_error=failed,
                batch_seconds=source.batch_seconds,
            )
    for name, values in vectors.items():
        if not np.isfinite(values).all():
            failures.setdefault(name, f"{name}: its vectors are not finite; listen to the recording")
    return vectors
