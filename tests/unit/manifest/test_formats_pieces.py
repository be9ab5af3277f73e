"""Promises of imports in pieces: the same manifest and the same errors as of a file that is read at once."""

import gc
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, jsonl
from speechssl.manifest.cache import default_folder
from speechssl.manifest.formats import audiofolder, delimited, join, pieces, read_format, rows, spool
from speechssl.manifest.formats.join import JoinedPieces
from speechssl.manifest.formats.pieces import Piece
from speechssl.manifest.formats.spool import KeptPieces
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
        monkeypatch.setattr(audiofolder, "PIECE_ROWS", 5)
        monkeypatch.setattr(rows, "_ROWS_PER_PIECE", 5)
        monkeypatch.setattr(spool, "_MEMORY_BYTES", 2000)
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


def write_lists(folder: Path, *, again: int | None = None) -> Path:
    """Two lists with the same paths below different roots, of which one has texts."""
    for name in ("dev", "train"):
        (folder / "lists" / name).mkdir(parents=True)
        write_fairseq(folder / "lists" / name, again=again)
        for file in (folder / "lists" / name).iterdir():
            if name == "dev" or file.suffix == ".tsv":
                file.rename(folder / "lists" / f"{name}{file.suffix}")
    return folder / "lists"


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


def write_kaldi(folder: Path, *, again: int | None = None, segments: bool = False, mixed: bool = False) -> Path:
    """Keys that other files lack or have besides, a speaker that is its utterance, commands; `mixed` in any order."""
    files: dict[str, list[str]] = {"wav.scp": [], "text": ["x nobody's"], "utt2spk": [], "utt2lang": ["u03 de", "x fr"]}
    for number in range(NUM_ROWS):
        name = "u01" if number == again else f"u{number:02}"
        path = folder / f"a/{number}.wav"
        files["wav.scp"].append(f"{'r' if segments else ''}{name} {f'cat {path} |' if number % 5 == 0 else path}")
        files["text"] += [f"u{number:02} tëxt  {number}"] if number % 4 else []
        files["utt2spk"].append(f"u{number:02} {f'u{number:02}' if number == 9 else f's{number % 3}'}")
    if segments:
        files["wav.scp"] = [f"ru{number:02} {folder}/a/{number}.wav" for number in range(NUM_ROWS)]
        spans = [("01" if number == again else f"{number:02}", number) for number in range(2 * NUM_ROWS)]
        files["segments"] = [f"u{name} ru{n % 19:02} {n / 7:.3f} {n / 7 + 1.5:.2f}" for name, n in spans]
        files["spk2gender"] = ["s0 f", "s2 m", "s9 m"]
    else:
        files["utt2num_samples"] = [f"u{number:02} {1000 + number}" for number in range(NUM_ROWS) if number != again]
    home = folder / "kaldi"
    home.mkdir(exist_ok=True)
    for name, lines in files.items():
        kept = random.Random(name).sample(lines, len(lines)) if mixed else lines
        (home / name).write_text("\n".join(kept) + "\n", encoding="utf-8")
    return home


def write_lhotse(folder: Path, kind: str, *, again: int | None = None) -> Path:
    """Cuts with several supervisions or none, free fields of two kinds, or the same as recordings and supervisions."""
    cuts, recordings, supervisions = [], [], []
    for number in range(NUM_ROWS):
        name = f"c{1 if number == again else number}"
        source = {"type": "file", "channels": [0], "source": f"/a/{number}.wav"}
        own = 1 if number == again and kind == "recordings" else number
        recording = {"id": f"r{own}", "sources": [source], "sampling_rate": 8000, "duration": 9.0}
        said = {"id": name, "recording_id": f"r{number}", "start": number / 7, "duration": 1.5, "channel": 0}
        said |= {"text": f"tëxt {number}", "custom": {"take": number if number < 9 else f"t{number}", "none": None}}
        said |= {"speaker": "s"} if number > 9 else {"alignment": {}}
        both = [said, said | {"id": name + "-b", "start": 2}] if number % 4 == 3 else [said][: number % 5]
        cuts.append({"id": name, "start": 0.5, "duration": 4, "channel": 0, "supervisions": both, "type": "MonoCut"})
        cuts[-1] |= {"recording": recording, "custom": {"part": number / 2}}
        recordings.append(recording)
        supervisions += [] if number == 7 else [said]
    random.Random(0).shuffle(supervisions)
    files = {"cuts": cuts, "recordings": recordings, "supervisions": supervisions}
    for found in ("recordings", "supervisions") if kind == "supervisions" else (kind,):
        objects = files[found]
        lines = "".join(json.dumps(row) + "\n" for row in objects)
        (folder / f"{found}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return folder / f"{kind}.jsonl.gz"


def write_audiofolder(folder: Path, kind: str, *, again: int | None = None, splits: bool = False) -> Path:
    """Numbers that are text in the last row, a column that begins late, `./` in paths; one folder, or two splits."""
    columns: dict[str, list[object]] = {"file_name": [], "transcription": [], "duration": [], "take": [], "late": []}
    for number in range(NUM_ROWS):
        columns["file_name"].append(f"{'./' if number == 12 else ''}{1 if number == again else number}.wav")
        columns["transcription"].append(f"a {number}\nb" if number in (2, 4, 11) else f"a {number}")
        columns["duration"].append(1.5 + number)
        columns["take"].append("no" if number == NUM_ROWS - 1 else str(number))
        columns["late"].append(None if number < 12 else str(number))
    for name in ("train", "dev") if splits else (".",):
        home = folder / "data" / name
        home.mkdir(parents=True, exist_ok=True)
        table = pa.table({column: values for column, values in columns.items() if name != "dev" or column != "take"})
        if name == "dev":
            table = table.set_column(0, "file_name", pa.array([f"dev/{file}" for file in columns["file_name"]]))
        if kind == "parquet":
            table = table.set_column(1, "transcription", table["transcription"].dictionary_encode())
            pq.write_table(table, home / "metadata.parquet")
        elif kind == "csv":
            delimited.write_csv_table(table, home / "metadata.csv")
        else:
            known = [{n: v for n, v in row.items() if v is not None} for row in table.to_pylist()]
            (home / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    return folder / "data"


WRITERS: dict[str, Callable[..., Path]] = {
    "kaldi": write_kaldi,
    "kaldi-mixed": lambda folder, **values: write_kaldi(folder, mixed=True, **values),
    "kaldi-segments": lambda folder, **values: write_kaldi(folder, segments=True, **values),
    "kaldi-segments-mixed": lambda folder, **values: write_kaldi(folder, segments=True, mixed=True, **values),
    "lhotse-cuts": lambda folder, **values: write_lhotse(folder, "cuts", **values),
    "lhotse-recordings": lambda folder, **values: write_lhotse(folder, "recordings", **values),
    "lhotse-supervisions": lambda folder, **values: write_lhotse(folder, "supervisions", **values),
    "audiofolder-csv": lambda folder, **values: write_audiofolder(folder, "csv", **values),
    "audiofolder-jsonl": lambda folder, **values: write_audiofolder(folder, "jsonl", **values),
    "audiofolder-parquet": lambda folder, **values: write_audiofolder(folder, "parquet", **values),
    "audiofolder-splits": lambda folder, **values: write_audiofolder(folder, "jsonl", splits=True, **values),
    "fairseq-lists": lambda folder, **values: write_lists(folder, **values),
    "nemo": write_nemo,
    "fairseq": write_fairseq,
    "csv": lambda folder, **values: write_table(folder, ",", **values),
    "tsv": lambda folder, **values: write_table(folder, "\t", **values),
}


@pytest.mark.parametrize("format", WRITERS)
def test_pieces_give_the_manifest_of_the_whole(
    format: str, tmp_path: Path, cache: Path, in_pieces: Callable[[], None]
) -> None:
    path, name = WRITERS[format](tmp_path), format.split("-")[0]
    whole = read_format(path, name, sample_rate=8000)
    assert isinstance(whole.manifest._rows, InMemory)
    in_pieces()
    parts = read_format(path, name, sample_rate=8000)
    num_files = 2 if format in ("audiofolder-splits", "fairseq-lists") else 1
    assert not isinstance(parts.manifest._rows, InMemory) and len(list(cache.glob("*.rows"))) == num_files
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


@pytest.mark.parametrize("format", [name for name in WRITERS if not name.endswith(("splits", "lists"))])
def test_pieces_name_the_lines_of_repeated_ids(
    format: str, tmp_path: Path, cache: Path, in_pieces: Callable[[], None]
) -> None:
    path = WRITERS[format](tmp_path, again=17)
    messages = []
    for _ in range(2):
        with pytest.raises(ManifestError, match="ids must be unique|stands in line") as error:
            read_format(path, format.split("-")[0], sample_rate=8000)
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


@pytest.mark.parametrize(
    ("format", "name", "line", "message"),
    [
        ("kaldi", "wav.scp", "u21", r"wav.scp:22: must be recording and path"),
        ("kaldi-segments", "wav.scp", "ru21 sox x.wav -t wav - speed 2 |", r"wav.scp:22: the command has sox change"),
        ("kaldi-segments", "segments", "u21 r99 0 1", r"segments:22: there is no recording 'r99' in .*wav.scp"),
        ("kaldi-segments", "segments", "u21 ru01 0 1s", r"segments:22: the end must be a number, is '1s'"),
        ("kaldi", "utt2num_samples", "u21 1.5", r"utt2num_samples:22: the number of samples must be a whole number"),
        ("kaldi", "utt2num_samples", f"u21 {9**30}", r"utt2num_samples:22: .* must be a number that 64 bits hold"),
        ("kaldi", "utt2spk", "u01 s9", r"utt2spk:22: 'u01' stands in line 2 too"),
        ("lhotse-cuts", "cuts.jsonl.gz", '{"id": "x"', r"cuts.jsonl.gz:22: not JSON"),
        ("lhotse-cuts", "cuts.jsonl.gz", '{"id": "x", "recording": {"id": 1}}', r"cuts.jsonl.gz:22: lacks 'sources'"),
        ("lhotse-recordings", "recordings.jsonl.gz", '{"id": "x"}', r"recordings.jsonl.gz:22: lacks 'sources'"),
        (
            "lhotse-supervisions",
            "supervisions.jsonl.gz",
            '{"id": "x", "recording_id": "r99", "start": 0, "duration": 1}',
            r"supervisions.jsonl.gz:22: there is no recording 'r99' in .*recordings.jsonl.gz",
        ),
        (
            "lhotse-supervisions",
            "supervisions.jsonl.gz",
            '{"id": "x", "recording_id": "r1", "start": 0, "duration": []}',
            r"supervisions.jsonl.gz:22: holds something else than is wanted",
        ),
        ("audiofolder-jsonl", "metadata.jsonl", '{"file_name": "\\ud800"}', r"metadata.jsonl:22: holds one of .*ud800"),
        ("audiofolder-jsonl", "metadata.jsonl", '{"file_name": "\\u0000"}', r"metadata.jsonl:22: .* holds a zero byte"),
        ("audiofolder-csv", "metadata.csv", "21.wav,a", r"metadata.csv:24: 2 fields, but the header has 5"),
    ],
)
def test_pieces_name_file_and_line(
    format: str, name: str, line: str, message: str, tmp_path: Path, in_pieces: Callable[[], None]
) -> None:
    path = WRITERS[format](tmp_path)
    file = next(tmp_path.rglob(name))
    content = file.read_bytes()
    lines = (gzip.decompress(content) if file.suffix == ".gz" else content).decode().split("\n")
    lines[21 + (2 if file.suffix == ".csv" else 0)] = line  # the CSV has a header, and line breaks in its texts
    content = "\n".join(lines).encode()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    messages = []
    for _ in range(2):
        with pytest.raises(ManifestError, match=message) as error:
            read_format(path, format.split("-")[0], sample_rate=8000)
        messages.append(str(error.value))
        in_pieces()
    assert messages[0] == messages[1]


def test_rows_are_joined_by_their_keys_and_not_by_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All hashes are the same: more is put away for each piece, but the values are right. Null has no value."""
    monkeypatch.setattr(join, "hash_values", lambda keys: np.full(len(keys), 7, dtype=np.uint64))
    keys = [["a", "b", None], ["c", "b"], ["nobody's"]]
    tables = [pa.table({"key": pa.array(part, pa.large_string())}) for part in keys]
    joined = JoinedPieces(lambda: (Piece(table=table, lines=np.arange(len(table))) for table in tables), "key")
    names = (pa.array(part, pa.large_string()) for part in (["c", "x"], ["b", "a"]))
    joined.add(pa.table({"name": part, "value": pa.array([f"{key}!" for key in part.to_pylist()])}) for part in names)
    assert [piece.table["value"].to_pylist() for piece in joined()] == [["a!", "b!", None], ["c!", "b!"], [None]]


def test_a_row_goes_to_every_piece_that_wants_it_and_unwanted_ones_are_counted() -> None:
    table = pa.table({"key": pa.array(["a", "b"], pa.large_string())})
    joined = JoinedPieces(lambda: (Piece(table=table, lines=np.arange(2)) for _ in range(3)), "key")
    assert joined.add([pa.table({"name": pa.array(["b", "x", "y"], pa.large_string()), "n": [1, 2, 3]})]) == 2
    assert [piece.table["n"].to_pylist() for piece in joined()] == [[None, 1]] * 3


def test_pieces_that_are_kept_come_back_from_the_file_or_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_MEMORY_BYTES", 1000)
    tables = [pa.table({"n": list(range(start, start + 50))}) for start in (0, 50, 100)]
    for cache in (tmp_path / "cache", tmp_path / "file"):  # the latter is no folder
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        kept = KeptPieces(Piece(table=table, lines=np.arange(len(table)) + 7) for table in tables)
        for _ in range(2):
            assert [piece.table.equals(table) for piece, table in zip(kept(), tables, strict=True)] == [True] * 3
        assert [piece.lines.tolist() for piece in kept()] == [list(range(7, 57))] * 3
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "file"]  # a file without a name


def test_a_recording_that_shares_its_file_counts_as_used(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("a /x.wav\nb /x.wav\nc /y.wav\n")
    (tmp_path / "segments").write_text("u1 a 0 1\nu2 b 1 2\n")
    assert read_format(tmp_path, "kaldi", sample_rate=8000).left_out == {"recording without a segment": 1}


def test_numbers_of_several_kinds_are_the_same_text_in_one_piece_and_in_several(
    tmp_path: Path, in_pieces: Callable[[], None]
) -> None:
    path = write_audiofolder(tmp_path, "jsonl") / "metadata.jsonl"
    values = [1.0, 2.5, 1e20, 3.0, 0.1, *range(17), "one"]  # of one kind within each piece
    lines = [json.dumps({"file_name": f"{n}.wav", "duration": 1, "x": value}) for n, value in enumerate(values)]
    path.write_text("\n".join(lines))
    whole = read_format(path, sample_rate=8000).manifest.column("x").to_pylist()
    in_pieces()
    assert read_format(path, sample_rate=8000).manifest.column("x").to_pylist() == whole


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
