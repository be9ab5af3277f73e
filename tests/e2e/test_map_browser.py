"""The map of embeddings in a real browser: it is drawn, tells what is pointed at and plays what is clicked."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from speechssl.report.map import MapPoint, map_section, write_map
from speechssl.report.player import SAMPLE_RATE, sound_uri

OpenPage = Callable[..., tuple[str, str]]
AUTOPLAY = ("--autoplay-policy=no-user-gesture-required", "--virtual-time-budget=8000")

# Runs after the page's own script; what happened goes into the title, since only the document is dumped.
CHECK = """<script>
const dot = document.querySelectorAll('circle')[3], log = [];
window.addEventListener('error', event => log.push('ERROR ' + event.message));
const played = new Promise(done => {
  const play = HTMLMediaElement.prototype.play;
  HTMLMediaElement.prototype.play = function () {
    done(this.src.slice(0, 15));
    this.addEventListener('canplaythrough', () => { log.push('decoded ' + this.duration.toFixed(1)); finish(); });
    this.load();
    return play.call(this).catch(() => {});
  };
});
const moved = [];
new MutationObserver(found => moved.push(...found)).observe(dot.parentNode, {childList: true});
dot.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));
log.push(document.getElementById('map-told').textContent);
dot.dispatchEvent(new MouseEvent('click', {bubbles: true}));
played.then(source => log.push(source));
const first = document.querySelector('#map-legend button');
first.click();
log.push(document.querySelectorAll('circle.dim').length);
first.click();
const find = document.getElementById('map-find');
find.value = 'number 5';
find.dispatchEvent(new Event('input'));
log.push(document.querySelectorAll('circle:not(.dim)').length);
function finish() { log.push(moved.length); document.title = JSON.stringify(log); }
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    tone = (0.3 * np.sin(np.arange(SAMPLE_RATE) * 0.2)).astype(np.float32)
    utterances = [
        MapPoint(name=f"<u{row}>", details=f"number {row}", sound=sound_uri(tone, sample_rate=SAMPLE_RATE))
        for row in range(40)
    ]
    labels = {"speaker": [f"s{row % 3}" for row in range(40)], "language": ["en", None] * 20}
    section = map_section(random.normal(size=(40, 2)), utterances, labels, text="Of a test.")
    return write_map(tmp_path_factory.mktemp("map") / "map.html", "A map", "in a browser", section)


def test_map_is_drawn_by_its_own_script_alone(open_page: OpenPage, page: Path) -> None:
    document, log = open_page(page, *AUTOPLAY)
    assert document.count("<circle") == 40 and document.count("<button") == 3
    assert [*re.findall(r'<option value="(.*?)"', document)] == ["speaker", "language"]
    assert not re.search(r"https?://|src=\"(?!data:)|file://", document)
    assert "CONSOLE" not in log and "Refused" not in log, log
    policy = page.read_text().replace("<body>", "<body><script>document.title = 'smuggled'</script>")
    smuggled = page.with_name("smuggled.html")
    smuggled.write_text(policy)
    assert "<title>A map</title>" in open_page(smuggled, *AUTOPLAY)[0], "no other script may run"


def test_pointing_tells_and_clicking_plays(open_page: OpenPage, page: Path) -> None:
    text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page.read_text())
    checked = page.with_name("checked.html")
    checked.write_text(text.replace("</body>", CHECK + "</body>"))
    document, _ = open_page(checked, *AUTOPLAY)
    found = re.search(r"<title>(.*?)</title>", document)
    assert found is not None
    told = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert told[0] == "<u3> number 3 · speaker: s0 · language: unknown", told
    assert told[1] == 14, "a click in the legend dims the speaker's 14 utterances"
    assert told[2] == 1, "only one is called number 5"
    assert told[5] == 0, "an element that is moved while it is pointed at loses the click of a real mouse"
    assert told[3].startswith("data:audio/") and re.fullmatch(r"decoded 1\.\d", told[4]), told
