"""Frames of a manifest's recordings, streamed: of some layers of a frozen encoder, or hand-made features.

Shapes: L layers, T frames, D model dim, S samples.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.data import OnError, iterate_once
from speechssl.encoder import SpeechEncoder, select_layer
from speechssl.errors import AudioError, ConfigError
from speechssl.lengths import frame_to_seconds, receptive_field
from speechssl.manifest import Manifest

logger = logging.getLogger(__name__)

FeatureName = Literal["log_mel", "mfcc"]
Layer = int | Literal["context"]
Frames = NDArray[np.float32]

CONTEXT: Literal["context"] = "context"  # the encoder's output, beside its numbered layers
FEATURE_RATE = 16_000
FEATURE_HOP_SECONDS = 0.01
NUM_MELS = 80
NUM_COEFFICIENTS = 13


@dataclass(frozen=True, kw_only=True)
class FrameSource:
    """Where frames come from: some layers of an encoder, or hand-made features where there is no encoder.

    `layers` is empty for features, whose one representation counts as L = 1.
    """

    name: str
    encoder: SpeechEncoder | None = None
    layers: tuple[Layer, ...] = ()
    batch_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Check that it is the one or the other."""
        if self.encoder is None and self.name not in get_args(FeatureName):
            raise ConfigError(f"no features are called {self.name!r}; there are {', '.join(get_args(FeatureName))}")
        for layer in self.layers:
            if self.encoder is not None:
                check_layer(layer, self.encoder, self.name)

    @property
    def feature(self) -> FeatureName:
        """Which hand-made features, where there is no encoder."""
        return "log_mel" if self.name == "log_mel" else "mfcc"

    @property
    def dimension(self) -> int:
        """D."""
        if self.encoder is not None:
            return self.encoder.config.model_dim
        return NUM_MELS if self.name == "log_mel" else 3 * NUM_COEFFICIENTS

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame to the next."""
        return FEATURE_HOP_SECONDS if self.encoder is None else 1 / self.encoder.config.frame_rate

    def times(self, num_frames: int) -> NDArray[np.float64]:
        """Seconds of every frame's centre, `[T]`."""
        first = 0.0
        if self.encoder is not None:
            first = frame_to_seconds(0, self.encoder.strided_layers, self.encoder.config.sample_rate)
        return np.asarray(first + self.frame_seconds * np.arange(num_frames), dtype=np.float64)

    def stream(self, manifest: Manifest, *, on_error: OnError | None = None) -> Iterator[tuple[str, Frames]]:
        """Every usable utterance's id with its frames `[L, T, D]`, longest first."""
        if self.encoder is None:
            return feature_frames(manifest, self.feature, batch_seconds=self.batch_seconds, on_error=on_error)
        return encoder_frames(
            manifest, self.encoder, layers=self.layers, batch_seconds=self.batch_seconds, on_error=on_error
        )


def weights_hash(encoder: SpeechEncoder) -> str:
    """SHA-256 of an encoder's weights, names and shapes, as hex; the same wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_layer(layer: Layer, encoder: SpeechEncoder, name: str) -> Layer:
    """The layer, if the encoder has it.

    Raises:
        ConfigError: it has not.
    """
    if layer != CONTEXT and not 0 <= int(layer) <= encoder.config.num_layers:
        raise ConfigError(
            f"layer must be between 0 and {encoder.config.num_layers} for {name}, or {CONTEXT}, but is {layer}"
        )
    return layer


def encoder_frames(
    manifest: Manifest,
    encoder: SpeechEncoder,
    *,
    layers: Sequence[Layer],
    batch_seconds: float = 60.0,
    on_error: OnError | None = None,
) -> Iterator[tuple[str, Frames]]:
    """Every usable utterance's id with its frames `[L, T, D]` of some layers, longest first.

    A recording that cannot be read, gives no frame or comes out as no finite number goes to `on_error` (a warning in
    the log without it).
    """
    places = {utterance_id: row for row, utterance_id in enumerate(manifest.column("id").to_pylist())}
    outputs = layer_outputs(manifest, encoder, layers=layers, batch_seconds=batch_seconds, on_error=on_error)
    for ids, chosen, num_frames in outputs:
        stacked = torch.stack(chosen, dim=1).float().cpu().numpy()  # [B, L, T, D]
        for utterance_id, frames, count in zip(ids, stacked, num_frames.tolist(), strict=True):
            found = frames[:, :count]
            if np.isfinite(found).all():
                yield utterance_id, found.copy()
                continue
            utterance = manifest[places[utterance_id]]
            reason = f"{utterance.audio_filepath}: its frames are not finite; listen to the recording"
            if on_error is None:
                logger.warning("left out %s: %s", utterance_id, reason)
            else:
                on_error(utterance, AudioError(reason))


def layer_outputs(
    manifest: Manifest,
    encoder: SpeechEncoder,
    *,
    layers: Sequence[Layer],
    batch_seconds: float = 60.0,
    on_error: OnError | None = None,
) -> Iterator[tuple[tuple[str, ...], list[Tensor], Tensor]]:
    """Batches of readable utterances, longest first: their ids, some layers `[B, T, D]`, num_frames i64 `[B]`.

    The encoder computes in evaluation mode and is left in the mode it was in.
    """
    was_training = encoder.training
    encoder.eval()
    try:
        for batch in iterate_once(
            manifest,
            batch_seconds=batch_seconds,
            sample_rate=encoder.config.sample_rate,
            min_num_samples=receptive_field(encoder.strided_layers),
            on_error=on_error,
        ):
            moved = batch.to(encoder.device)
            with torch.inference_mode():
                output = encoder(moved.waveform, moved.num_samples, layers=any(layer != CONTEXT for layer in layers))
            chosen = [select_layer(output, None if layer == CONTEXT else int(layer)) for layer in layers]
            yield batch.utterance_ids, chosen, output.num_frames
    finally:
        encoder.train(was_training)


def feature_frames(
    manifest: Manifest, name: FeatureName, *, batch_seconds: float = 60.0, on_error: OnError | None = None
) -> Iterator[tuple[str, Frames]]:
    """Every readable utterance's id with its hand-made features `[1, T, D]`, longest first; see `features`."""
    for batch in iterate_once(manifest, batch_seconds=batch_seconds, sample_rate=FEATURE_RATE, on_error=on_error):
        for row, (utterance_id, count) in enumerate(zip(batch.utterance_ids, batch.num_samples.tolist(), strict=True)):
            yield utterance_id, features(batch.waveform[row, :count].numpy(), name)[None]


def features(waveform: Frames, name: FeatureName) -> Frames:
    """Waveform `[S]` at 16 kHz -> 80 log-mel energies, or 13 MFCCs with two differences: `[T, D]`, 100 a second."""
    import librosa

    power = librosa.feature.melspectrogram(
        y=np.pad(waveform, (0, max(0, 512 - len(waveform)))),
        sr=FEATURE_RATE,
        n_fft=512,
        win_length=400,
        hop_length=160,
        n_mels=NUM_MELS,
    )
    log_mel = librosa.power_to_db(power, amin=1e-8, top_db=80.0)
    if name == "log_mel":
        return np.asarray(log_mel.T, dtype=np.float32)
    cepstrum = librosa.feature.mfcc(S=log_mel, sr=FEATURE_RATE, n_mfcc=NUM_COEFFICIENTS)
    changes = [librosa.feature.delta(cepstrum, order=order, mode="nearest") for order in (1, 2)]
    return np.asarray(np.concatenate([cepstrum, *changes]).T, dtype=np.float32)
