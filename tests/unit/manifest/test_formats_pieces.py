"""Promises of imports in pieces: the same manifest and the same errors as of a file that is read at once."""

import gc
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, jsonl
from speechssl.manifest.cache import default_folder
from speechssl.manifest.formats import delimited, pieces, read_format
from speechssl.manifest.storage import InMemory

NUM_ROWS = 23


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return default_folder()


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From this call on, files are read in pieces of a few rows."""

    def cut() -> None:
        monkeypatch.setattr(pieces, "PIECE_ROWS", 5)
        monkeypatch.setattr(delimited, "CSV_BLOCK_BYTES", 300)
        monkeypatch.setattr(jsonl, "_BLOCK_BYTES", 500)

    return cut


def write_nemo(folder: Path, *, again: int | None = None) -> Path:
    """`lang` in the first rows only and `language` in the last, a column of two kinds, ids made of the paths."""
    rows = []
    for number in range(NUM_ROWS):
        row: dict[str, object] = {"audio_filepath": f"a/{number}.wav", "duration": 1 + number / 7, "sample_rate": 8000}
        if number % 4:
            row["text"] = f"tëxt {number}"
        if number < 9:
            row |= {"lang": "de", "take": number}
        if number > 15:
            row |= {"language": "fr", "take": f"t{number}"}
        if number == 20:
            row["audio_filepath"] = "a/3.flac"  # differs from 3 by its extension alone
        if number == again:
            row["audio_filepath"] = "a/1.wav"
        rows.append(json.dumps(row))
    (folder / "m.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "m.jsonl"


def write_fairseq(folder: Path, *, again: int | None = None, labels: str = "ltr") -> Path:
    lines = [f"./a/{1 if number == again else number}.flac\t{1000 + number}" for number in range(NUM_ROWS)]
    (folder / "train.tsv").write_text("\n".join([str(folder), *lines]) + "\n")
    texts = [" ".join(f"só {number}".replace(" ", "|") + "|") for number in range(NUM_ROWS)]
    (folder / f"train.{labels}").write_text("\n".join(texts) + "\n")
    return folder / "train.tsv"


def write_table(folder: Path, mark: str, *, again: int | None = None) -> Path:
    """`count` is whole but for the last row, `whole` always, `maybe` empty at first, `flag` not true or false at last.

    In the CSV a text has a line break, so that rows and lines differ.
    """
    lines = [mark.join(["path", "sentence", "duration", "count", "whole", "maybe", "flag", "empty"])]
    for number in range(NUM_ROWS):
        last = number == NUM_ROWS - 1
        text = f'"a {number}\nb"' if mark == "," and number in (2, 4, 11) else f"a {number}"
        maybe = "" if number < 12 else str(number)
        path = f"{1 if number == again else number}.wav"
        values = [path, text, str(1.5 + number), "2.5" if last else str(number), str(number), maybe]
        lines.append(mark.join([*values, "no" if last else "true", ""]))
    path = folder / ("t.csv" if mark == "," else "t.tsv")
    path.write_text("\n".join(lines) + "\n")
    return path


WRITERS: dict[str, Callable[..., Path]] = {
    "nemo": write_nemo,
    "fairseq": write_fairseq,
    "csv": lambda folder, **values: write_table(folder, ",", **values),
    "tsv": lambda folder, **values: write_table(folder, "\t", **values),
}


@pytest.mark.parametrize("format", WRITERS)
def test_pieces_give_the_manifest_of_the_whole(
    format: str, tmp_path: Path, cache: Path, in_pieces: Callable[[], None]
) -> None:
    path = WRITERS[format](tmp_path)
    whole = read_format(path, format, sample_rate=8000)
    assert isinstance(whole.manifest._rows, InMemory)
    in_pieces()
    parts = read_format(path, format, sample_rate=8000)
    assert not isinstance(parts.manifest._rows, InMemory) and len(list(cache.glob("*.rows"))) == 1
    assert parts.manifest.table.to_pylist() == whole.manifest.table.to_pylist()
    assert parts.manifest.fingerprint() == whole.manifest.fingerprint()
    assert parts.manifest.folder == whole.manifest.folder and parts.to_dict() == whole.to_dict()
    (tmp_path / "other").mkdir()
    for found, name in ((parts, "parts.parquet"), (whole, "whole.parquet")):
        found.manifest.save(tmp_path / "other" / name)
    loaded = Manifest.load(tmp_path / "other/parts.parquet")
    assert list(loaded) == list(Manifest.load(tmp_path / "other/whole.parquet"))
    del parts, found
    gc.collect()
    assert list(cache.glob("*.rows")) == []  # nothing is left when the manifest is no longer used


@pytest.mark.parametrize("format", WRITERS)
def test_pieces_name_the_lines_of_repeated_ids(
    format: str, tmp_path: Path, cache: Path, in_pieces: Callable[[], None]
) -> None:
    path = WRITERS[format](tmp_path, again=17)
    messages = []
    for _ in range(2):
        with pytest.raises(ManifestError, match="ids must be unique") as error:
            read_format(path, format, sample_rate=8000)
        messages.append(str(error.value))
        in_pieces()
    assert messages[0] == messages[1]
    assert list(cache.glob("*.rows")) == []


@pytest.mark.parametrize("format", ["csv", "tsv", "fairseq", "nemo"])
def test_pieces_name_the_line_of_a_row_that_is_wrong(
    format: str, tmp_path: Path, in_pieces: Callable[[], None]
) -> None:
    path = WRITERS[format](tmp_path)
    lines = path.read_text().split("\n")
    broken = {"csv": "21.wav,a", "tsv": "21.wav\ta", "fairseq": "a/x.flac", "nemo": '{"audio_filepath": 3'}[format]
    path.write_text("\n".join([*lines[:-3], broken, *lines[-2:]]))
    messages = []
    for _ in range(2):
        with pytest.raises(ManifestError, match=f"{path.name}:2[0-9]:") as error:
            read_format(path, format, sample_rate=8000)
        messages.append(str(error.value))
        in_pieces()
    assert messages[0] == messages[1]


def test_pieces_need_no_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_pieces: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = write_nemo(tmp_path)
    whole = read_format(path, "nemo")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    in_pieces()
    assert list(read_format(path, "nemo").manifest) == list(whole.manifest)
    assert "read into memory" in caplog.text


def test_headers_are_opened_once_for_all_pieces(
    tmp_path: Path, write_tone: Callable[..., Path], in_pieces: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechssl.manifest.formats import headers

    write_tone("long.wav", seconds=2.0)
    rows = [{"audio_filepath": str(tmp_path / "long.wav"), "offset": n / 20, "duration": 0.05} for n in range(NUM_ROWS)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = read_format(tmp_path / "m.jsonl", "nemo")
    opened = []
    probe = headers.try_probe
    monkeypatch.setattr(headers, "try_probe", lambda path: opened.append(path) or probe(path))
    in_pieces()
    seen: list[tuple[int, int]] = []
    found = read_format(tmp_path / "m.jsonl", "nemo", progress=lambda done, total: seen.append((done, total)))
    assert found.manifest.table.equals(whole.manifest.table)
    assert len(opened) == 1 and seen[-1] == (NUM_ROWS, NUM_ROWS)
