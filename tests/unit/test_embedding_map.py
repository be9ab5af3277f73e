"""The page of a map holds every utterance once, with its sound, and says what it leaves out."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.cli import main
from speechssl.embed import EmbedConfig, stage
from speechssl.embedding_map import MapConfig, run
from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest
from speechssl.report import layers_section, probe_section
from speechssl.report.embeddings import similarity_section
from speechssl.report.map import MapPoint, map_section
from speechssl.types import Utterance

RATE = 16_000
SMALL = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_groups": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("map")
    random = np.random.default_rng(0)
    rows = []
    for number in range(12):
        soundfile.write(folder / f"{number}.wav", random.normal(size=4000) * 0.1, RATE)
        rows.append(
            Utterance(id=f"</script>{number}", audio_filepath=str(folder / f"{number}.wav"), sample_rate=RATE,
                      num_samples=4000, duration=0.25, speaker=f"s{number % 2}", text=f"text {number}")
        )  # fmt: skip
    Manifest.from_utterances(rows).save(folder / "all.jsonl")
    SpeechEncoder(encoder_config("tiny", SMALL), seed=5).save(folder / "model")
    for pool in ("mean", "none"):
        stage.run(EmbedConfig(checkpoint=str(folder / "model"), manifest=folder / "all.jsonl",
                              output=folder / pool, pool=pool))  # type: ignore[arg-type]  # fmt: skip
    return folder


def data_of(page: str) -> dict[str, list[object]]:
    found = re.search(r'id="map-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def test_page_holds_every_utterance_with_its_sound(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["map", str(folder / "mean"), "--output", str(tmp_path / "map.html")]) == 0
    assert "map.html" in capsys.readouterr().out
    page = (tmp_path / "map.html").read_text()
    data = data_of(page)
    assert data["names"] == [f"</script>{number}" for number in range(12)]
    assert data["details"][3] == "text 3 · 0.2 s" and data["labels"]["speaker"] == ["s0", "s1"] * 6  # type: ignore[call-overload]
    assert all(str(sound).startswith("data:audio/") for sound in data["sounds"])
    places = np.array(data["points"], dtype=float)
    assert places.min() >= 0 and places.max() <= 1000 and len(np.unique(places, axis=0)) == 12
    assert page.count("</script>") == 2 and "Similarity by speaker" in page and "script-src 'sha256-" in page


def test_sound_that_has_no_room_or_is_gone_is_told(folder: Path, tmp_path: Path) -> None:
    few = run(MapConfig(embeddings=folder / "mean", output=tmp_path / "few.html", method="pca", max_megabytes=0.01))
    sounds = data_of(few.read_text())["sounds"]
    heard = sum(sound is not None for sound in sounds)
    assert 0 < heard < 12 and f"({heard} of 12 can be heard)" in few.read_text()
    (folder / "3.wav").rename(folder / "moved.wav")
    try:
        gone = run(MapConfig(embeddings=folder / "mean", output=tmp_path / "gone.html", method="pca", num_points=12))
    finally:
        (folder / "moved.wav").rename(folder / "3.wav")
    assert "1 recordings cannot be read any more and have no sound" in gone.read_text()
    sample = run(MapConfig(embeddings=folder / "mean", output=tmp_path / "s.html", method="pca", num_points=5))
    assert "A sample of 5 of 12." in sample.read_text() and len(data_of(sample.read_text())["names"]) == 5


def test_similarity_is_higher_where_vectors_are_alike() -> None:
    random = np.random.default_rng(0)
    values = ["a", "b", None] * 10
    vectors = random.normal(size=(30, 8)) + 3 * np.eye(3, 8)[np.arange(30) % 3]
    words = similarity_section(vectors, values, name="kind").html
    found = re.search(r"mean cosine (-?[\d.]+) within a value of kind, (-?[\d.]+) between values", words)
    assert found is not None and float(found[1]) > 0.2 > 0 > float(found[2])
    with pytest.raises(ConfigError, match="2 values of 'kind' for 30 embeddings"):
        similarity_section(vectors, values[:2], name="kind")


def task_result(**values: object) -> dict[str, object]:
    layers = [{"layer": name, "value": value, "interval": [value - 0.05, value + 0.05]}
              for name, value in (("0", 0.4), ("1", 0.2), ("context", 0.3))]  # fmt: skip
    common = {"interval": [0.1, 0.3], "seed_std": 0.01, "num_seeds": 3, "dimension": 80}
    return {
        "task": "verify", "metric": "equal error rate", "better": "lower", "label": "<speaker>", "chance": 0.5,
        "num_classes": 6, "num_train": 60, "num_test": 300, "unit": "utterances", "num_seeds": 3, "confidence": 0.95,
        "interval_over": "values of speaker", "notes": ["a <remark>"], "skipped": [],
        "scores": [{"name": "mfcc", "value": 0.25, "layer": None, **common},
                   {"name": "mine", "value": 0.2, "layer": "1", "layerwise": layers, **common}],
        "differences": [{"name": "mine", "baseline": "mfcc", "difference": -0.05, "interval": [-0.09, -0.01]}],
        **values,
    }  # fmt: skip


def test_report_reads_lower_as_better_where_it_is() -> None:
    html = probe_section(task_result()).html
    words = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    assert "mfcc 25.0 %" in words and "Equal error rate" in words and "clearly better" in words
    assert "knowing nothing would give 50.0 %" in words and "a &lt;remark&gt;" in words
    assert re.search(r'<tr class="best"><th scope="row">mine', html)
    assert "equal error rate by layer: mine 0: 40.0, 1: 20.0, context: 30.0" in html
    worse = task_result(
        differences=[{"name": "mine", "baseline": "mfcc", "difference": 0.05, "interval": [0.01, 0.09]}]
    )
    assert "clearly worse" in probe_section(worse).html


def test_heat_map_names_every_layer_of_every_probe() -> None:
    part = layers_section([task_result(), task_result(better="higher", metric="accuracy")], "mine")
    assert "mine, test values by layer" in part.html and part.html.count("0 40.0, 1 20.0, context 30.0") == 2
    assert "No probe of other has values by layer" in layers_section([task_result()], "other").html


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds frames; a map needs one vector an utterance"):
        run(MapConfig(embeddings=folder / "none", output=tmp_path / "x.html"))
    with pytest.raises(ConfigError, match="has no column 'mood' to colour by; it has id, "):
        run(MapConfig(embeddings=folder / "mean", output=tmp_path / "x.html", colours=("mood",)))
    with pytest.raises(ConfigError, match="num_points must be between 3 and 3000, but is 2"):
        MapConfig(embeddings=folder / "mean", output=tmp_path / "x.html", num_points=2)
    with pytest.raises(ConfigError, match="1 values of 'utterances' for 2 points"):
        map_section(np.zeros((2, 2)), [MapPoint(name="a")], {})
