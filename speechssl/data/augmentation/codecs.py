"""Real codecs, run in memory by libsndfile.

Shapes: S samples.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from speechssl.audio import Waveform, resample
from speechssl.errors import AudioError

CodecName = Literal["narrowband", "mulaw", "alaw", "gsm", "adpcm", "vorbis", "opus", "mp3"]

_HEADROOM = 0.99
_BLOCK_SAMPLES = 65536  # libsndfile's Vorbis encoder keeps a whole block on the stack


@dataclass(frozen=True, kw_only=True)
class Codec:
    """`container` and `subtype` as soundfile names them; `sample_rate` in Hz where the codec has one of its own."""

    container: str
    subtype: str
    sample_rate: int | None = None
    has_compression: bool = False


CODECS: Mapping[CodecName, Codec] = {
    "narrowband": Codec(container="WAV", subtype="FLOAT", sample_rate=8000),
    "mulaw": Codec(container="WAV", subtype="ULAW", sample_rate=8000),
    "alaw": Codec(container="WAV", subtype="ALAW", sample_rate=8000),
    "gsm": Codec(container="WAV", subtype="GSM610", sample_rate=8000),
    "adpcm": Codec(container="AU", subtype="G721_32", sample_rate=8000),
    "vorbis": Codec(container="OGG", subtype="VORBIS", has_compression=True),
    "opus": Codec(container="OGG", subtype="OPUS", has_compression=True),
    "mp3": Codec(container="MP3", subtype="MPEG_LAYER_III", has_compression=True),
}
"""All codecs; each gives back every sample in its place (no delay), which the tests measure."""

_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def check_codec(name: CodecName) -> None:
    """Raises AudioError where this machine's libsndfile lacks the codec."""
    import soundfile

    codec = CODECS[name]
    if not soundfile.check_format(codec.container, codec.subtype):
        raise AudioError(
            f"the codec {name} is not in libsndfile {soundfile.__libsndfile_version__}; leave it out, or install a"
            " newer soundfile"
        )


def encode_decode(waveform: Waveform, name: CodecName, *, sample_rate: int, compression: float) -> Waveform:
    """What is left of f32 `[S]` after the codec: `[S]`, at the same times.

    `compression` from 0 to 0.95 is libsndfile's compression level, for codecs that have one. A waveform beyond full
    scale is made quieter for the codec and as much louder after it.
    """
    codec = CODECS[name]
    rate = codec.sample_rate or _nearest_rate(name, sample_rate)
    peak = float(np.abs(waveform).max(initial=0))
    scale = np.float32(peak / _HEADROOM) if peak > _HEADROOM else np.float32(1)
    encoded = resample(waveform / scale, from_rate=sample_rate, to_rate=rate)
    decoded = _through_file(np.clip(encoded, -1, 1), codec, rate, compression if codec.has_compression else None)
    decoded = _fit(decoded, len(encoded))
    return _fit(resample(decoded, from_rate=rate, to_rate=sample_rate), len(waveform)) * scale


def _through_file(waveform: Waveform, codec: Codec, rate: int, compression: float | None) -> Waveform:
    import soundfile

    memory = io.BytesIO()
    with soundfile.SoundFile(
        memory, "w", rate, 1, format=codec.container, subtype=codec.subtype, compression_level=compression
    ) as file:
        for start in range(0, len(waveform), _BLOCK_SAMPLES):
            file.write(waveform[start : start + _BLOCK_SAMPLES])
    memory.seek(0)
    return np.asarray(soundfile.read(memory, dtype="float32")[0], dtype=np.float32)


def _nearest_rate(name: CodecName, sample_rate: int) -> int:
    """The lowest rate of the codec that loses nothing of `sample_rate`, else its highest."""
    rates = {"opus": _OPUS_RATES, "mp3": _MP3_RATES}.get(name, (sample_rate,))
    return next((rate for rate in rates if rate >= sample_rate), rates[-1])


def _fit(waveform: Waveform, num_samples: int) -> Waveform:
    """Cut, or end in silence: block codecs fill up their last block, resamplers round."""
    if len(waveform) < num_samples:
        return np.pad(waveform, (0, num_samples - len(waveform)))
    return waveform[:num_samples]
