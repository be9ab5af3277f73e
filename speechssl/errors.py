"""Errors that a user can act on.

Every message names the file or the option, the value that was found and the way out. The command line prints the
message alone, without a traceback, and ends with the class's `exit_code`.
"""


class SpeechSSLError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class ConfigError(SpeechSSLError):
    """A configuration key or value, or a command-line argument, is wrong."""

    exit_code = 2


class ManifestError(SpeechSSLError):
    """A manifest, corpus card or transcript file cannot be used as it is."""

    exit_code = 2


class AudioError(SpeechSSLError):
    """A recording is missing, unreadable or unfit for the encoder."""

    exit_code = 2


class CheckpointError(SpeechSSLError):
    """A checkpoint or model directory is missing, damaged or of another kind."""

    exit_code = 2


class TrainingError(SpeechSSLError):
    """A run was stopped because going on would waste time: divergence, collapse, no usable data."""

    exit_code = 1
