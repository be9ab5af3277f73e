"""Recordings: probe, read, resample.

`decode` reads, `media` and `files` are its ways to containers and archives, `resampling` changes the rate, `recording`
holds the types.
"""

from speechssl.audio.decode import AUDIO_EXTENSIONS, SOUNDFILE_EXTENSIONS, probe, read, read_utterance
from speechssl.audio.files import Location, check_openable, locate, open_input
from speechssl.audio.media import MEDIA_EXTENSIONS
from speechssl.audio.recording import SPAN_TOLERANCE_SECONDS, AudioInfo, Damage, RecordingError, Waveform
from speechssl.audio.resampling import resample, resampled_length

__all__ = [
    "AUDIO_EXTENSIONS",
    "MEDIA_EXTENSIONS",
    "SOUNDFILE_EXTENSIONS",
    "SPAN_TOLERANCE_SECONDS",
    "AudioInfo",
    "Damage",
    "Location",
    "RecordingError",
    "Waveform",
    "check_openable",
    "locate",
    "open_input",
    "probe",
    "read",
    "read_utterance",
    "resample",
    "resampled_length",
]
