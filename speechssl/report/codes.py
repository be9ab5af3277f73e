"""How evenly a quantizer uses its codebooks."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechssl.report.figures import LINE_STYLES, colour, drawing, inline_svg, panels
from speechssl.report.page import Section, paragraph, section, table


def code_entropy(counts: NDArray[np.float64]) -> float:
    """Entropy in bits of one codebook's usage counts `[V]`; 0 when nothing was counted."""
    total = counts.sum()
    if total == 0:
        return 0.0
    share = counts[counts > 0] / total
    return float(max(0.0, -(share * np.log2(share)).sum()))


def codes_section(counts: ArrayLike, *, title: str = "Code usage", source: str = "") -> Section:
    """Usage of each codebook, sorted by frequency, with its entropy and perplexity.

    Args:
        counts: how often each entry was chosen, `[G, V]`.
        title: of the section.
        source: what the codes were counted on, in words.
    """
    usage = np.atleast_2d(np.asarray(counts, dtype=np.float64))
    num_entries = usage.shape[1]
    rows = []
    for index, row in enumerate(usage):
        entropy = code_entropy(row)
        top = np.sort(row)[::-1][: max(1, num_entries // 10)].sum() / max(row.sum(), 1)
        rows.append(
            [
                f"Codebook {index + 1}",
                f"{int((row > 0).sum())} of {num_entries}",
                f"{entropy:.2f} of {np.log2(num_entries):.2f} bits",
                f"{2**entropy:.1f}",
                f"{100 * top:.0f} %",
            ]
        )
    explanation = (
        "Codes sorted by how often they are chosen. A flat curve means that every code is used alike; "
        "a curve that falls to nothing means that few codes do all the work."
    )
    return section(
        title,
        paragraph((f"Counted on {source}. " if source else "") + explanation),
        table(["", "Codes in use", "Entropy", "Perplexity", "Share of the busiest tenth"], rows),
        panels([_draw_usage(usage)]),
    )


def _draw_usage(usage: NDArray[np.float64]) -> str:
    num_entries = usage.shape[1]
    with drawing() as figure:
        axes = figure.add_subplot()
        for index, row in enumerate(usage):
            share = np.sort(row)[::-1] / max(row.sum(), 1) * 100
            axes.stairs(
                share,
                np.arange(num_entries + 1),
                color=colour(index),
                linewidth=1.6,
                linestyle=LINE_STYLES[index % len(LINE_STYLES)],
                label=f"codebook {index + 1}",
            )
        axes.axhline(100 / num_entries, color=colour(7), linestyle=":", linewidth=1.2, label="all alike")
        axes.set(title="Usage, sorted", xlabel="rank of the code", ylabel="% of frames", ylim=(0, None))
        axes.set_xlim(0, num_entries)
        axes.legend()
    perplexities = ", ".join(f"{2 ** code_entropy(row):.1f}" for row in usage)
    return inline_svg(
        figure, label=f"Sorted usage of {len(usage)} codebooks of {num_entries} codes; perplexity {perplexities}"
    )
