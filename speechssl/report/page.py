"""A report page: sections in one HTML file that needs nothing else, neither network nor script."""

import base64
import hashlib
import html
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.files import replacing
from speechssl.report.stylesheet import STYLESHEET

logger = logging.getLogger(__name__)

MAX_PAGE_BYTES = 3_000_000

# The browser itself then refuses whatever would leave the page.
CONTENT_POLICY = (
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a page. `title` is plain text, `html` is trusted markup, `anchor` the target of links."""

    title: str
    html: str
    anchor: str


@dataclass(frozen=True, kw_only=True)
class Highlight:
    """A figure for the top of the page: what it is, its value and an optional remark, all plain text."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Markup:
    """HTML that goes into a table cell as it is; any other cell is escaped."""

    html: str


Cell = str | int | float | None | Markup


def escape(text: object) -> str:
    """`text` with everything that HTML would read as markup made harmless, quotes included."""
    return html.escape(str(text), quote=True)


def anchor_of(title: str) -> str:
    """A link target made of a title: `Word errors` -> `word-errors`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """A paragraph of plain text that stands out, for a warning."""
    return f'<p class="note" role="note">{escape(text)}</p>'


def section(title: str, *parts: str, anchor: str | None = None) -> Section:
    """A section of markup parts; the anchor follows from the title unless given."""
    return Section(title=title, html="\n".join(parts), anchor=anchor or anchor_of(title))


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    caption: str = "",
    best_row: int | None = None,
    sortable: bool = False,
) -> str:
    """A table whose cells are escaped; the first column is the row's heading, numbers are aligned to the right.

    A text that begins with a digit or sign counts as a number. `None` shows as a dash. `best_row` is set in bold. A
    sortable table has buttons for headers, on a page with `sorting.SCRIPT`.
    """
    if not rows:
        return '<p class="empty">Nothing to show.</p>'
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(headers))]
    titles = [f'<button type="button">{escape(title)}</button>' if sortable else escape(title) for title in headers]
    head = "".join(f'<th scope="col"{_class(numeric[i])}>{title}</th>' for i, title in enumerate(titles))
    body = []
    for index, row in enumerate(rows):
        cells = [f'<th scope="row"{_class(numeric[0])}>{_cell(row[0])}</th>']
        cells += [f"<td{_class(numeric[i + 1])}>{_cell(cell)}</td>" for i, cell in enumerate(row[1:])]
        attribute = ' class="best"' if index == best_row else ""
        body.append(f"<tr{attribute}>{''.join(cells)}</tr>")
    title = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    kind = ' class="sortable"' if sortable else ""
    markup = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<figure class="table">{title}<div class="scroll">{markup}</div></figure>'


def key_values(values: Mapping[str, object]) -> str:
    """A two-column table of names and values, for settings and environments."""
    return table(("", ""), [(name, str(value)) for name, value in values.items()]).replace(
        '<thead><tr><th scope="col"></th><th scope="col"></th></tr></thead>', ""
    )


def details(summary: str, markup: str) -> str:
    """A part that the reader opens when wanted; `summary` is plain text."""
    return f"<details><summary>{escape(summary)}</summary>{markup}</details>"


def render_report(
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    *,
    environment: Mapping[str, object] | None = None,
    highlights: Sequence[Highlight] = (),
    script: str = "",
) -> str:
    """The whole page as HTML text; see `write_report`."""
    anchors = _unique_anchors(sections)
    links = "".join(
        f'<li><a href="#{anchor}">{escape(part.title)}</a></li>' for part, anchor in zip(sections, anchors, strict=True)
    )
    body = "\n".join(
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">\n<h2 id="{anchor}-title">{escape(part.title)}</h2>\n'
        f"{part.html}\n</section>"
        for part, anchor in zip(sections, anchors, strict=True)
    )
    cards = "".join(
        f'<div class="highlight"><dt>{escape(card.label)}</dt><dd>{escape(card.value)}{_small(card.note)}</dd></div>'
        for card in highlights
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLESHEET}</style>
</head>
<body>
<div class="page">
<header>
<h1>{escape(title)}</h1>
<p class="subtitle">{escape(subtitle)}</p>
{f'<dl class="highlights">{cards}</dl>' if cards else ""}
{details("Environment", key_values(environment)) if environment else ""}
</header>
<div class="columns">
<nav class="contents" aria-label="Contents"><ol>{links}</ol></nav>
<main>
{body}
</main>
</div>
<footer>Made by speechssl. This page is complete in itself: it loads nothing and {
        "runs only the script within." if script else "runs no script."
    }</footer>
</div>
{f"<script>{script}</script>" if script else ""}</body>
</html>
"""


def write_report(
    path: str | Path,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    *,
    environment: Mapping[str, object] | None = None,
    highlights: Sequence[Highlight] = (),
    script: str = "",
) -> Path:
    """Write one self-contained HTML file.

    Args:
        path: where to write; folders are made, an existing file is replaced at once or not at all.
        title: plain text, also the browser's tab.
        subtitle: plain text: what the run was.
        sections: in the order shown, each with a link in the table of contents.
        environment: names and values of versions, hardware and data, folded away under the header.
        highlights: the run's main figures, shown as cards at the top.
        script: JavaScript put at the end; the page then tells the browser to run this and nothing else.

    Returns:
        The path written.
    """
    path = Path(path)
    page = render_report(title, subtitle, sections, environment=environment, highlights=highlights, script=script)
    encoded = page.encode("utf-8", errors="replace")
    if len(encoded) > MAX_PAGE_BYTES:
        logger.warning("%s: the report has %.1f MB and may open slowly", path, len(encoded) / 1e6)
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)
    return path


def _policy(script: str) -> str:
    if not script:
        return CONTENT_POLICY
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{CONTENT_POLICY}; script-src 'sha256-{digest}'"


def _small(text: str) -> str:
    return f"<small>{escape(text)}</small>" if text else ""


def _unique_anchors(sections: Sequence[Section]) -> list[str]:
    anchors: list[str] = []
    for part in sections:
        base = anchor_of(part.anchor)
        anchor, number = base, 2
        while anchor in anchors:
            anchor, number = f"{base}-{number}", number + 1
        anchors.append(anchor)
    return anchors


def _class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _is_number(cell: Cell) -> bool:
    if isinstance(cell, Markup):
        return False
    return cell is None or isinstance(cell, int | float) or bool(re.match(r"[-+−±–]?\d|[-–]$", cell))


def _cell(cell: Cell) -> str:
    if isinstance(cell, Markup):
        return cell.html
    return "–" if cell is None else escape(cell)
