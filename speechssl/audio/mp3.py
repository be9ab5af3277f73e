"""mp3 by libmpg123 itself, where the system has it: libsndfile's samples (to 1e-7, it decodes with the same library) in
less time, since libsndfile reads a file by two small calls for each of its frames and we give it as a whole.

Only sound files are taken: one format throughout, not a byte between frames that is none of theirs, and the length that
the header promises. The rest is left to libsndfile, which also says what is wrong.

Shapes: S samples.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np

from speechssl.audio.recording import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, Waveform, locate_span

_MAX_BYTES = 1 << 20  # of a file that is decoded at once: some minutes
_LIKELY_SAMPLES_PER_BYTE = 64
_LONGEST_FRAME = 1152
_FLAGS = 1  # the parameter's number; then its bits
_QUIET, _GAPLESS, _NO_RESYNC, _FORCE_FLOAT, _NO_FRANKENSTEIN = 0x20, 0x40, 0x80, 0x400, 0x1000000
_FLOAT_32 = 0x200
_OK, _NEED_MORE, _DONE = 0, -10, -12


def is_mp3(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a layer III frame, or of a tag that comes before frames."""
    return head.startswith(b"ID3") or (head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE6 == 0xE2)


def read_mp3(path: str, content: bytes, offset: float, duration: float | None) -> tuple[Waveform, int] | None:
    """Samples f32 `[S, channels]` of the span, and the file's rate; None where libsndfile must do it.

    Raises:
        RecordingError: the span lies outside of the recording.
    """
    library = _libmpg123() if len(content) <= _MAX_BYTES else None
    handle = ctypes.c_void_p(library.mpg123_new(None, None)) if library is not None else None
    if library is None or not handle:
        return None
    try:
        found = _open(library, handle, content)
        if found is None:
            return None
        num_samples, num_channels, rate = found
        start, count = locate_span(path, offset, duration, num_samples=num_samples, sample_rate=rate)
        # a file that is read to its end has room for more: nothing may follow what its header promises
        room = start + count + (_LONGEST_FRAME if start + count == num_samples else 0)
        samples = np.empty((room, num_channels), dtype=np.float32)
        done = ctypes.c_size_t()
        status = library.mpg123_decode(handle, None, 0, samples.ctypes.data, samples.nbytes, ctypes.byref(done))
    finally:
        library.mpg123_delete(handle)
    is_whole = status in (_OK, _NEED_MORE, _DONE) and done.value == samples[: start + count].nbytes
    return (samples[start : start + count], rate) if is_whole else None


def _open(library: Any, handle: ctypes.c_void_p, content: bytes) -> tuple[int, int, int] | None:
    """Samples, channels and rate of what is fed to a new decoder."""
    flags = _QUIET | _GAPLESS | _NO_RESYNC | _FORCE_FLOAT | _NO_FRANKENSTEIN
    rate, num_channels, encoding = ctypes.c_long(), ctypes.c_int(), ctypes.c_int()
    facts = ctypes.byref(rate), ctypes.byref(num_channels), ctypes.byref(encoding)
    statuses = (  # after one that fails, the next ones do nothing
        library.mpg123_param(handle, _FLAGS, flags, 0.0),
        library.mpg123_open_feed(handle),
        library.mpg123_set_filesize(handle, len(content)),
        library.mpg123_feed(handle, content, len(content)),
        library.mpg123_getformat(handle, *facts),
    )
    if any(status != _OK for status in statuses):
        return None
    num_samples = int(library.mpg123_length(handle))
    is_likely = (
        encoding.value == _FLOAT_32
        and num_channels.value in (1, 2)
        and MIN_SAMPLE_RATE <= rate.value <= MAX_SAMPLE_RATE
        and 0 < num_samples <= _LIKELY_SAMPLES_PER_BYTE * len(content)
    )
    return (num_samples, num_channels.value, rate.value) if is_likely else None


@cache
def _libmpg123() -> Any | None:
    """The library with its functions declared."""
    if ctypes.sizeof(ctypes.c_long) != 8:  # lengths have another type there
        return None
    try:
        library = ctypes.CDLL("libmpg123.so.0")
        handle, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
        library.mpg123_new.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
        library.mpg123_new.restype = handle
        library.mpg123_param.argtypes = (handle, number, ctypes.c_long, ctypes.c_double)
        library.mpg123_open_feed.argtypes = (handle,)
        library.mpg123_set_filesize.argtypes = (handle, ctypes.c_int64)
        library.mpg123_feed.argtypes = (handle, ctypes.c_char_p, size)
        library.mpg123_getformat.argtypes = (handle, *3 * (ctypes.c_void_p,))
        library.mpg123_length.argtypes = (handle,)
        library.mpg123_length.restype = ctypes.c_int64
        library.mpg123_decode.argtypes = (handle, ctypes.c_char_p, size, ctypes.c_void_p, size, ctypes.c_void_p)
        library.mpg123_delete.argtypes = (handle,)
        library.mpg123_delete.restype = None
        library.mpg123_init()
    except (OSError, AttributeError):
        return None
    return library
