"""What can be measured on one recording: level, offset, clipping, bandwidth, silence, noise, hum, channels.

Each measure has a name, a unit and a method in `MEASURES`; what counts as too much stands in `AuditConfig`. Full scale
is 1; dBFS is decibels of full scale.

Shapes: S samples, C channels, N blocks of 10 ms, F frames of the spectrogram, K frequency bins.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from speechssl.audio import Waveform

MEASURES: Mapping[str, tuple[str, str]] = {
    "seconds": ("s", "length of what was decoded"),
    "level_dbfs": ("dBFS", "RMS of the active blocks, or of all where none is; ITU-T P.56 with a threshold by block"),
    "dc_share": ("of the active RMS", "mean of the samples, the worst channel's"),
    "flat_share": (
        "of the samples",
        "samples in runs of 3 or more within 0.1 % of the channel's extremes",
    ),
    "flat_runs": ("", "number of such runs"),
    "crowding": ("", "blocks with a peak of 0.8 or more of the peaks' 95th percentile, for each one with 0.4 to 0.8"),
    "loud_blocks": ("", "blocks of 10 ms whose peak is above a tenth of the recording's peak"),
    "bandwidth_hz": (
        "Hz",
        "highest frequency whose 97th percentile over time, smoothed over 9 bins, is within 50 dB of the strongest"
        " between 300 and 3000 Hz and 6 dB above the noise of rounding to 16 bits",
    ),
    "silence_share": ("of the length", "blocks below the threshold of activity"),
    "leading_silence": ("s", "before the first activity"),
    "trailing_silence": ("s", "after the last activity"),
    "longest_silence": ("s", "longest stretch without activity, at the ends or inside"),
    "snr_db": ("dB", "mean power of active blocks over the median power of the others, which is taken off first"),
    "hum_db": ("dB", "mains tones and their harmonics over their neighbours, in the quieter half of the recording"),
    "hum_hz": ("Hz", "50 or 60: the mains frequency of `hum_db`"),
    "num_channels": ("", "channels of the file"),
    "channel_fault": ("", "0 none, 1 all channels alike, 2 a channel is empty while another is not"),
}
"""Name of each measure, with its unit and how it is had."""

FLOOR_DB = -120.0
MAX_SNR_DB = 80.0
IDENTICAL_CHANNELS, DEAD_CHANNEL = 1, 2

_BLOCK_SECONDS = 0.010
_ACTIVE_RANGE_DB = 40.0
"""Activity is at most this far below the loud blocks, whose median holds half of the energy..."""
_ACTIVE_FRACTION = 0.35
"""...and at least this part of the way from the quiet blocks (5th percentile) to the loud ones."""
_MIN_RANGE_DB = 6.0
"""Where quiet and loud blocks are nearer than this, nothing tells them apart: all count as active."""
_MIN_ACTIVE_BLOCKS = 5
_MIN_BACKGROUND = 5
_FLAT_TOLERANCE = 1e-3
_FLAT_RUN = 3
_DEAD_DB = 60.0
_BAND_DROP_DB = 50.0
_MAX_FRAMES = 4096
_SMOOTH_BINS = 9
_QUANTISATION = (2.0**-15) ** 2 / 12
_HUM_SECONDS = 1.0
_MAINS_HZ = (50.0, 60.0)

Values = dict[str, float]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def measure(channels: Waveform, sample_rate: int) -> Values:
    """All of `MEASURES` of samples f32 `[S, C]` at `sample_rate` Hz."""
    mono = channels.mean(axis=1, dtype=np.float32) if channels.shape[1] > 1 else channels[:, 0]
    centred = mono - mono.mean(dtype=np.float64).astype(np.float32)
    power = block_power(centred, sample_rate)
    active = active_blocks(power)
    level = float(np.sqrt(power[active].mean() if active.any() else power.mean()))
    return {
        "seconds": len(mono) / sample_rate,
        "level_dbfs": _decibel(level**2),
        "dc_share": float(np.abs(channels.mean(axis=0, dtype=np.float64)).max()) / max(level, 1e-6),
        **_clipping(channels, sample_rate),
        "bandwidth_hz": bandwidth(centred, sample_rate),
        **_silence(active, len(mono) / sample_rate),
        "snr_db": _snr(power, active),
        **_hum(centred, sample_rate),
        **_channels(channels),
    }


def block_power(waveform: Waveform, sample_rate: int) -> Floats:
    """Mean power of blocks of 10 ms, f64 `[N]`; a shorter rest at the end counts as a block when there is no other."""
    size = max(1, round(sample_rate * _BLOCK_SECONDS))
    count = len(waveform) // size
    if count == 0:
        return np.array([np.square(waveform, dtype=np.float64).mean()])
    blocks = waveform[: count * size].reshape(count, size)
    return np.asarray(np.einsum("ns,ns->n", blocks, blocks, dtype=np.float64) / size)


def active_blocks(power: Floats) -> Mask:
    """Which blocks hold more than background: single blocks that stand out are taken for clicks and left out."""
    smooth = np.convolve(power, np.ones(3) / 3, mode="same") if len(power) >= 3 else power
    level = 10 * np.log10(np.maximum(smooth, 10 ** (FLOOR_DB / 10)))
    if level.max() <= FLOOR_DB:
        return np.zeros(len(power), dtype=bool)
    quiet, loud = float(np.percentile(level, 5)), _energetic_level(smooth)
    if loud - quiet < _MIN_RANGE_DB:
        return np.ones(len(power), dtype=bool)
    threshold = max(loud - _ACTIVE_RANGE_DB, quiet + _ACTIVE_FRACTION * (loud - quiet))
    active: Mask = level > threshold
    for start, end in runs(active):
        if end - start < _MIN_ACTIVE_BLOCKS:
            active[start:end] = False
    return active


def _energetic_level(power: Floats) -> float:
    """Level in dB of the block at which blocks from the loudest one on hold half of the energy."""
    ordered = np.sort(power)[::-1]
    half = int(np.searchsorted(np.cumsum(ordered), 0.5 * ordered.sum()))
    return _decibel(float(ordered[half]))


def runs(mask: Mask) -> npt.NDArray[np.int64]:
    """Start and end of every run of true values, i64 `[R, 2]`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


def bandwidth(waveform: Waveform, sample_rate: int) -> float:
    """Effective bandwidth in Hz; see `MEASURES`. 0 for silence."""
    size = 512 if sample_rate <= 16000 else 512 * round(sample_rate / 16000)
    power, window = _spectrogram(waveform, size, max(size // 2, len(waveform) // _MAX_FRAMES))
    half = _SMOOTH_BINS // 2
    padded = np.pad(power, ((0, 0), (half + 1, half)), mode="edge").astype(np.float64).cumsum(axis=1)
    smooth = (padded[:, _SMOOTH_BINS:] - padded[:, :-_SMOOTH_BINS]) / _SMOOTH_BINS
    loud = np.percentile(smooth, 97, axis=0)
    frequency = np.arange(len(loud)) * sample_rate / size
    strongest = loud[(frequency >= 300) & (frequency <= 3000)].max(initial=0.0)
    rounding = 4 * _QUANTISATION * np.square(window).sum()
    heard = np.flatnonzero((loud > strongest * 10 ** (-_BAND_DROP_DB / 10)) & (loud > rounding))
    return float(frequency[heard[-1]]) if len(heard) else 0.0


def _spectrogram(waveform: Waveform, size: int, hop: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Power f32 `[F, K]`, and the window."""
    import scipy.fft

    if len(waveform) < size:
        waveform = np.pad(waveform, (0, size - len(waveform)))
    window = np.hanning(size).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, size)[::hop]
    spectrum = scipy.fft.rfft(frames * window, axis=1)
    return np.square(spectrum.real) + np.square(spectrum.imag), window


def _clipping(channels: Waveform, sample_rate: int) -> Values:
    """Flat tops, and how the peaks of the blocks crowd, of the worst channel."""
    size = max(1, round(sample_rate * _BLOCK_SECONDS))
    worst = {"flat_share": 0.0, "flat_runs": 0.0, "crowding": 0.0, "loud_blocks": 0.0}
    for channel in channels.T:
        lengths = np.concatenate([_flat_runs(channel), _flat_runs(-channel)])
        if len(lengths) >= worst["flat_runs"]:
            worst |= {"flat_share": float(lengths.sum()) / len(channel), "flat_runs": float(len(lengths))}
        count = len(channel) // size
        peaks = np.abs(channel[: count * size]).reshape(count, size).max(axis=1)
        loud = peaks[peaks > 0.1 * peaks.max(initial=0.0)]
        crowding = _crowding(loud) if len(loud) else 0.0
        if crowding >= worst["crowding"]:
            worst |= {"crowding": crowding, "loud_blocks": float(len(loud))}
    return worst


def _crowding(peaks: Waveform) -> float:
    """How many peaks are near the highest usual one for each that is lower.

    Speech has ever fewer peaks towards the top. A ceiling crowds them there, and they stay there when a codec makes
    the flat tops round.
    """
    usual = float(np.percentile(peaks, 95))
    high, middle = np.count_nonzero(peaks >= 0.8 * usual), np.count_nonzero(peaks >= 0.4 * usual)
    return (high + 0.5) / (middle - high + 0.5)


def _flat_runs(channel: Waveform) -> npt.NDArray[np.int64]:
    """Lengths of the runs at the highest value; none where the highest value is not above 0."""
    top = float(channel.max(initial=0.0))
    if top <= 0:
        return np.zeros(0, dtype=np.int64)
    found = runs(channel >= (1 - _FLAT_TOLERANCE) * top)
    lengths = found[:, 1] - found[:, 0]
    return lengths[lengths >= _FLAT_RUN]


def _silence(active: Mask, seconds: float) -> Values:
    silent = runs(~active) * _BLOCK_SECONDS
    lengths = silent[:, 1] - silent[:, 0]
    end = len(active) * _BLOCK_SECONDS
    return {
        "silence_share": float(lengths.sum() / max(end, _BLOCK_SECONDS)),
        "leading_silence": float(lengths[0]) if len(silent) and silent[0, 0] == 0 else 0.0,
        "trailing_silence": float(lengths[-1]) if len(silent) and not active[-1] else 0.0,
        "longest_silence": min(float(lengths.max(initial=0.0)), seconds),
    }


def _snr(power: Floats, active: Mask) -> float:
    """Active over inactive power, in which the quietest blocks stand for a background that is never alone.

    The upper bound where the background is digital silence.
    """
    if not active.any():
        return 0.0
    background = power[~active]
    if len(background) < _MIN_BACKGROUND:
        background = power[power <= np.percentile(power, 5)]
    noise = float(np.median(background))
    if noise <= 10 ** (FLOOR_DB / 10):
        return MAX_SNR_DB
    speech = max(float(power[active].mean()) - noise, noise * 1e-2)
    return float(min(10 * np.log10(speech / noise), MAX_SNR_DB))


def _hum(waveform: Waveform, sample_rate: int) -> Values:
    """The weaker of the two strongest among the first four harmonics of the mains, for the stronger mains frequency."""
    size = round(sample_rate * _HUM_SECONDS)
    if len(waveform) < 2 * size:
        return {"hum_db": 0.0, "hum_hz": 0.0}
    power, _ = _spectrogram(waveform, size, max(size // 2, len(waveform) // 512))
    power = power[:, : round(300 * _HUM_SECONDS)]
    total = power.sum(axis=1)
    quiet = np.median(power[total <= np.median(total)], axis=0) + 1e-12
    best = {"hum_db": 0.0, "hum_hz": 0.0}
    for mains in _MAINS_HZ:
        heights = []
        for harmonic in (1, 2, 3, 4):
            bin_ = round(mains * harmonic * _HUM_SECONDS)
            around = np.concatenate([quiet[bin_ - 15 : bin_ - 3], quiet[bin_ + 4 : bin_ + 16]])
            heights.append(10 * np.log10(quiet[bin_] / np.median(around)))
        height = float(np.sort(heights)[-2])
        if height > best["hum_db"]:
            best = {"hum_db": height, "hum_hz": mains}
    return best


def _channels(channels: Waveform) -> Values:
    count = channels.shape[1]
    fault = 0
    if count > 1:
        rms = np.sqrt(np.square(channels, dtype=np.float64).mean(axis=0))
        if rms.max() > 0 and rms.min() <= rms.max() * 10 ** (-_DEAD_DB / 20):
            fault = DEAD_CHANNEL
        elif all(np.array_equal(channels[:, 0], channels[:, other]) for other in range(1, count)):
            fault = IDENTICAL_CHANNELS
    return {"num_channels": float(count), "channel_fault": float(fault)}


def _decibel(power: float) -> float:
    return float(10 * np.log10(max(power, 10 ** (FLOOR_DB / 10))))
