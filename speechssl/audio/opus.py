"""Ogg/opus by libopus itself, where PyAV brings it or the system has it: libsndfile's samples to 1e-8 in half of
the time, since the libopus within soundfile's wheel is a slow build.

Only plain files are taken: one stream of one or two channels, whole, every page in order with the right checksum and
time. The rest is left to libsndfile, which also says what is wrong (RFC 7845 has the format).

Shapes: S samples.
"""

import ctypes
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.audio.recording import Waveform, locate_span
from speechssl.audio.resampling import resampled_length

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
"""Rates in Hz that a decoder delivers."""
_CLOCK = 48000  # of the pages' times, whatever the rate
_LONGEST_PACKET_SECONDS = 0.12
_MAX_BYTES = 1 << 20  # of a file that is decoded at once: some minutes
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_FIRST, _LAST, _CONTINUED = 2, 4, 1  # flags of a page


def is_opus(head: bytes) -> bool:
    """Whether the first bytes of a file are those of Ogg/opus."""
    return head.startswith(b"OggS") and head[28:36] == b"OpusHead"


class _OddError(Exception):
    """Something that is better left to libsndfile."""


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """A file taken apart. `times` are the pages' ends on the clock, one for each of `pages` of packets."""

    num_channels: int
    num_skipped: int
    sample_rate: int
    pages: list[list[bytes]]
    times: list[int]


def read_opus(
    path: str, content: bytes, offset: float, duration: float | None, sample_rate: int | None
) -> tuple[Waveform, int] | None:
    """Samples f32 `[S, channels]` from the beginning, and their rate; None where libsndfile must do it.

    The rate is the file's own, or `sample_rate` where the decoder delivers that and it is lower.

    Raises:
        RecordingError: the span lies outside of the recording.
    """
    library = _libopus() if offset == 0 and len(content) <= _MAX_BYTES else None
    if library is None:
        return None
    try:
        stream = _take_apart(content)
        total = (stream.times[-1] - stream.num_skipped) * stream.sample_rate // _CLOCK
        rate = stream.sample_rate
        if sample_rate in OPUS_RATES and sample_rate is not None and sample_rate < rate:
            rate = sample_rate
        if total <= 0 or stream.num_skipped * rate % _CLOCK:
            return None
        _, count = locate_span(path, 0.0, duration, num_samples=total, sample_rate=stream.sample_rate)
        count = resampled_length(count, from_rate=stream.sample_rate, to_rate=rate)
        samples = _decode(library, stream, rate, stream.num_skipped * rate // _CLOCK + count)
    except _OddError:
        return None
    samples = samples[stream.num_skipped * rate // _CLOCK :]
    if len(samples) == count - 1 and rate != stream.sample_rate and len(samples):
        samples = np.pad(samples, ((0, 1), (0, 0)), mode="edge")  # the codec rounds lengths down, we to the nearest
    return (samples[:count], rate) if len(samples) >= count else None


def _take_apart(content: bytes) -> _Stream:
    pages: list[list[bytes]] = []
    times: list[int] = []
    waiting = b""
    for time, packets, is_open in _pages(content):
        packets[0] = waiting + packets[0]
        waiting = packets.pop() if is_open else b""
        pages.append(packets)
        times.append(time)
    if waiting or len(pages) < 3 or [len(packets) for packets in pages[:2]] != [1, 1]:
        raise _OddError
    head, tags = pages[0][0], pages[1][0]
    num_channels, family = head[9:10], head[18:19]
    rate = int.from_bytes(head[12:16], "little")
    is_plain = (
        num_channels in (b"\x01", b"\x02") and family == b"\0" and head[16:18] == b"\0\0" and head[8:9] == b"\x01"
    )
    if not head.startswith(b"OpusHead") or not tags.startswith(b"OpusTags") or not is_plain or rate not in OPUS_RATES:
        raise _OddError
    num_skipped = int.from_bytes(head[10:12], "little")
    return _Stream(
        num_channels=num_channels[0], num_skipped=num_skipped, sample_rate=rate, pages=pages[2:], times=times[2:]
    )


def _pages(content: bytes) -> Iterator[tuple[int, list[bytes], bool]]:
    """Time, packets, and whether the last packet goes on in the next page."""
    place = number = 0
    serial, goes_on, flags = content[14:18], False, 0
    while place < len(content):
        header = content[place : place + 27]
        if len(header) < 27:
            raise _OddError
        flags = header[5]
        expected = (_FIRST if number == 0 else 0) | (_CONTINUED if goes_on else 0)
        if not header.startswith(b"OggS\0") or flags & ~_LAST != expected or header[14:18] != serial:
            raise _OddError
        if int.from_bytes(header[18:22], "little") != number:
            raise _OddError
        sizes = content[place + 27 : place + 27 + header[26]]
        start = place + 27 + len(sizes)
        end = start + sum(sizes)
        if not sizes or end > len(content):
            raise _OddError
        if _checksum(header[:22] + bytes(4) + content[place + 26 : end]) != int.from_bytes(header[22:26], "little"):
            raise _OddError
        packets, first = [], start
        for size in sizes:
            start += size
            if size < 255:
                packets.append(content[first:start])
                first = start
        goes_on = sizes[-1] == 255
        if goes_on:
            packets.append(content[first:end])
        yield int.from_bytes(header[6:14], "little", signed=True), packets, goes_on
        place, number = end, number + 1
        if flags & _LAST and place != len(content):
            raise _OddError
    if not flags & _LAST:
        raise _OddError


def _checksum(page: bytes) -> int:
    """Ogg's CRC is that of zlib with the bits of every byte, and of the result, in the other order; it begins at 0."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_REVERSED), "big")


def _decode(library: Any, stream: _Stream, rate: int, count: int) -> Waveform:
    """The first `count` samples or more f32 `[S, channels]`, those to be skipped included."""
    step, longest = _CLOCK // rate, round(_LONGEST_PACKET_SECONDS * rate)
    if count > longest * sum(map(len, stream.pages)):
        raise _OddError  # no memory for what cannot be there
    samples = np.empty((count + longest, stream.num_channels), dtype=np.float32)
    start, width = samples.ctypes.data, samples.itemsize * stream.num_channels
    error = ctypes.c_int()
    decoder = ctypes.c_void_p(library.opus_decoder_create(rate, stream.num_channels, ctypes.byref(error)))
    if not decoder:
        raise _OddError
    done = 0
    try:
        for packets, time in zip(stream.pages, stream.times, strict=True):
            for packet in packets:
                if done >= count:
                    return samples[:done]
                made = library.opus_decode_float(decoder, packet, len(packet), start + done * width, longest, 0)
                if made <= 0:
                    raise _OddError
                done += made
            if done * step < time or (done * step > time and packets is not stream.pages[-1]):
                raise _OddError  # a gap, or a stream that begins in the middle
    finally:
        library.opus_decoder_destroy(decoder)
    return samples[: min(done, stream.times[-1] // step)]


@cache
def _libopus() -> Any | None:
    """The library with its functions declared."""
    spec = find_spec("av")
    found: list[str] = []
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        folders = (package.parent / "av.libs", package / ".dylibs")
        found = [str(file) for folder in folders for file in sorted(folder.glob("libopus*"))]
    for name in (*found, "libopus.so.0"):
        try:
            library = ctypes.CDLL(name)
            library.opus_decoder_create.argtypes = (ctypes.c_int32, ctypes.c_int, ctypes.POINTER(ctypes.c_int))
            library.opus_decoder_create.restype = ctypes.c_void_p
            library.opus_decode_float.argtypes = (
                ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int, ctypes.c_int,
            )  # fmt: skip
            library.opus_decode_float.restype = ctypes.c_int
            library.opus_decoder_destroy.argtypes = (ctypes.c_void_p,)
            library.opus_decoder_destroy.restype = None
        except (OSError, AttributeError):
            continue
        return library
    return None
