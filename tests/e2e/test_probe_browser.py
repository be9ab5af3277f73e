"""Pages of probes and of similarities in a real browser: their pictures are shown and fit, also on a telephone."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechssl.report import layers_section, probe_section, write_report
from speechssl.report.embeddings import similarity_section
from speechssl.report.page import Section, escape

OpenPage = Callable[..., tuple[str, str]]
WIDTHS = (340, 820, 1400)
LAYERS = ("0", "1", "2", "3", "4", "5", "context")

# In each frame: how far it scrolls sideways, and the least width that a picture is shown with.
MEASURE = """
<script>
addEventListener('load', () => {
  const windows = [...document.querySelectorAll('iframe')].map(frame => frame.contentWindow);
  document.title = JSON.stringify(windows.map(w => {
    const root = w.document.documentElement;
    const pictures = [...w.document.querySelectorAll('img, figure svg, .panels svg')];
    const broken = one => one.tagName === "IMG" && !one.naturalWidth;
    const shown = pictures.map(one => broken(one) ? 0 : one.getBoundingClientRect().width);
    return [root.scrollWidth - root.clientWidth, pictures.length, Math.round(Math.min(...shown))];
  }));
});
</script>
"""


def probe(label: str, *, better: str, names: tuple[str, ...]) -> dict[str, Any]:
    random = np.random.default_rng(len(label))
    common = {"interval": [0.1, 0.3], "seed_std": 0.01, "num_seeds": 3, "dimension": 192}
    layers = [{"layer": name, "value": float(value), "interval": [float(value) - 0.05, float(value) + 0.05]}
              for name, value in zip(LAYERS, random.uniform(0.1, 0.9, len(LAYERS)), strict=True)]  # fmt: skip
    scores = [{"name": "log_mel", "value": 0.25, "layer": None, **common}]
    scores += [{"name": name, "value": 0.2, "layer": "1", "layerwise": layers, **common} for name in names]
    return {
        "task": "verify", "metric": "equal error rate", "better": better, "label": label, "chance": 0.5,
        "num_classes": 6, "num_train": 60, "num_test": 300, "unit": "utterances", "num_seeds": 3, "confidence": 0.95,
        "interval_over": "values of speaker", "notes": ["pairs of one recording share its room"], "skipped": ["a"],
        "scores": scores, "differences": [],
    }  # fmt: skip


def heat_map_page() -> list[Section]:
    every = [
        probe("speaker", better="lower", names=("random", "speechssl-tiny")),
        probe("a label that is rather long to read", better="higher", names=("speechssl-tiny",)),
    ]
    return [layers_section(every, "speechssl-tiny"), probe_section(every)]


def similarity_page() -> list[Section]:
    random = np.random.default_rng(0)
    kinds = [f"kind number {row % 12}" for row in range(90)]
    return [similarity_section(random.normal(size=(90, 8)), kinds, name="kind")]


@pytest.mark.parametrize(("make", "least_pictures"), [(heat_map_page, 5), (similarity_page, 1)])
def test_pictures_are_shown_and_fit(
    open_page: OpenPage, tmp_path: Path, make: Callable[[], list[Section]], least_pictures: int
) -> None:
    page = write_report(tmp_path / "page.html", "A page", "in a browser", make())
    document, log = open_page(page)
    assert "CONSOLE" not in log and "Refused" not in log, log
    assert not re.search(r"https?://|src=\"(?!data:)|file://", document)

    text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page.read_text())
    frames = "".join(
        f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{escape(text)}"></iframe>'
        for width in WIDTHS
    )
    wrapper = page.with_name("frames.html")
    wrapper.write_text(f"<body>{MEASURE}{frames}</body>")
    found = re.search(r"<title>(.*?)</title>", open_page(wrapper)[0])
    assert found is not None
    for width, (sideways, pictures, narrowest) in zip(WIDTHS, json.loads(found[1]), strict=True):
        assert sideways <= 0 and pictures >= least_pictures and narrowest > 200, (width, found[1])
