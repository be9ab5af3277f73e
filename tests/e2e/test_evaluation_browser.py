"""The pages of an evaluation and of a comparison in a real browser: sorted by clicks, heard, and nothing fetched."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.cli import main
from speechssl.manifest import Manifest
from speechssl.report.page import escape
from speechssl.types import Utterance

OpenPage = Callable[..., tuple[str, str]]
SPOILT = {0: "", 1: "quite other words", 2: None, 3: None, 4: None}
"""What is recognised of the first clips; None is what was said, without its first word."""


@pytest.fixture(scope="module")
def pages(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluations of a dozen clips of read speech, and their comparison."""
    import soundfile

    folder = tmp_path_factory.mktemp("evaluation")
    root = corpora / "kathleen_en"
    with (root / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        rows = [next(reader) for reader in [csv.DictReader(file, delimiter="\t")] for _ in range(12)]
    utterances = []
    for number, row in enumerate(rows):
        info = soundfile.info(root / row["path"])
        utterances.append(
            Utterance(
                id=f"u{number}", audio_filepath=str(root / row["path"]), sample_rate=info.samplerate,
                num_samples=info.frames, duration=info.frames / info.samplerate, text=row["text"], speaker="kathleen",
            )
        )  # fmt: skip
    Manifest.from_utterances(utterances).save(folder / "test.jsonl")
    for name, spoilt in (("worse", SPOILT), ("better", {2: None})):
        lines = []
        for number, row in enumerate(rows):
            text = spoilt.get(number, row["text"])
            lines.append(f"{row['text'].split(' ', 1)[1] if text is None else text} (u{number})\n")
        (folder / f"{name}.trn").write_text("".join(lines))
        words = f"evaluate --hypotheses {folder / name}.trn --manifest {folder}/test.jsonl --output {folder / name}"
        assert main([*words.split(), "--breakdown", "num_words", "duration"]) == 0
    assert main(["compare", str(folder / "worse"), str(folder / "better"), "--output", str(folder / "both")]) == 0
    return folder


def run_in_page(open_page: OpenPage, page: Path, code: str) -> str:
    """Open a page as it is, with its own policy, in a frame, and run `code` (a function of its document) outside."""
    wrapper = page.with_name(f"frame-{page.stem}.html")
    wrapper.write_text(
        f"<body onload='document.title = ({code})(document.querySelector(`iframe`).contentDocument)'>"
        f'<iframe style="width: 1000px; height: 900px" srcdoc="{escape(page.read_text())}"></iframe>'
    )
    document, log = open_page(wrapper)
    assert "CONSOLE" not in log and "Refused" not in log, log[-2000:]
    found = re.search(r"<title>(.*?)</title>", document, re.DOTALL)
    assert found is not None
    return found[1]


ORDER = 'frame => [...frame.querySelectorAll(".cards .utterance")].map(card => card.dataset.place).join(" ")'


def test_utterances_are_sorted_by_a_click_and_can_be_heard(open_page: OpenPage, pages: Path) -> None:
    page = pages / "worse" / "report.html"
    errors = [int(value) for value in re.findall(r'data-errors="(\d+)"', page.read_text())]
    assert errors == sorted(errors, reverse=True) and len(errors) == 12 and errors[0] > 2
    click = ORDER.replace("frame => ", 'frame => (frame.querySelector(".sort-by button[value=place]").click(), ') + ")"
    assert run_in_page(open_page, page, click) == " ".join(str(number) for number in range(11, -1, -1))
    players = page.read_text().count("<audio")
    assert players == 12
    state = 'frame => [...frame.querySelectorAll("audio")].filter(one => one.canPlayType("audio/mpeg") !== "").length'
    assert run_in_page(open_page, page, state) == "12"
    assert not re.search(r'https?://|src="(?!data:)', page.read_text())


def test_tables_are_sorted_by_a_click_on_a_header(open_page: OpenPage, pages: Path) -> None:
    code = (
        'frame => { const table = frame.querySelectorAll("table.sortable")[0];'
        ' table.tHead.rows[0].cells[1].querySelector("button").click();'
        ' return [...table.tBodies[0].rows].map(row => parseFloat(row.cells[1].textContent)).join(" ")'
        ' + " " + table.tHead.rows[0].cells[1].getAttribute("aria-sort"); }'
    )
    *rates, direction = run_in_page(open_page, pages / "worse" / "report.html", code).split()
    assert direction == "descending" and len(rates) > 1
    assert [float(rate) for rate in rates] == sorted((float(rate) for rate in rates), reverse=True)


def test_comparison_shows_both_systems_where_they_differ(open_page: OpenPage, pages: Path) -> None:
    code = 'frame => frame.querySelectorAll(".arm").length + " " + frame.querySelectorAll("h2").length'
    # clips 0, 1, 3 and 4 differ, each shown for two systems; systems, differences, two groups, utterances
    assert run_in_page(open_page, pages / "both" / "comparison.html", code) == "8 5"
