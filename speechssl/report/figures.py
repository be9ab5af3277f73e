"""Matplotlib figures as inline SVG that follows the page's colours, or as PNG where SVG would be heavy.

Text in a figure stays text in the page's own font, axes take the colour of the text around them, and the palette's
colours become variables of the style sheet: the same figure serves light pages, dark pages and print.
"""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from speechssl.report.page import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 112  # at most, so that text in a figure is no larger than the text around it

INK = "#010203"  # stands for the page's text colour until the figure is inlined
SOFT = "#040506"  # likewise for rules and grid lines
PAGE = "#070809"  # likewise for the page's background

PALETTE = {
    "blue": "#0072b2",
    "red": "#d55e00",
    "green": "#009e73",
    "purple": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
    "yellow": "#f0e442",
    "grey": "#7a828c",
}
COLOURS = tuple(PALETTE.values())
LINE_STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "speechssl",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": SOFT,
    "grid.alpha": 0.45,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
}


def colour(index: int) -> str:
    """The palette's colour number `index`, counted round."""
    return COLOURS[index % len(COLOURS)]


@contextmanager
def drawing(width: float = 4.6, height: float = 2.9) -> "Iterator[Figure]":
    """An empty figure of so many inches, to be drawn in a `with` block under the report's style; no global state."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def inline_svg(figure: "Figure", *, label: str, caption: str = "", wide: bool = False) -> str:
    """The figure as `<figure>` with inline SVG. `label` tells in words what it shows, for those who do not see it.

    A wide figure keeps a readable width on a phone and scrolls sideways there.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _figure(
        _clean_svg(buffer.getvalue(), label, figure.get_figwidth() * PIXELS_PER_INCH), caption, "wide" if wide else ""
    )


def inline_png(figure: "Figure", *, label: str, caption: str = "", wide: bool = False, dpi: int = 150) -> str:
    """The figure as `<figure>` with a PNG data URI, on white in any colour scheme."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f'<img class="plain" alt="{escape(label)}" src="data:image/png;base64,{data}">'
    return _figure(image, caption, "wide" if wide else "")


def panels(figures: list[str]) -> str:
    """Figures side by side where there is room, below each other where not."""
    return f'<div class="panels">{"".join(figures)}</div>'


def _figure(content: str, caption: str, kind: str) -> str:
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    attribute = f' class="{kind}"' if kind else ""
    return f"<figure{attribute}>{content}{text}</figure>"


def _clean_svg(svg: str, label: str, width: float) -> str:
    """Only the `<svg>` element, without metadata, namespaces and ids that could clash, in the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" style="max-width: {width:.0f}px" ', 1)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1; font-family: inherit", svg)
    svg = re.sub(r"font: (bold|\d{3}) ([\d.]+px)[^;\"]*", r"font-weight: \1; font-size: \2; font-family: inherit", svg)
    svg = svg.replace(INK, "var(--ink)").replace(SOFT, "var(--rule)").replace(PAGE, "var(--page)")
    for name, value in PALETTE.items():
        svg = svg.replace(value, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg).strip()
