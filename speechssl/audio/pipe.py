"""Audio that comes as it is made: wav or raw samples from a pipe.

Shapes: S samples.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, get_args

import numpy as np

from speechssl.audio.recording import RecordingError, Waveform, check_rate, mix
from speechssl.errors import ConfigError

Encoding = Literal["wav", "s16le", "s16be", "s24le", "s32le", "f32le", "f64le", "u8", "s8", "mulaw", "alaw"]
"""How the bytes of a pipe hold samples: `wav` has a header that says it, the others are raw, named as by FFmpeg."""

# libsndfile's name, its byte order, bytes a sample
_RAW: dict[str, tuple[str, str, int]] = {
    "s16le": ("PCM_16", "LITTLE", 2),
    "s16be": ("PCM_16", "BIG", 2),
    "s24le": ("PCM_24", "LITTLE", 3),
    "s32le": ("PCM_32", "LITTLE", 4),
    "f32le": ("FLOAT", "LITTLE", 4),
    "f64le": ("DOUBLE", "LITTLE", 8),
    "u8": ("PCM_U8", "LITTLE", 1),
    "s8": ("PCM_S8", "LITTLE", 1),
    "mulaw": ("ULAW", "LITTLE", 1),
    "alaw": ("ALAW", "LITTLE", 1),
}
_WAV_CODES: dict[tuple[int, int], Encoding] = {
    (1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le", (3, 32): "f32le", (3, 64): "f64le",
    (6, 8): "alaw", (7, 8): "mulaw",
}  # fmt: skip
_EXTENSIBLE = 0xFFFE
_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0x7FFFF000, 0x7FFFFFFE, 0xFFFFFFFF, 0xFFFFFFFE)
_MAX_HEADER_BYTES = 1 << 20
_READ_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class PipeFormat:
    """What the bytes of a pipe are: `sample_rate` in Hz and `num_channels`, as interleaved samples."""

    encoding: Encoding
    sample_rate: int
    num_channels: int

    def __post_init__(self) -> None:
        if self.encoding not in _RAW:
            raise ConfigError(f"encoding must be one of {', '.join(get_args(Encoding))}, but is {self.encoding!r}")
        if not 1 <= self.num_channels <= 64:
            raise ConfigError(f"channels must be between 1 and 64, but is {self.num_channels}")
        check_rate("the pipe", self.sample_rate)

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return _RAW[self.encoding][2] * self.num_channels


class PipeReader:
    """Samples of a pipe, as soon as they are there; nothing is sought and nothing is kept."""

    def __init__(self, pipe: BinaryIO, *, format: PipeFormat | None = None, name: str = "standard input") -> None:
        """Read the wav header where `format` is None, else take the bytes as raw samples.

        Raises:
            AudioError: what should be a wav header is none, or of an encoding that is not known.
        """
        self._pipe = pipe
        self._name = name
        self._left: int | None = None
        self.format = format or self._read_header()
        self.num_samples = 0
        """Samples a channel read so far, at the pipe's rate."""

    @property
    def sample_rate(self) -> int:
        """In Hz."""
        return self.format.sample_rate

    def __iter__(self) -> Iterator[Waveform]:
        """Mono f32 `[S]` as the pipe delivers them: each as much as one read gave, until its end.

        A sample that the end cuts in two is dropped.

        Raises:
            AudioError: samples are NaN or infinite.
        """
        rest = b""
        while self._left is None or self._left > 0:
            wanted = _READ_BYTES if self._left is None else min(_READ_BYTES, self._left)
            data = _read_some(self._pipe, wanted)
            if not data:
                return
            if self._left is not None:
                self._left -= len(data)
            data = rest + data
            whole = len(data) // self.format.sample_bytes * self.format.sample_bytes
            rest = data[whole:]
            if whole:
                yield self._decode(data[:whole])

    def _decode(self, data: bytes) -> Waveform:
        import soundfile

        subtype, endian, _ = _RAW[self.format.encoding]
        samples, _ = soundfile.read(
            io.BytesIO(data), dtype="float32", always_2d=True, format="RAW", subtype=subtype, endian=endian,
            samplerate=self.format.sample_rate, channels=self.format.num_channels,
        )  # fmt: skip
        if not np.isfinite(samples).all():
            raise RecordingError(
                f"{self._name}: samples are NaN or infinite; is its encoding really {self.format.encoding}?",
                "non_finite",
            )
        self.num_samples += len(samples)
        return np.ascontiguousarray(mix(samples))

    def _read_header(self) -> PipeFormat:
        """Read up to the first sample; sizes that a program could not know when it began are ignored."""
        head = self._exactly(12)
        if head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
            raise RecordingError(
                f"{self._name}: does not begin with a wav header; for raw samples give their encoding and sample_rate"
                " (--encoding s16le --sample_rate 16000), other formats go through ffmpeg -i FILE -f wav -",
                "unreadable",
            )
        found: PipeFormat | None = None
        num_read = 12
        while num_read < _MAX_HEADER_BYTES:
            name, size = struct.unpack("<4sI", self._exactly(8))
            if name == b"data":
                if found is None:
                    break
                self._left = None if size in _UNKNOWN_SIZES or head[:4] == b"RF64" else size
                return found
            if size > _MAX_HEADER_BYTES:
                break
            content = self._exactly(size + size % 2)
            num_read += 8 + len(content)
            if name == b"fmt " and size >= 16:
                found = self._parse_format(content)
        raise RecordingError(f"{self._name}: its wav header has no fmt and data parts; is it damaged?", "unreadable")

    def _parse_format(self, content: bytes) -> PipeFormat:
        code, num_channels, sample_rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
        if code == _EXTENSIBLE and len(content) >= 26:
            code = struct.unpack("<H", content[24:26])[0]
        if (code, bits) not in _WAV_CODES:
            raise RecordingError(
                f"{self._name}: wav of code {code} with {bits} bits is not read from a pipe; known are PCM of 8 to 32"
                " bits, floats, mu-law and A-law",
                "unreadable",
            )
        return PipeFormat(encoding=_WAV_CODES[code, bits], sample_rate=sample_rate, num_channels=num_channels)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._pipe.read(count - len(data))
            if not piece:
                raise RecordingError(
                    f"{self._name}: ends after {len(data)} bytes of a wav header; nothing was sent", "empty"
                )
            data += piece
        return data


def _read_some(pipe: BinaryIO, count: int) -> bytes:
    """Between 1 and `count` bytes, as soon as there are any; none at the end."""
    read = getattr(pipe, "read1", pipe.read)
    data: bytes = read(count)
    return data
