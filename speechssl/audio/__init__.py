"""Recordings: probe, read, resample.

`decode` reads; `files` opens what lies in files, archives and behind URLs, with `remote`, `windows` and `prefetching`;
`media` knows FFmpeg's formats, `resampling` changes the rate, `recording` holds the types.
"""

from speechssl.audio.blocks import read_blocks, read_sample_rate
from speechssl.audio.decode import (
    AUDIO_EXTENSIONS,
    SOUNDFILE_EXTENSIONS,
    probe,
    probe_source,
    read,
    read_compact,
    read_utterance,
    read_utterance_compact,
)
from speechssl.audio.files import Source, check_openable, open_input, opened
from speechssl.audio.location import Location, is_url, locate
from speechssl.audio.media import MEDIA_EXTENSIONS
from speechssl.audio.pipe import Encoding, PipeFormat, PipeReader
from speechssl.audio.prefetching import Prefetched, prefetch
from speechssl.audio.recording import (
    SPAN_TOLERANCE_SECONDS,
    AudioInfo,
    Damage,
    RecordingError,
    StoredSamples,
    UnreachableError,
    Waveform,
    to_float,
)
from speechssl.audio.resampling import resample, resample_blocks, resampled_length

__all__ = [
    "AUDIO_EXTENSIONS",
    "MEDIA_EXTENSIONS",
    "SOUNDFILE_EXTENSIONS",
    "SPAN_TOLERANCE_SECONDS",
    "AudioInfo",
    "Damage",
    "Encoding",
    "Location",
    "PipeFormat",
    "PipeReader",
    "Prefetched",
    "RecordingError",
    "Source",
    "StoredSamples",
    "UnreachableError",
    "Waveform",
    "check_openable",
    "is_url",
    "locate",
    "open_input",
    "opened",
    "prefetch",
    "probe",
    "probe_source",
    "read",
    "read_blocks",
    "read_compact",
    "read_sample_rate",
    "read_utterance",
    "read_utterance_compact",
    "resample",
    "resample_blocks",
    "resampled_length",
    "to_float",
]
