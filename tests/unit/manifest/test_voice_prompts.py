"""Promises of the quickstart corpus: fetched once, verified, never half there.

Downloads go to a server in this process that offers a miniature of the upstream archives; Debian's way is tested with
packages built here. What really comes from there is fetched by `test_the_real_corpus`, which runs when asked for.
"""

import dataclasses
import functools
import http.server
import io
import json
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from speechssl.errors import ManifestError
from speechssl.manifest import CorpusCard, load_card, prepare_corpus
from speechssl.manifest.corpora import download, voice_prompts

pytest.importorskip("av", reason="G.722 needs PyAV")

TEXTS = """; Core sounds in English

activated: Activated.
digits/1: one
Letters/At: at [@]
menu: Press 1 for help, or 23 to go
press: Press 1.
aside: You [really] may go.
beep: [this is a simple beep tone]
tone: (a tone)
silence/1: (1 second of silence)
gone: Not recorded.
"""
NAMES = ["activated", "digits/1", "letters/at", "menu", "press", "aside", "beep", "tone", "silence/1", "unlisted"]


def clips() -> dict[str, bytes]:
    """G.722 recordings; any bytes are some sound."""
    generator = np.random.default_rng(0)
    return {f"{name}.g722": generator.integers(0, 256, 2000, dtype=np.uint8).tobytes() for name in NAMES}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, honours ranges, breaks off after `limit` bytes when told to."""

    limit: int | None = None
    ranges: list[str | None] = []

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        wanted = self.headers.get("Range")
        self.ranges.append(wanted)
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.limit])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """Folder that a server offers; its address is in `site/url`."""
    folder = tmp_path / "site"
    folder.mkdir()
    Handler.limit, Handler.ranges = None, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    (folder / "url").write_text(f"http://127.0.0.1:{server.server_port}")
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def card(site: Path, tmp_path: Path) -> CorpusCard:
    """The real card cut down to the miniature, whose archive is on the server."""
    files = clips()
    papers = {"core-sounds-en.txt": TEXTS.encode(), "CREDITS-core-en": b"Spoken by somebody", "x.gsm": b"other"}
    write_tar(site / "sounds-en-1.6.1.tar.gz", {f"./{name}": content for name, content in (files | papers).items()})
    whole = tmp_path / "whole"
    for name, content in files.items():
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (whole / name).write_bytes(content)
    real = load_card("voice-prompts")
    part = {"speaker": "somebody"} | dataclasses.asdict(voice_prompts.measure(whole))
    details = {
        **real.details,
        "parts": {"en": part},
        "archive": (site / "url").read_text() + "/sounds-{language}-{version}.tar.gz",
    }
    return dataclasses.replace(real, languages=("en",), details=details, num_utterances=7)


def test_upstream_archives_are_fetched_once_and_laid_out(card: CorpusCard, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    root = voice_prompts.fetch(
        tmp_path / "cache", card=card, source="upstream", progress=lambda done, total: seen.append((done, total))
    )
    assert (root / "en/audio/digits/1.g722").read_bytes() == clips()["digits/1.g722"]
    assert (root / "en/texts.txt").read_text() == TEXTS
    assert (root / "en/copyright").read_text() == "Spoken by somebody"
    assert json.loads((root / "en/source.json").read_text())["origin"] == "upstream"
    assert not list(root.rglob("*.gsm")) and not list(root.rglob("*.tar.gz"))
    assert seen == [(0, 1), (1, 1)]
    assert len(Handler.ranges) == 1
    assert voice_prompts.fetch(tmp_path / "cache", card=card, source="upstream") == root
    assert len(Handler.ranges) == 1


def test_the_manifest_holds_speech_and_what_is_spoken(card: CorpusCard, tmp_path: Path) -> None:
    root = voice_prompts.fetch(tmp_path / "cache", card=card, source="upstream")
    (root / "en/audio/broken.g722").touch()
    result = prepare_corpus(card, root)
    assert {u.id: u.text for u in result.manifest} == {
        "en/activated": "Activated.",
        "en/digits/1": "one",
        "en/letters/at": "at",
        "en/menu": None,
        "en/press": "Press one.",
        "en/aside": None,
        "en/unlisted": None,
    }
    assert {(u.speaker, u.language, u.sample_rate, u.num_samples) for u in result.manifest} == {
        ("somebody", "en", 16000, 4000)
    }
    press = next(u for u in result.manifest if u.id == "en/press")
    assert press.extra == {"prompt": "press", "published_text": "Press 1."}
    reasons = {Path(path).stem: reason for path, reason in result.skipped}
    assert set(reasons) == {"beep", "tone", "1", "broken", "gone"}
    assert reasons["gone"] == "has a text but no recording"
    assert reasons["tone"] == "not speech (a tone, a silence or a noise): (a tone)"
    assert "is empty" in reasons["broken"]
    note = next(note for note in result.notes if "en: 4 clips have no text" in note)
    assert "1 with numbers in figures" in note and "1 with an aside in the text" in note


@pytest.mark.parametrize(
    ("published", "language", "text"),
    [
        ("Press 1, then 2.", "en", "Press one, then two."),
        ("H.323", "en", None),
        ("3D audio", "en", None),
        ("modem of 28.8 kilobit", "en", None),
        ("Drücken Sie 1", "de", None),
        ('IAX (note: does not say "2")', "en", "IAX"),
        ("[!] punto esclamativo", "it", "punto esclamativo"),
        ("spazio []", "it", "spazio"),
        ("[tentativo di] Parcheggio", "it", None),
        ("<beep ascending>", "en", None),
        ("Due  words", "it", "Due words"),
    ],
)
def test_spoken_text(published: str, language: str, text: str | None) -> None:
    found, reason = voice_prompts.spoken_text(published, language)
    assert found == text and (reason is None) == (text is not None)


def test_two_prompts_in_one_line_are_two(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\ufeff; comment\nvm-removed: Eliminato vm-then-pound: poi premere\nempty:\n", encoding="utf-8")
    assert voice_prompts.read_texts(path) == {"vm-removed": "Eliminato", "vm-then-pound": "poi premere"}


def test_texts_that_are_not_utf_8_name_file_and_line(card: CorpusCard, tmp_path: Path) -> None:
    root = voice_prompts.fetch(tmp_path / "cache", card=card, source="upstream")
    (root / "en/texts.txt").write_bytes("a: b\nc: Grüße\n".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"texts.txt:2: not UTF-8 \(byte 0xfc\)"):
        prepare_corpus(card, root)


def test_an_interrupted_download_goes_on_where_it_stopped(card: CorpusCard, tmp_path: Path) -> None:
    Handler.limit = 5000
    with pytest.raises(ManifestError, match="5000 of .* bytes arrived|cannot be downloaded"):
        voice_prompts.fetch(tmp_path / "cache", card=card, source="upstream")
    assert not (tmp_path / "cache/voice-prompts/en").exists()
    Handler.limit = None
    root = voice_prompts.fetch(tmp_path / "cache", card=card, source="upstream")
    assert Handler.ranges == [None, "bytes=5000-"]
    assert (root / "en/audio/press.g722").read_bytes() == clips()["press.g722"]


def test_a_damaged_archive_is_refused_and_fetched_anew(card: CorpusCard, site: Path, tmp_path: Path) -> None:
    archive = site / "sounds-en-1.6.1.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ManifestError, match="damaged .*removed, run the command again"):
        voice_prompts.fetch(tmp_path / "cache", card=card, source="upstream")
    archive.write_bytes(whole)
    voice_prompts.fetch(tmp_path / "cache", card=card, source="upstream")


def test_missing_recordings_are_refused_and_named(card: CorpusCard, site: Path, tmp_path: Path) -> None:
    write_tar(site / "sounds-en-1.6.1.tar.gz", {"press.g722": clips()["press.g722"]})
    with pytest.raises(ManifestError, match="en 1.6.1 from upstream: 1 files instead of 10, 0.2 s of audio instead of"):
        voice_prompts.fetch(tmp_path / "cache", card=card, source="upstream")
    assert not (tmp_path / "cache/voice-prompts/en").exists()


def test_another_version_warns(card: CorpusCard, tmp_path: Path) -> None:
    root = voice_prompts.fetch(tmp_path / "cache", card=card, source="upstream")
    (root / "en/audio/press.g722").write_bytes(b"another recording" * 100)
    warnings = voice_prompts.verify(card, "en", root / "en", version="1.7.0-1", origin="debian")
    assert "en 1.7.0-1 from debian" in warnings[0] and "hash" in warnings[0]
    with pytest.raises(ManifestError, match="damaged or incomplete"):
        voice_prompts.verify(card, "en", root / "en", version="1.6.1-1", origin="debian")


def test_a_cache_that_was_changed_is_fetched_again(card: CorpusCard, tmp_path: Path) -> None:
    root = voice_prompts.fetch(tmp_path / "cache", card=card, source="upstream")
    (root / "en/audio/press.g722").write_bytes(b"damage")
    voice_prompts.fetch(tmp_path / "cache", card=card, source="upstream")
    assert (root / "en/audio/press.g722").read_bytes() == clips()["press.g722"]


def test_an_unreachable_server_says_what_to_do(card: CorpusCard, tmp_path: Path) -> None:
    details = {**card.details, "archive": "http://127.0.0.1:9/{language}-{version}.tar.gz"}
    with pytest.raises(ManifestError, match="cannot be downloaded .*check the network and run the command again"):
        voice_prompts.fetch(tmp_path / "cache", card=dataclasses.replace(card, details=details), source="upstream")
    details["archive"] = card.details["archive"].replace("sounds", "nothing")
    with pytest.raises(ManifestError, match="the server answers 404"):
        voice_prompts.fetch(tmp_path / "cache", card=dataclasses.replace(card, details=details), source="upstream")


@pytest.mark.parametrize("name", ["../evil.g722", "/evil.g722", "a/../../evil.g722"])
def test_archives_cannot_write_outside_of_their_folder(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "x.tar.gz", {name: b"evil"})
    with pytest.raises(ManifestError, match="leads out of the archive's folder"):
        download.unpack_tar(tmp_path / "x.tar.gz", tmp_path / "in/out", wanted=lambda _: True)
    assert not list(tmp_path.rglob("evil*")) and not Path("/evil.g722").exists()


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("a.g722")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ManifestError, match="is a link"):
        download.unpack_tar(tmp_path / "x.tar.gz", tmp_path / "out", wanted=lambda _: True)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with the two Debian packages of the miniature."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb: this is not a Debian system")
    folder = tmp_path / "packages"
    folder.mkdir()
    trees: dict[str, dict[str, bytes]] = {
        "asterisk-core-sounds-en-g722": {
            **{f"usr/share/asterisk/sounds/en_US/{name}": content for name, content in clips().items()},
            "usr/share/doc/asterisk-core-sounds-en-g722/copyright": b"CC",
        },
        "asterisk-core-sounds-en": {"usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt": TEXTS.encode()},
    }
    for name, files in trees.items():
        control = f"Package: {name}\nVersion: 1.6.1-1\nArchitecture: all\nMaintainer: x <x@x.x>\nDescription: x\n"
        for path, content in {**files, "DEBIAN/control": control.encode()}.items():
            target = tmp_path / "tree" / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        subprocess.run(
            ["dpkg-deb", "-Zgzip", "--build", str(tmp_path / "tree" / name), str(folder / f"{name}_1.6.1-1_all.deb")],
            check=True,
            capture_output=True,
        )
    return folder


def test_debian_packages_are_laid_out(
    card: CorpusCard, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fake_apt(options: object, arguments: list[str], folder: Path) -> None:
        asked.extend(arguments)
        for name in arguments[1:]:
            shutil.copy(packages / f"{name}_1.6.1-1_all.deb", folder)

    monkeypatch.setattr(download, "_run_apt", fake_apt)
    root = voice_prompts.fetch(tmp_path / "cache", card=card, source="debian")
    assert asked == ["download", "asterisk-core-sounds-en-g722", "asterisk-core-sounds-en"]
    assert (root / "en/audio/press.g722").read_bytes() == clips()["press.g722"]
    assert (root / "en/texts.txt").read_text() == TEXTS and (root / "en/copyright").read_text() == "CC"
    assert json.loads((root / "en/source.json").read_text())["version"] == "1.6.1-1"
    assert sorted(path.name for path in root.iterdir()) == ["en"]


def test_when_debian_fails_upstream_stands_in_and_both_failures_are_told(
    card: CorpusCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "has_apt", lambda: True)
    monkeypatch.setattr(download, "_run_apt", lambda *_: "E: Unable to locate package")
    root = voice_prompts.fetch(tmp_path / "cache", card=card)
    assert json.loads((root / "en/source.json").read_text())["origin"] == "upstream"
    with pytest.raises(ManifestError, match="E: Unable to locate package; check the network.*apt-get update"):
        voice_prompts.fetch(tmp_path / "other", card=card, source="debian")
    details = {**card.details, "archive": "http://127.0.0.1:9/{language}-{version}.tar.gz"}
    with pytest.raises(ManifestError, match=r"(?s)Unable to locate package.*cannot be downloaded"):
        voice_prompts.fetch(tmp_path / "other", card=dataclasses.replace(card, details=details))


@pytest.mark.network
def test_the_real_corpus(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "network" not in (request.config.option.markexpr or ""):
        pytest.skip("fetches about 55 MB; run with `-m network`")
    root = voice_prompts.fetch(tmp_path)
    result = prepare_corpus("voice-prompts", root)
    assert len(result.manifest) == load_card("voice-prompts").num_utterances
    assert abs(result.manifest.total_seconds / 3600 - 2.08) < 0.01
