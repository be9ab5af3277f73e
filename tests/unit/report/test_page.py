"""A page is complete in itself, and no text from the data can become markup."""

import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from speechssl.report import Highlight, details, key_values, note, paragraph, section, table, write_report
from speechssl.report.page import Markup, anchor_of, escape, render_report

EVIL = "<script>alert('x')</script> & \"quoted\""


class Balanced(HTMLParser):
    """Fails on tags that are closed in the wrong order; collects ids and what links point to."""

    VOID = {"meta", "link", "br", "img", "path", "use", "rect", "circle", "line", "hr"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [str(values["id"])] if "id" in values else []
        if tag == "a":
            self.targets.append(str(values["href"]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def parse(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_text_is_escaped_everywhere() -> None:
    part = section(
        EVIL,
        paragraph(EVIL),
        note(EVIL),
        table([EVIL, "b"], [[EVIL, EVIL]], caption=EVIL),
        key_values({EVIL: EVIL}),
        details(EVIL, paragraph(EVIL)),
    )
    page = render_report(
        EVIL, EVIL, [part], environment={EVIL: EVIL}, highlights=[Highlight(label=EVIL, value=EVIL, note=EVIL)]
    )
    assert "<script" not in page and "alert(&#x27;x&#x27;)" in page
    parse(page)


def test_contents_link_to_every_section_even_of_one_name() -> None:
    page = render_report("t", "s", [section("Word errors"), section("Word errors"), section("¡Ünïcode!"), section("…")])
    parser = parse(page)
    assert parser.targets == ["#word-errors", "#word-errors-2", "#n-code", "#section"]
    assert {target[1:] for target in parser.targets} <= set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids))


def test_page_asks_for_nothing_from_elsewhere() -> None:
    page = render_report("t", "s", [section("A", paragraph("text"))])
    assert (
        not re.search(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", page) and "url(http" not in page and "@import" not in page
    )
    assert "default-src 'none'" in page and "<script" not in page


def test_table_aligns_numbers_marks_the_best_and_dashes_what_is_missing() -> None:
    markup = table(
        ["Name", "WER", "Reading"], [["a", "12.5 %", "−1 or so"], ["b", None, Markup("<b>x</b>")]], best_row=1
    )
    assert markup.count('<td class="number">') == 2 and '<th scope="col" class="number">WER</th>' in markup
    assert '<tr class="best"><th scope="row">b</th><td class="number">–</td><td><b>x</b></td></tr>' in markup
    assert "Nothing to show" in table(["Name"], [])


def test_report_is_replaced_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(tmp_path / "deep" / "report.html", "first", "", [])
    before = path.read_text()

    def fail(source: object, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("speechssl.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, "second", "", [])
    assert path.read_text() == before and [item.name for item in path.parent.iterdir()] == ["report.html"]


def test_lone_surrogate_does_not_end_the_report(tmp_path: Path) -> None:
    path = write_report(tmp_path / "report.html", "name \udcff", "", [])
    assert "name ?" in path.read_text(encoding="utf-8")


def test_heavy_page_is_written_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        write_report(tmp_path / "report.html", "t", "", [section("A", "x" * 3_100_000)])
    assert "the report has 3.1 MB" in caplog.text


def test_anchor_and_escape() -> None:
    assert anchor_of("Masking and codes") == "masking-and-codes"
    assert escape("<a href='x'>") == "&lt;a href=&#x27;x&#x27;&gt;"
