"""What the objective sees of one utterance: its log-mel spectrogram, the masked spans and the codes."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.lengths import samples_to_seconds
from speechssl.report.figures import PALETTE, drawing, inline_svg
from speechssl.report.page import Section, paragraph, section

HOP_SECONDS = 0.01
WINDOW_SECONDS = 0.025
NUM_MELS = 80


def spectrogram_section(
    waveform: ArrayLike,
    *,
    sample_rate: int,
    frame_seconds: float,
    frame_mask: ArrayLike | None = None,
    codes: ArrayLike | None = None,
    text: str = "",
    title: str = "Masking and codes",
    max_seconds: float = 12.0,
) -> Section:
    """A log-mel spectrogram with its masked frames shaded and the code of every frame as a coloured strip below.

    Args:
        waveform: one utterance, f32 `[S]`.
        sample_rate: in Hz.
        frame_seconds: time from one encoder frame to the next.
        frame_mask: bool `[T]`, True where the context encoder saw the mask instead of the speech.
        codes: i64 `[T, G]`, negative where a frame has no code.
        text: what is said, for the caption.
        title: of the section.
        max_seconds: the figure shows no more than that, from the start.
    """
    signal = np.asarray(waveform, dtype=np.float32).reshape(-1)
    seconds = min(samples_to_seconds(len(signal), sample_rate), max_seconds)
    signal = signal[: int(seconds * sample_rate)]
    num_frames = int(np.ceil(seconds / frame_seconds))
    mask = np.zeros(0, dtype=bool) if frame_mask is None else np.asarray(frame_mask, dtype=bool)[:num_frames]
    strips = np.zeros((0, 0), dtype=np.int64) if codes is None else np.asarray(codes)[:num_frames].T
    sentences = [f"The first {seconds:.1f} s of an utterance."]
    if mask.any():
        sentences.append(
            f"{100 * mask.mean():.0f} % of the frames are masked (hatched): there the encoder sees none of the sound "
            "and must tell which code it is."
        )
    if strips.size:
        sentences.append(
            "Each strip is a codebook: frames of one colour have the same code; frames without colour have none."
        )
    caption = f"“{text}”" if text else ""
    return section(
        title,
        paragraph(" ".join(sentences)),
        _draw(log_mel(signal, sample_rate), seconds, frame_seconds, mask, strips, caption),
    )


def log_mel(signal: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    """Log-mel spectrogram in dB below the loudest cell, `[num_mels, frames]`, floor at -80."""
    import librosa

    window = max(int(WINDOW_SECONDS * sample_rate), 16)
    num_points = int(2 ** np.ceil(np.log2(window)))
    power = librosa.feature.melspectrogram(
        y=np.pad(signal, (0, max(0, num_points - len(signal)))),
        sr=sample_rate,
        n_fft=num_points,
        win_length=window,
        hop_length=max(int(HOP_SECONDS * sample_rate), 1),
        n_mels=NUM_MELS,
    )
    return np.asarray(librosa.power_to_db(power, ref=np.max, top_db=80.0), dtype=np.float32)


def _draw(
    mel: NDArray[np.float32],
    seconds: float,
    frame_seconds: float,
    mask: NDArray[np.bool_],
    strips: NDArray[np.int64],
    caption: str,
) -> str:
    num_strips = len(strips)
    with drawing(9.6, 2.9 + 0.3 * num_strips) as figure:
        grid = figure.add_gridspec(1 + num_strips, 1, height_ratios=[9] + [1] * num_strips, hspace=0.05)
        axes = figure.add_subplot(grid[0])
        axes.imshow(mel, origin="lower", aspect="auto", cmap="cividis", extent=(0, seconds, 0, len(mel)))
        axes.grid(visible=False)
        axes.set(ylabel="mel band", xlim=(0, seconds))
        for start, end in spans(mask):
            axes.axvspan(start * frame_seconds, end * frame_seconds, facecolor="#ffffff", alpha=0.5, linewidth=0)
            axes.axvspan(start * frame_seconds, end * frame_seconds, facecolor="none", edgecolor=PALETTE["red"],
                         hatch="///", linewidth=1, alpha=0.8)  # fmt: skip
        for index, row in enumerate(strips):
            strip = figure.add_subplot(grid[index + 1], sharex=axes)
            strip.imshow(_code_colours(row)[None], aspect="auto", interpolation="nearest",
                         extent=(0, len(row) * frame_seconds, 0, 1))  # fmt: skip
            strip.set(yticks=[], xlim=(0, seconds))
            strip.grid(visible=False)
            strip.set_ylabel(f"codes {index + 1}", rotation=0, ha="right", va="center")
        for row_axes in figure.axes[:-1]:
            row_axes.tick_params(labelbottom=False)
        figure.axes[-1].set_xlabel("seconds")
    spoken = f"Log-mel spectrogram of {seconds:.1f} s with {len(spans(mask))} masked spans and {num_strips} code strips"
    return inline_svg(figure, label=spoken, caption=caption, wide=True)


def spans(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The runs of True in a mask `[T]` as (first, one past the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _code_colours(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """A colour `[T, 4]` for each code; ids next to each other get colours far apart, no code is transparent."""
    from matplotlib import colormaps

    golden = 0.6180339887
    colours = np.asarray(colormaps["turbo"]((codes * golden) % 1.0), dtype=np.float64)
    colours[codes < 0] = 0.0
    return colours
