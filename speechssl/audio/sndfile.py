"""Formats that libsndfile knows (wav, flac, ogg/opus, mp3, aiff, au), through soundfile.

Shapes: S samples.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from speechssl.audio.files import Source, read_head
from speechssl.audio.recording import (
    MAX_SAMPLES_PER_BYTE,
    AudioInfo,
    RecordingError,
    Waveform,
    check_rate,
    locate_span,
    to_float,
)
from speechssl.audio.resampling import resampled_length

SOUNDFILE_EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".sph"})

BLOCK_NUM_VALUES = 1 << 22
"""Values decoded at a time where the header promises more than the file's size makes likely."""
LIKELY_VALUES_PER_BYTE = 64
"""Speech in opus at 6 kbit/s has 64 samples a byte; what promises more is decoded in blocks, as far as it goes."""
OPUS_RATES = frozenset({8000, 12000, 16000, 24000})
"""Rates in Hz, besides 48000, that an opus decoder can deliver itself."""
MP3_DECODED_SECONDS = 30
MP3_LEAD_SAMPLES = 12 * 1152
"""Frames that the bits of an mp3 frame may lie in (511 bytes before it) and that its filters reach back to."""
VORBIS_PAGE_SECONDS = 20
"""No page of ogg/vorbis is longer."""
_SET_OPUS_RATE = 0x1500  # libsndfile's SFC_SET_ORIGINAL_SAMPLERATE


def probe_soundfile(path: str, source: Source) -> AudioInfo:
    """Facts of a recording from its header.

    Raises:
        RecordingError: no recording, damaged as far as the header shows, or empty.
    """
    with open_soundfile(path, source) as file:
        info = AudioInfo(
            sample_rate=file.samplerate, num_samples=file.frames, num_channels=file.channels, format=file.format
        )
    if info.num_samples <= 0:
        raise RecordingError(
            f"{path}: holds no samples (an empty or cut-off {info.format} file); replace or remove it", "empty"
        )
    return info


def read_soundfile(
    path: str, source: Source, offset: float, duration: float | None, *, sample_rate: int | None = None
) -> tuple[Waveform, int]:
    """Samples f32 `[S, channels]` of the span, and their rate.

    The rate is the file's own, but for opus at one of `OPUS_RATES` below it, where `sample_rate` asks for one: there
    the codec delivers that rate itself, in up to a third less time.
    """
    with open_soundfile(path, source) as file:
        file_rate = int(file.samplerate)
        start, count = locate_span(path, offset, duration, num_samples=file.frames, sample_rate=file_rate)
        rate = file_rate
        if sample_rate is not None and sample_rate < file_rate and _decode_opus_at(file, sample_rate):
            rate = sample_rate
            start = round(start * rate / file_rate)
            count = resampled_length(count, from_rate=file_rate, to_rate=rate)
        skip_to(file, start)
        samples = _decode(file, count, _block_size(source, count, file.channels))
    if len(samples) == count - 1 and rate != file_rate:  # the codec rounds lengths down, we to the nearest
        samples = np.pad(samples, ((0, 1), (0, 0)), mode="edge" if len(samples) else "constant")
    if len(samples) < count:
        raise RecordingError(
            f"{path}: truncated: {len(samples)} of {count} samples could be decoded; copy the file again or leave it"
            " out",
            "truncated",
        )
    return samples, rate


def skip_to(file: Any, start: int) -> None:
    """Go to sample `start`, so that what is read next is what decoding from the beginning would give there.

    libsndfile's own seeking does not promise that: an mp3 frame needs bits of the frames before it, and in the last
    page of ogg/vorbis it lands up to 500 samples late. There it seeks to an earlier place and decodes from it.
    """
    place = start
    if file.subtype.startswith("MPEG"):
        # mpg123 also complains on stderr about a frame whose bits are missing, so it starts in the middle only far on
        place = 0 if start <= MP3_DECODED_SECONDS * file.samplerate else start - MP3_LEAD_SAMPLES
    elif file.subtype == "VORBIS":
        place = min(start, max(0, file.frames - VORBIS_PAGE_SECONDS * file.samplerate))
    if place:
        file.seek(place)
    while place < start:
        num_skipped = len(file.read(min(start - place, BLOCK_NUM_VALUES // file.channels), dtype="float32"))
        if num_skipped == 0:  # the file ends before; the next read finds that
            return
        place += num_skipped


def _decode(file: Any, count: int, block_size: int) -> Waveform:
    """Up to `count` samples f32 `[S, channels]`."""
    # libsndfile turns 16-bit wav into float one value at a time; NumPy does the same, exactly, in a third of the time
    is_narrow = file.subtype == "PCM_16" and file.format != "FLAC"
    dtype = "int16" if is_narrow else "float32"
    pieces = [file.read(min(count, block_size), dtype=dtype, always_2d=True)]
    done = len(pieces[0])
    while done < count and len(pieces[-1]) == block_size:
        pieces.append(file.read(min(count - done, block_size), dtype=dtype, always_2d=True))
        done += len(pieces[-1])
    samples = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return to_float(samples) if is_narrow else np.asarray(samples, dtype=np.float32)


def _block_size(source: Source, count: int, num_channels: int) -> int:
    """How many samples to decode at a time: all, unless memory would be set aside for what is not there."""
    num_values = count * num_channels
    if num_values <= BLOCK_NUM_VALUES or num_values <= LIKELY_VALUES_PER_BYTE * _num_bytes(source):
        return count
    return max(1, BLOCK_NUM_VALUES // num_channels)


def _decode_opus_at(file: Any, sample_rate: int) -> bool:
    """Have an opus file decoded at `sample_rate` Hz from its beginning; False where that cannot be."""
    if sample_rate not in OPUS_RATES or file.subtype != "OPUS":
        return False
    import soundfile

    try:
        rate = soundfile._ffi.new("int*", sample_rate)
        return bool(soundfile._snd.sf_command(file._file, _SET_OPUS_RATE, rate, 4))
    except AttributeError:  # names within soundfile that are not public
        return False


@contextmanager
def open_soundfile(path: str, source: Source) -> Iterator[Any]:
    """A `soundfile.SoundFile` of `source`; its errors, in opening or later, become `RecordingError` and name `path`."""
    import soundfile

    if path.lower().endswith(".raw"):  # soundfile goes by the name, and asks for what the file cannot tell
        raise RecordingError(
            f"{path}: bare samples say neither their rate nor their type; make it a .wav, e.g. with"
            " `sox -r 16000 -e signed -b 16 -c 1 x.raw x.wav`",
            "unreadable",
        )
    try:
        with soundfile.SoundFile(source) as file:
            if file.format.startswith(("WAV", "RF64", "AIFF")) and "should be" in file.extra_info:
                _check_chunk_sizes(path, file.extra_info)
            # soundfile seeks after every read, to where it is; that resets the decoder of mp3 and spoils what follows
            file.seekable = lambda: False
            check_rate(path, file.samplerate)
            _check_length(path, source, file.frames)
            yield file
    except soundfile.SoundFileError as error:
        raise _soundfile_error(path, source, str(error)) from None


def _check_length(path: str, source: Source, num_samples: int) -> None:
    """Find a header that promises what cannot be."""
    if num_samples > BLOCK_NUM_VALUES and num_samples > MAX_SAMPLES_PER_BYTE * _num_bytes(source):
        raise RecordingError(
            f"{path}: truncated or damaged: its header promises {num_samples} samples, but the file has only"
            f" {_num_bytes(source)} bytes; copy the file again or leave it out",
            "truncated",
        )


def _num_bytes(source: Source) -> int:
    """Size of the whole; a file object, from which libsndfile is reading, stays where it is."""
    if isinstance(source, str):
        return os.path.getsize(source)
    place = source.tell()
    size = source.seek(0, os.SEEK_END)
    source.seek(place)
    return size


def _check_chunk_sizes(path: str, log: str) -> None:
    """Find a wav whose data chunk promises more than the file holds, from libsndfile's log of the header.

    Sizes of 2 GiB and more are the placeholders of programs that write to a pipe and are no sign of damage.
    """
    for line in log.splitlines():
        name, _, value = line.partition(":")
        words = value.replace("(should be", " ").replace(")", " ").split()
        if name.strip() not in ("data", "SSND") or "should be" not in line or len(words) < 2:
            continue
        if words[0].isdigit() and words[1].isdigit() and int(words[1]) < int(words[0]) < 0x7FFFF000:
            raise RecordingError(
                f"{path}: truncated: its header promises {words[0]} bytes of audio but {words[1]} are there; copy the"
                " file again or leave it out",
                "truncated",
            )


def _soundfile_error(path: str, source: Source, message: str) -> RecordingError:
    """What libsndfile's message means for the user."""
    reason = message.split(": ")[-1].strip().rstrip(".")
    if "lost sync" in reason or "malformed" in reason or "psf" in reason.lower():
        text = f"{path}: truncated or damaged ({reason}); copy the file again or leave it out"
        return RecordingError(text, "truncated")
    if "not recognised" in reason or "unknown format" in reason.lower():
        head = read_head(source, 64)
        looks_like_text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)
        what = "is text, not audio" if looks_like_text else "is not a recording that soundfile knows"
        text = f"{path}: {what}, whatever its name says; convert it to wav or flac, or remove it"
    else:
        text = f"{path}: cannot be decoded ({reason}); convert it to wav or flac, or remove it"
    return RecordingError(text, "unreadable")
