"""A recording to listen to within a page: a few seconds as a data URI."""

import base64
import io

import numpy as np

from speechssl.audio import Waveform, resample
from speechssl.report.page import Markup, escape

SAMPLE_RATE = 16_000
MAX_SECONDS = 4.0
_MP3_COMPRESSION = 0.8
_FULL_SCALE = 0.99


def player(waveform: Waveform, *, sample_rate: int, label: str, max_seconds: float = MAX_SECONDS) -> Markup:
    """An audio element with at most the first `max_seconds` of a waveform f32 `[S]`, as MP3 at 16 kHz, about 6 kB/s.

    Nothing is played before the reader asks for it. `label` tells in words what it is. What is louder than full scale
    is made softer as a whole; where the library cannot write MP3, it is WAV at 8 kHz.
    """
    uri = sound_uri(waveform, sample_rate=sample_rate)
    return Markup(f'<audio controls preload="none" aria-label="{escape(label)}" src="{uri}"></audio>')


def sound_uri(waveform: Waveform, *, sample_rate: int, max_seconds: float = MAX_SECONDS) -> str:
    """The beginning of a waveform f32 `[S]` as a data URI; see `player`."""
    import soundfile

    heard = resample(waveform[: round(max_seconds * sample_rate)], from_rate=sample_rate, to_rate=SAMPLE_RATE)
    heard = heard * np.float32(min(1.0, _FULL_SCALE / max(float(np.abs(heard).max(initial=0.0)), 1e-9)))
    buffer = io.BytesIO()
    if "MP3" in soundfile.available_formats():
        soundfile.write(
            buffer, heard, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=_MP3_COMPRESSION
        )
        kind = "audio/mpeg"
    else:
        soundfile.write(buffer, resample(heard, from_rate=SAMPLE_RATE, to_rate=8_000), 8_000, format="WAV")
        kind = "audio/wav"
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
