"""An audit of recorded speech from the command line to the page in a browser."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl import audio
from speechssl.audio import resample
from speechssl.cli import main
from speechssl.manifest import Manifest, build_manifest

pytestmark = pytest.mark.corpora
PATIENCE = "--virtual-time-budget=5000"  # milliseconds
NUM_CLIPS = 12


@pytest.fixture(scope="module")
def folders(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train/` and `test/` of recorded speech, with four leaks and two defects put in."""
    top = tmp_path_factory.mktemp("audit")
    sources = [path for corpus in ("librispeech_train100_251spk", "kathleen_en", "ljspeech_part")
               for path in sorted((corpora / corpus / "audio").iterdir())[:NUM_CLIPS]]  # fmt: skip
    for number, path in enumerate(sources):
        folder = top / ("train" if number % 3 else "test")
        folder.mkdir(exist_ok=True)
        waveform = audio.read(path, sample_rate=16_000)
        soundfile.write(folder / f"{path.stem}.flac", waveform, 16_000, subtype="PCM_16")
    train = sorted((top / "train").iterdir())
    shutil.copy(train[0], top / "test" / "equal.flac")
    low = resample(audio.read(train[5]), from_rate=16_000, to_rate=8_000)
    soundfile.write(top / "test" / "telephone.mp3", 0.3 * low, 8_000)
    cut = audio.read(train[9], offset=1.0, duration=2.0)
    soundfile.write(top / "test" / "cut.opus", cut, 16_000, format="OGG", subtype="OPUS")
    wave = audio.read(train[20])
    soundfile.write(
        top / "test" / "later.wav",
        wave[8_000:] + 0.001 * np.random.default_rng(0).normal(size=len(wave) - 8_000),
        16_000,
    )
    soundfile.write(top / "train" / "clipped.wav", np.clip(20 * audio.read(train[2]), -1, 1), 16_000)
    for part in ("train", "test"):
        build_manifest(top / part, output=top / f"{part}.jsonl")
    (top / "expected.json").write_text(
        json.dumps({"equal": train[0].stem, "telephone": train[5].stem, "cut": train[9].stem, "later": train[20].stem})
    )
    return top


@pytest.fixture(scope="module")
def result(folders: Path) -> dict[str, object]:
    """What the command wrote as JSON."""
    code = main(["manifest", "audit", str(folders / "train.jsonl"), str(folders / "test.jsonl"), "--json",
                 str(folders / "audit.json"), "--html", str(folders / "audit.html"), "--output", str(folders / "clean"),
                 "--cache", str(folders / "cache")])  # fmt: skip
    assert code == 1
    loaded: dict[str, object] = json.loads((folders / "audit.json").read_text())
    return loaded


def test_every_leak_is_found_and_nothing_else(result: dict[str, list[dict]], folders: Path) -> None:  # type: ignore[type-arg]
    expected = json.loads((folders / "expected.json").read_text())
    found = {Path(p["second"]["id"]).stem: Path(p["first"]["id"]).stem for p in result["pairs"]}
    assert found == expected
    how = {Path(p["second"]["id"]).stem: p["how"] for p in result["pairs"]}
    assert how == {"equal": "samples", "telephone": "content", "cut": "content", "later": "content"}
    by_name = {Path(p["second"]["id"]).stem: p for p in result["pairs"]}
    assert by_name["cut"]["offset_seconds"] == pytest.approx(1.0, abs=0.02)
    assert by_name["cut"]["seconds"] == pytest.approx(2.0, abs=0.1)
    assert by_name["later"]["offset_seconds"] == pytest.approx(0.5, abs=0.002)


def test_the_clipped_recording_is_the_one_that_is_told(result: dict[str, list[dict]]) -> None:  # type: ignore[type-arg]
    findings = {finding["kind"]: [row["id"] for row in finding["rows"]] for finding in result["findings"]}
    assert findings["clipping"] == ["clipped"]


def test_cleaned_manifests_are_clean(result: dict[str, object], folders: Path) -> None:
    clean = folders / "clean"
    assert len(Manifest.load(clean / "train.dropped.jsonl")) == 4
    words = [
        "manifest",
        "audit",
        str(clean / "train.jsonl"),
        str(clean / "test.jsonl"),
        "--cache",
        str(folders / "cache"),
    ]
    assert main(words) == 0


def test_the_page_is_shown_and_its_recordings_play(
    result: dict[str, object], folders: Path, open_page: Callable[..., tuple[str, str]]
) -> None:
    document, log = open_page(folders / "audit.html", PATIENCE)
    assert "CONSOLE" not in log and "Refused to load" not in log, log
    assert document.count("<audio ") >= 8
    assert not re.search(r"https?://|file://", document)
    sources = re.findall(r'<audio [^>]*src="(data:[^"]+)"', document)
    players = "".join(f'<audio src="{source}" preload="auto"></audio>' for source in sources[:4])
    script = (
        "const all = [...document.querySelectorAll('audio')];"
        "let left = all.length; const done = () => { if (--left == 0)"
        " document.title = all.map(a => a.error ? 'error' : a.duration.toFixed(1)).join() };"
        "for (const a of all) { if (a.readyState > 0 || a.error) done();"
        " else { a.onloadedmetadata = done; a.onerror = done } }"
    )
    (folders / "heard.html").write_text(f"<title>waiting</title>{players}<script>{script}</script>")
    heard, _ = open_page(folders / "heard.html", PATIENCE)
    title = re.search(r"<title>(.*?)</title>", heard)
    assert title is not None and len(title[1].split(",")) == 4, title
    assert all(1 < float(seconds) < 5 for seconds in title[1].split(",")), title[1]
