"""Promises of manifests that stay in their files: the same rows, checked once, and a cache that keeps itself clean.

What is large is lowered to a few rows here; benchmarks/manifests.py works on ten million.
"""

import json
import logging
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechssl.errors import ManifestError
from speechssl.manifest import (
    Manifest,
    files,
    filter_manifest,
    jsonl,
    loading,
    manifest_stats,
    split_manifest,
    storage,
    subset_manifest,
    table,
)
from speechssl.manifest import cache as cache_module
from speechssl.manifest.cache import Cache, Stamp

WriteTone = Callable[..., Path]


@pytest.fixture(autouse=True)
def few_rows_are_many(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "LARGE_ROWS", 20)
    monkeypatch.setattr(loading, "LARGE_BYTES", 1000)
    monkeypatch.setattr(loading, "BATCH_ROWS", 16)
    monkeypatch.setattr(files, "BATCH_ROWS", 16)
    monkeypatch.setattr(storage, "BATCH_ROWS", 16)
    monkeypatch.setattr(storage, "FEW_ROWS", 8)
    monkeypatch.setattr(table, "SMALL_ROWS", 8)
    monkeypatch.setattr(jsonl, "_BLOCK_BYTES", 2000)


def small(num_rows: int = 100, **changed: list[object]) -> Manifest:
    """A manifest in memory."""
    random = np.random.default_rng(0)
    num_samples = random.integers(8000, 160_000, num_rows)
    columns: dict[str, object] = {
        "id": [f"u{number}" for number in range(num_rows)],
        "audio_filepath": [f"audio/{number % 9}/{number}.wav" for number in range(num_rows)],
        "sample_rate": np.full(num_rows, 16000),
        "num_samples": num_samples,
        "duration": num_samples / 16000,
        "text": [None if number % 10 == 0 else f"Text {number % 30}, é!" for number in range(num_rows)],
        "speaker": [f"s{number % 13}" for number in range(num_rows)],
        "take": [number % 4 for number in range(num_rows)],
    }
    return Manifest(pa.table(columns | changed), "corpus")


def kept_files(tmp_path: Path, suffix: str = ".arrow") -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob(f"*{suffix}"))


@pytest.fixture(params=["m.parquet", "m.jsonl"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Manifest, Manifest]:
    """The same hundred rows in memory and in a file."""
    expected = small().save(tmp_path / request.param)
    found = Manifest.load(tmp_path / request.param)
    assert not isinstance(found._rows, storage.InMemory)
    return expected, found


def test_a_large_manifest_is_the_same_as_a_small_one(both: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    expected, found = both
    assert found.table.equals(expected.table) and found.column_names == expected.column_names
    assert (
        found.fingerprint() == expected.fingerprint() == Manifest.load(tmp_path / "m.parquet").fingerprint()
        if (tmp_path / "m.parquet").is_file()
        else True
    )
    assert list(found) == list(expected) == [found[number] for number in range(100)]
    assert found[-1] == expected[99] and found.total_seconds == pytest.approx(expected.total_seconds)
    rows = np.array([5, 90, 3, 3, 17])
    assert list(found.take(rows)) == [expected[number] for number in rows.tolist()]
    assert found.select(["text"]).column_names == [*table.REQUIRED_COLUMNS, "text"]
    wide = found.take(np.arange(10, 60)).with_column("split", ["x"] * 50)
    assert wide[7].extra == {"take": 1, "split": "x"} and len(wide) == 50
    with pytest.raises(IndexError, match="utterance 100 of a manifest of 100"):
        found.take([3, 100])
    with pytest.raises(ManifestError, match="a mask of 3 values cannot choose among 100 utterances"):
        found.filter([True, False, True])


def test_what_is_done_to_a_large_manifest_gives_the_same(both: tuple[Manifest, Manifest]) -> None:
    expected, found = both
    fractions = {"train": 0.7, "dev": 0.15, "test": 0.15}
    for by in ("speaker", "text", ("take", "text")):
        arguments = {"by": by, "seed": 3, "tolerance": 1.0}
        try:
            parts = split_manifest(expected, fractions, **arguments)  # type: ignore[arg-type]
        except ManifestError as error:
            with pytest.raises(ManifestError, match=str(error).split(":")[0]):
                split_manifest(found, fractions, **arguments)  # type: ignore[arg-type]
            continue
        for name, part in split_manifest(found, fractions, **arguments).items():  # type: ignore[arg-type]
            assert part.fingerprint() == parts[name].fingerprint()
    for seconds in (30, 200):
        subsets = [subset_manifest(manifest, [seconds], seed=1)[0] for manifest in both]
        assert subsets[0].fingerprint() == subsets[1].fingerprint()
    facts = [
        json.loads(json.dumps(manifest_stats(manifest).to_dict()), parse_float=lambda f: round(float(f), 9))
        for manifest in both
    ]
    assert facts[0] == facts[1]
    assert filter_manifest(found, min_seconds=3).left_out == filter_manifest(expected, min_seconds=3).left_out


def test_large_manifests_are_joined_where_they_lie(both: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    expected, found = both
    other = small(30, id=[f"v{number}" for number in range(30)]).with_column("split", ["x"] * 30)
    (tmp_path / "deep").mkdir()
    other = other.save(tmp_path / "deep" / "o.parquet")
    joined = found.concat(Manifest.load(tmp_path / "deep" / "o.parquet"))
    assert joined.fingerprint() == expected.concat(other).fingerprint()
    assert joined.column("audio_filepath").to_pylist() == expected.concat(other).column("audio_filepath").to_pylist()
    assert Path(joined[110].audio_filepath).resolve() == Path(other[10].audio_filepath).resolve()
    assert joined.take(np.arange(90, 115)).save(tmp_path / "j.parquet")[24].extra == {"take": 2, "split": "x"}
    with pytest.raises(ManifestError, match="ids must be unique, but 100 occur more than once: 'u0', 'u1', 'u2', ..."):
        found.concat(found)


def test_choosing_keeps_numbers_and_reads_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small().save(tmp_path / "m.parquet")
    found = Manifest.load(tmp_path / "m.parquet")
    monkeypatch.setattr(files.ParquetFile, "scan", lambda *_: pytest.fail("rows were read"))
    part = found.take(np.arange(0, 100, 3)).filter(np.arange(34) % 2 == 0).take(np.arange(10))
    assert isinstance(part._rows, storage.Chosen) and part._rows.rows.tolist() == list(range(0, 60, 6))


def test_a_manifest_is_checked_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.parquet"
    manifest = small()
    manifest.save(path)
    Manifest.load(path)
    scan = files.ParquetFile.scan
    monkeypatch.setattr(files.ParquetFile, "scan", lambda *_: pytest.fail("was read again"))
    assert len(Manifest.load(path)) == 100
    monkeypatch.setattr(files.ParquetFile, "scan", scan)
    manifest.with_column("id", ["x", "x", *manifest.column("id").to_pylist()[2:]]).save(path)
    with pytest.raises(ManifestError, match="ids must be unique, but 1 occur more than once: 'x'"):
        Manifest.load(path)


@pytest.mark.parametrize("name", ["m.parquet", "m.jsonl"])
@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("id", ["u7"], "ids must be unique, but 1 occur more than once: 'u7'"),
        ("duration", [-1.0], r"1 rows have an impossible duration, the first is row 41, 'u40': -1.0"),
        ("duration", [float("inf")], r"1 rows have an impossible duration, the first is row 41, 'u40': inf"),
        ("sample_rate", [0], "1 rows have an impossible sample_rate, the first is row 41, 'u40': 0"),
        ("audio_filepath", [None], "1 rows have no audio_filepath"),
    ],
)
def test_what_cannot_be_used_is_refused_in_large_manifests_too(
    tmp_path: Path, name: str, column: str, values: list[object], message: str
) -> None:
    manifest = small()
    changed = manifest.column(column).to_pylist()
    changed[40:41] = values
    manifest = manifest.with_column(column, changed)
    if name == "m.jsonl" and values == [float("inf")]:
        pytest.skip("JSON has no infinity")
    if column == "audio_filepath":
        pq.write_table(manifest.table, tmp_path / "m.parquet")
        lines = [{k: v for k, v in row.items() if v is not None} for row in manifest.table.to_pylist()]
        (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        manifest.save(tmp_path / name)
    with pytest.raises(ManifestError, match=message):
        Manifest.load(tmp_path / name)
    assert kept_files(tmp_path) == []


def test_what_a_large_manifest_lacks_is_filled_in_once(
    tmp_path: Path, write_tone: WriteTone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.wav", "a.flac", "b.wav"):
        write_tone(name, seconds=0.5, sample_rate=8000)
    names = ["a.wav", "a.flac"] + ["b.wav"] * 60
    offsets = [0.0, 0.0] + [number / 1000 for number in range(60)]
    loose = pa.table({"audio_filepath": names, "offset": offsets, "duration": [0.4] * 62})
    pq.write_table(loose, tmp_path / "loose.parquet")
    rows = [{"audio_filepath": name, "offset": offset} for name, offset in zip(names, offsets, strict=True)]
    (tmp_path / "loose.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, duration in (("loose.parquet", 0.4), ("loose.json", 0.499)):
        found = Manifest.load(tmp_path / name)
        assert [u.id for u in found][:4] == ["a.wav", "a.flac", "b", "b@1"]
        assert (found[3].sample_rate, found[3].duration) == (8000, duration)
        monkeypatch.setattr(loading, "LARGE_ROWS", 10**9)
        monkeypatch.setattr(loading, "LARGE_BYTES", 10**9)
        assert Manifest.load(tmp_path / name).fingerprint() == found.fingerprint()
        monkeypatch.setattr(loading, "LARGE_ROWS", 20)
        monkeypatch.setattr(loading, "LARGE_BYTES", 1000)
    for name in ("a.wav", "a.flac", "b.wav"):
        (tmp_path / name).unlink()
    assert Manifest.load(tmp_path / "loose.json")[3].sample_rate == 8000


def test_a_sample_rate_that_was_only_assumed_is_looked_up_again(tmp_path: Path, write_tone: WriteTone) -> None:
    rows = [{"audio_filepath": "later.wav", "offset": number / 1000, "duration": 0.1} for number in range(30)]
    (tmp_path / "m.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert Manifest.load(tmp_path / "m.json")[0].sample_rate == 16000
    write_tone("later.wav", sample_rate=8000)
    assert Manifest.load(tmp_path / "m.json")[0].sample_rate == 8000


def test_columns_that_come_late_or_change_their_kind_are_found(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": f"u{n}", "audio_filepath": f"{n}.wav", "sample_rate": 8000, "num_samples": 800, "duration": 0.1}
        for n in range(100)
    ]
    for number, row in enumerate(rows):
        row["kind"] = number if number < 50 else f"k{number}"
        row["score"] = number if number < 70 else number / 2
        if number > 80:
            row["late"] = True
        if number == 95:
            row["id"] = 95
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Manifest.load(tmp_path / "m.jsonl")
    assert isinstance(found._rows, files.ArrowFile)
    assert (found[3].extra, found[97].extra) == (
        {"kind": "3", "score": 3.0},
        {"kind": "k97", "score": 48.5, "late": True},
    )
    assert found[95].id == "95"


def test_bad_lines_are_named_wherever_they_are(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"u{number}", "audio_filepath": "a.wav", "duration": 1.0}) for number in range(200)]
    for number, line in ((3, "{oops"), (120, '{"id": "x", "audio_filepath": "x", "duration": "1"}'), (199, "[]")):
        lines[number] = line
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    with pytest.raises(ManifestError) as caught:
        Manifest.load(tmp_path / "m.jsonl")
    assert [line.split(":")[1] for line in str(caught.value).splitlines()[:3]] == ["4", "121", "200"]


def read_in_worker(manifest: Manifest, queue: "multiprocessing.Queue[tuple[str, int]]") -> None:
    queue.put((manifest[71].id, len(manifest)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_open_the_file_instead_of_getting_the_rows(tmp_path: Path, method: str) -> None:
    small(5000).save(tmp_path / "m.parquet")
    manifest = Manifest.load(tmp_path / "m.parquet").filter(np.arange(5000) < 4000).prepare()
    assert len(pickle.dumps(manifest)) < 4000 * 4 + 5000
    context = multiprocessing.get_context(method)
    queue: multiprocessing.Queue[tuple[str, int]] = context.Queue()
    worker = context.Process(target=read_in_worker, args=(manifest, queue))
    worker.start()
    assert queue.get(timeout=60) == ("u71", 4000)
    worker.join()
    assert len(kept_files(tmp_path)) == 1


def test_few_rows_of_a_large_manifest_come_into_memory_when_single_ones_are_wanted(tmp_path: Path) -> None:
    small().save(tmp_path / "m.parquet")
    part = Manifest.load(tmp_path / "m.parquet").take([50, 3])
    assert [part[0].id, part[1].id] == ["u50", "u3"]
    (tmp_path / "m.parquet").unlink()
    assert [u.id for u in part] == ["u50", "u3"] and kept_files(tmp_path) == []


def test_where_nothing_can_be_kept_rows_are_read_into_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    expected = small()
    for name in ("m.parquet", "m.jsonl"):
        expected = expected.save(tmp_path / name)
        with caplog.at_level(logging.WARNING):
            found = Manifest.load(tmp_path / name, cache_folder=tmp_path / "file" / "x")
            assert found[3] == expected[3]
        assert f"{name}: its rows cannot be kept in {tmp_path / 'file' / 'x'}" in caplog.text
        caplog.clear()


def test_the_cache_drops_what_is_out_of_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "kept"
    for name in ("a", "b"):
        small().save(tmp_path / f"{name}.parquet")
        Manifest.load(tmp_path / f"{name}.parquet", cache_folder=folder).prepare()
    first = {path.name for path in folder.glob("*.arrow")}
    assert len(first) == 2
    (folder / "x.arrow.123.tmp").touch()
    os.utime(folder / "x.arrow.123.tmp", (0, 0))
    small(90).save(tmp_path / "a.parquet")  # changed: its old rows go, those of b stay
    Manifest.load(tmp_path / "a.parquet", cache_folder=folder).prepare()
    second = {path.name for path in folder.glob("*.arrow")}
    assert len(second) == 2 and len(first & second) == 1
    assert not list(folder.glob("*.tmp"))
    for path in folder.iterdir():  # not used for long
        os.utime(path, (time.time() - 40 * 86400,) * 2)
    small().save(tmp_path / "c.parquet")
    Manifest.load(tmp_path / "c.parquet", cache_folder=folder).prepare()
    assert len(list(folder.glob("*.arrow"))) == 1
    monkeypatch.setattr(cache_module, "MAX_BYTES", 1)  # too much: what was used last stays
    Manifest.load(tmp_path / "a.parquet", cache_folder=folder).prepare()
    assert len(list(folder.glob("*.arrow"))) == 1


def make_rows(path: Path, folder: Path, queue: "multiprocessing.Queue[int]") -> None:
    def write(target: Path) -> None:
        queue.put(os.getpid())
        time.sleep(0.3)
        target.write_bytes(b"rows")

    assert Cache(folder).rows(Stamp.of(path), write).read_bytes() == b"rows"


def test_of_several_processes_one_writes_and_the_others_wait(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_text("x")
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[int] = context.Queue()
    workers = [context.Process(target=make_rows, args=(tmp_path / "m.parquet", tmp_path, queue)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    queue.get()
    assert queue.empty()
