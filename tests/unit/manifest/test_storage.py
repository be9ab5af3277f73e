"""Promises of storages: whatever rows are chosen, joined, moved or widened, they are those of the table."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechssl.errors import ManifestError
from speechssl.manifest import files, paths, storage
from speechssl.manifest.cache import Cache
from speechssl.manifest.files import ArrowFile, ParquetFile, write_parquet
from speechssl.manifest.hashing import codes_of, count_distinct, hash_values
from speechssl.manifest.storage import Chosen, InMemory, Joined, Moved, Selected, Storage, Widened, cast_table

LANGUAGES = ["en", "de", None]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many batches and no rows brought into memory, also with few rows."""
    monkeypatch.setattr(storage, "BATCH_ROWS", 7)
    monkeypatch.setattr(files, "BATCH_ROWS", 7)
    monkeypatch.setattr(storage, "FEW_ROWS", 0)


def table(num_rows: int, prefix: str = "") -> pa.Table:
    numbers = np.arange(num_rows)
    return pa.table(
        {
            "id": pa.array([f"{prefix}u{number}" for number in numbers]),
            "audio_filepath": pa.array([f"{prefix}a/{number % 5}/ü{number}.wav" for number in numbers]),
            "sample_rate": pa.array(np.full(num_rows, 16000), pa.int32()),
            "num_samples": numbers + 1,
            "offset": np.zeros(num_rows, dtype=np.float32),
            "duration": (numbers + 1) / 16000,
            "take": pa.array([None if number % 7 == 0 else int(number) for number in numbers], pa.int32()),
            "language": pa.array([LANGUAGES[number % 3] for number in numbers]).dictionary_encode(),
        }
    )


@pytest.fixture
def leaves(small_batches: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Storage]:
    """The same hundred rows in memory, as Parquet of odd row groups, and as an Arrow file."""
    folder = tmp_path_factory.mktemp("leaves")
    pq.write_table(table(100), folder / "m.parquet", row_group_size=23)
    parquet = ParquetFile(folder / "m.parquet", Cache(folder / "cache"))
    quick = parquet.quick()
    assert isinstance(quick, ArrowFile)
    return {"memory": InMemory(cast_table(table(100))), "parquet": parquet, "arrow": quick}


def check_same(found: Storage, expected: pa.Table, random: np.random.Generator) -> None:
    """Every way to read a storage gives what stands in the table."""
    assert (found.num_rows, found.schema) == (len(expected), expected.schema)
    assert found.read().equals(expected)
    names = list(random.permutation(expected.column_names)[: random.integers(1, 4)])
    if not len(expected):
        return
    ascending = np.sort(random.integers(0, len(expected), random.integers(0, 12)))
    assert found.read(names, ascending).equals(expected.select(names).take(pa.array(ascending)))
    anywhere = random.integers(0, len(expected), 9)
    assert found.gather(names, anywhere).combine_chunks().equals(expected.select(names).take(anywhere).combine_chunks())
    for row in anywhere[:3].tolist():
        assert found.row(row) == expected.slice(row, 1).to_pylist()[0]
    assert all(batch.num_rows <= 7 for batch in found.scan(names))


def change(found: Storage, expected: pa.Table, step: str, random: np.random.Generator) -> tuple[Storage, pa.Table]:
    """One thing that can be done to rows, to the storage and to the table."""
    count = len(expected)
    if step in ("ascending", "anywhere"):
        rows = random.integers(0, count, random.integers(0, 60)) if count else np.zeros(0, dtype=np.int64)
        rows = np.sort(rows) if step == "ascending" else rows
        return Chosen(found, rows), expected.take(pa.array(rows))
    if step == "select":
        names = expected.column_names[: random.integers(6, len(expected.column_names) + 1)]
        return Selected(found, names), expected.select(names)
    if step == "widen":
        name = str(random.choice(["new", "take", "speaker"]))
        values = pa.array([f"v{number}" for number in range(count)], pa.string())
        changed = dict(zip(expected.column_names, expected.columns, strict=True)) | {name: values}
        return Widened(found, name, values), cast_table(pa.table(changed))
    if step == "move":
        moved = paths.rebase(expected["audio_filepath"], Path("/x/y"), Path("/x/z"))
        return Moved(found, Path("/x/y"), Path("/x/z")), expected.set_column(1, "audio_filepath", moved)
    other = cast_table(table(11, prefix="o"))
    joined = pa.concat_tables([expected, other], promote_options="permissive")
    return Joined([found, InMemory(other)]), joined


@pytest.mark.parametrize("leaf", ["memory", "parquet", "arrow"])
@given(
    steps=st.lists(st.sampled_from(["ascending", "anywhere", "select", "widen", "move", "join"]), max_size=5),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_those_of_the_table_after_any_steps(
    leaves: dict[str, Storage], leaf: str, steps: list[str], seed: int
) -> None:
    random = np.random.default_rng(seed)
    found, expected = leaves[leaf], leaves["memory"].read()
    for step in steps:
        try:
            next_expected = change(found, expected, step, random)
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # `take` as text does not join with `take` as numbers
            continue
        found, expected = next_expected
    check_same(found, expected, random)
    check_same(found.quick(), expected, random)
    check_same(pickle.loads(pickle.dumps(found)), expected, random)


def test_only_the_columns_and_row_groups_that_are_wanted_are_read(
    leaves: dict[str, Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = leaves["parquet"]
    assert isinstance(parquet, ParquetFile)
    seen: list[tuple[int, list[str]]] = []
    read = parquet._batches
    monkeypatch.setattr(parquet, "_batches", lambda group, names: (seen.append((group, names)), read(group, names))[1])
    assert Chosen(parquet, np.array([25, 30, 99])).read(["id"])["id"].to_pylist() == ["u25", "u30", "u99"]
    assert seen == [(1, ["id"]), (4, ["id"])]


def test_files_are_pickled_by_name(leaves: dict[str, Storage]) -> None:
    for leaf in ("parquet", "arrow"):
        leaves[leaf].row(3)
        assert len(pickle.dumps(leaves[leaf])) < 3000


def test_a_file_that_changed_since_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    pq.write_table(table(10), tmp_path / "m.parquet")
    pickled = pickle.dumps(ParquetFile(tmp_path / "m.parquet", Cache(tmp_path / "cache")))
    pq.write_table(table(20), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match=r"m.parquet: has changed since it was opened; load the manifest again"):
        pickle.loads(pickled).read()


def test_damage_within_a_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(table(1000), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[100:2000] = bytes(1900)
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=r"m.parquet: cannot be read as parquet"):
        ParquetFile(path, Cache(tmp_path / "cache")).read()


def test_written_row_groups_are_of_one_size(tmp_path: Path) -> None:
    rows = InMemory(cast_table(table(100)))
    write_parquet(Chosen(rows, np.arange(3, 100)).scan(rows.schema.names), rows.schema, tmp_path / "n.parquet")
    metadata = pq.read_metadata(tmp_path / "n.parquet")
    sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert sizes == [7] * 13 + [6]
    assert pq.read_table(tmp_path / "n.parquet").equals(rows.read().slice(3))


@given(st.lists(st.one_of(st.none(), st.text(max_size=6), st.sampled_from(["", "a", "b", "ab", "ba"])), max_size=60))
@settings(max_examples=150, deadline=None)
def test_equal_strings_and_only_they_have_equal_hashes(values: list[str | None]) -> None:
    array = pa.array(["pad", *values, "pad"], pa.large_string())
    hashes = hash_values(array.slice(1, len(values)))
    assert (
        hashes == hash_values(pa.chunked_array([pa.array(values[:3], pa.string()), pa.array(values[3:], pa.string())]))
    ).all()
    assert (hashes == hash_values(pa.array(values, pa.string()).dictionary_encode())).all()
    assert [(a == b) for a in hashes for b in hashes] == [(a == b) for a in values for b in values]
    assert count_distinct([hashes[:5], hashes[5:]]) == len(set(values))
    places: dict[Any, int] = {}
    assert codes_of(hashes).tolist() == [places.setdefault(value, len(places)) for value in values]


def test_hashes_do_not_depend_on_what_else_is_hashed() -> None:
    long = "x" * 200_000
    values = [f"text {number} {'ü' * (number % 300)}" for number in range(5000)] + [long, long + "y", "y" + long]
    together = hash_values(pa.array(values))
    alone = [int(hash_values(pa.array([value]))[0]) for value in values[::97]]
    assert together[::97].tolist() == alone
    assert count_distinct([together]) == len(values)


PARTS = st.lists(st.sampled_from(["a", "b", "c", "..", ".", "a.b", "x."]), max_size=3)
FOLDERS = st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/x", "/x/a", "/a/c", "/x./b"])


@given(st.lists(st.tuples(PARTS, st.booleans()), min_size=1, max_size=3), FOLDERS, FOLDERS)
@settings(max_examples=250, deadline=None)
def test_moved_paths_lead_to_the_same_files_by_whatever_way_they_are_moved(
    found: list[tuple[list[str], bool]], old: str, new: str
) -> None:
    names = [("/" if absolute else "") + "/".join([*parts, "f.wav"]) for parts, absolute in found]
    moved = paths.rebase(pa.chunked_array([pa.array(names, pa.large_string())]), Path(old), Path(new)).to_pylist()
    assert moved == [paths.rebase_one(name, Path(old), Path(new)) for name in names]
    for before, after in zip(names, moved, strict=True):
        assert (Path(old) / before).resolve() == (Path(new) / after).resolve()
