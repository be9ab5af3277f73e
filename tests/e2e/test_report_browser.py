"""The report in a real browser: every section is there, nothing is fetched, nothing is complained about."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from speechssl.manifest import Manifest
from speechssl.report import (
    Highlight,
    codes_section,
    curves_section,
    data_section,
    embeddings_section,
    probe_section,
    spectrogram_section,
    wer_section,
    write_report,
)
from speechssl.report.page import escape
from speechssl.scoring import score
from speechssl.types import Utterance

TITLES = ["Data", "Training", "Masking and codes", "Code usage", "Word errors", "Probe", "Embeddings"]
OpenPage = Callable[..., tuple[str, str]]
WIDTHS = (340, 390, 820, 1400)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    records = [
        {"step": step, "loss": 5 / step, "accuracy": step / 200, "code_perplexity": step / 2, "learning_rate": 1e-3}
        for step in range(1, 101)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    manifest = Manifest.from_utterances(
        Utterance(id=f"u{row}", audio_filepath=f"{row}.wav", sample_rate=16_000, num_samples=16_000,
                  duration=1.0 + row / 9, speaker=f"speaker {row % 9}", language="en" if row % 2 else "de")
        for row in range(40)
    )  # fmt: skip
    references = {f"u{row}": "a sentence of a few words and <i>more</i> words" for row in range(9)}
    arms = {
        name: score(references, {key: text[skip:] for key, text in references.items()}, normalizer="none")
        for name, skip in (("from scratch", 12), ("pre-trained", 2))
    }
    score_of = {"interval": [0.5, 0.7], "seed_std": 0.01, "num_seeds": 3, "dimension": 80, "layer": None}
    probe = {
        "label": "digit", "num_classes": 10, "num_train": 60, "num_test": 300, "num_seeds": 3, "confidence": 0.95,
        "interval_over": "utterances", "majority": 0.1, "skipped": [], "differences": [],
        "scores": [{"name": name, "accuracy": 0.6, **score_of} for name in ("log_mel", "encoder")],
    }  # fmt: skip
    speakers = manifest.column("speaker").to_pylist()
    sections = [
        data_section({"train": manifest}),
        curves_section(folder, num_entries=64),
        spectrogram_section(random.normal(size=16_000), sample_rate=16_000, frame_seconds=0.02,
                            frame_mask=np.arange(50) % 20 < 9, codes=random.integers(0, 9, (50, 2))),
        codes_section(random.integers(0, 90, (2, 64))),
        wer_section(arms),
        probe_section(probe),
        embeddings_section(random.normal(size=(40, 8)), {"speaker": speakers}),
    ]  # fmt: skip
    return write_report(
        folder / "report.html",
        "A <run>",
        "in a browser",
        sections,
        environment={"commit": "0" * 64, "hardware": "x" * 90},
        highlights=[Highlight(label="WER", value="12.5 %", note="10 – 15")],
    )


def test_all_sections_are_shown_without_fetching_or_complaint(open_page: OpenPage, report: Path) -> None:
    document, log = open_page(report)
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", document) == TITLES
    for anchor in re.findall(r'<a href="#([^"]+)"', document):
        assert f'<section id="{anchor}"' in document
    assert "<title>A &lt;run&gt;</title>" in document and document.count("<svg") >= 12
    assert document.rstrip().endswith("</html>")
    assert not re.search(r"https?://|src=\"(?!data:)|file://", document)
    assert "CONSOLE" not in log and "Refused to load" not in log, log


def test_page_never_scrolls_sideways(open_page: OpenPage, report: Path) -> None:
    page = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", report.read_text())
    frames = "".join(
        f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{escape(page)}"></iframe>'
        for width in WIDTHS
    )
    windows = "[...document.querySelectorAll(`iframe`)].map(frame => frame.contentWindow)"
    measure = (
        f"{windows}.map(w => w.document.documentElement.scrollWidth - w.document.documentElement.clientWidth).join()"
    )
    wrapper = report.with_name("frames.html")
    wrapper.write_text(f"<body onload='document.title = {measure}'>{frames}</body>")
    document, _ = open_page(wrapper)
    found = re.search(r"<title>(.*?)</title>", document)
    assert found is not None and len(found[1].split(",")) == len(WIDTHS)
    assert all(int(excess) <= 0 for excess in found[1].split(",")), found[1]
