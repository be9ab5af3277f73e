"""Ten million rows: open, choose from, divide, count, save and read at random, each in a process of its own.

The manifest is generated once into a temporary folder (ids, paths, texts of 75 characters of which a tenth are prompts
that several speakers read, 20,000 speakers, 8 languages, 3 splits; 680 MB of Parquet) and kept there for the next run.
Memory is told three ways, in MB: `peak` is the highest resident size, which counts pages of mapped files though the
system may take them back at any time; `anonymous` is the highest that was the process's own, sampled every 20 ms;
`imports` is the resident size before anything was opened, most of it torch.
"""

import os
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from harness import main, measured

NUM_ROWS = int(os.environ.get("NUM_ROWS", "10_000_000"))
FOLDER = Path(tempfile.gettempdir()) / f"speechssl-benchmark-manifests-{NUM_ROWS}"
NUM_SPEAKERS = 20_000
NUM_COHORTS = 200  # speakers who read the same prompts
RANDOM_ROWS = 20_000

OPERATIONS = (
    "open .parquet, first time",
    "open .parquet, again",
    "filter by length, language and text",
    "split by speaker",
    "split by text",
    "split by speaker and text",
    "subsets of 10 min, 10 h and 10,000 h",
    "sample 1,000 h",
    "sample 1,000 h balanced by speaker",
    "stats",
    "fingerprint, first time",
    "save 3 million of the rows as .parquet",
    "save all rows as .jsonl",
    "open .jsonl, first time",
    "prepare random access, first time",
    "random rows",
    "open and read a row in a spawned worker",
)


def cases() -> list[dict]:
    """Every operation; generates the manifest where it is not there."""
    generate()
    return [{"operation": name} for name in OPERATIONS]


def run(case: dict) -> dict:
    """One operation."""
    name = case["operation"]
    from speechssl.manifest import Manifest

    before = status("VmRSS")
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch, anonymous_peak() as anonymous:
        cache = Path(scratch) if "first time" in name else FOLDER / "cache"
        path = FOLDER / ("m.jsonl" if name.startswith("open .jsonl") else "m.parquet")
        if name.startswith("open .") or "spawned" in name:
            worker = pickle.dumps(Manifest.load(path, cache_folder=cache).prepare()) if "spawned" in name else b""
            with measured() as used:
                manifest = pickle.loads(worker) if worker else Manifest.load(path, cache_folder=cache)
                result = {"rows": len(manifest)} if not worker else {"rows": int(manifest[NUM_ROWS // 2].id != "")}
        else:
            manifest = Manifest.load(path, cache_folder=cache)
            if name == "random rows":
                manifest.prepare()
            with measured() as used:
                result = work(name, manifest, Path(scratch))
    memory = {"imports_megabytes": before, "anonymous_megabytes": max(anonymous)}
    return {**result, **used.as_dict(), **memory}


def work(name: str, manifest: object, scratch: Path) -> dict:
    """What is measured; returns how many rows came out, and what else there is to tell."""
    from speechssl.manifest import filter_manifest, manifest_stats, sample_manifest, split_manifest, subset_manifest

    if name.startswith("filter"):
        conditions = {"min_seconds": 2, "max_seconds": 20, "has_text": True, "where": {"language": ["en", "de", "fr"]}}
        return {"rows": len(filter_manifest(manifest, **conditions).manifest)}
    if name.startswith("split"):
        by = name.removeprefix("split by ").split(" and ")
        parts = split_manifest(manifest, {"train": 0.9, "dev": 0.05, "test": 0.05}, by=by, seed=0)
        return {"rows": len(parts["train"])}
    if name.startswith("subsets"):
        return {"rows": len(subset_manifest(manifest, [600, 36_000, 3.6e7], seed=0)[2])}
    if name.startswith("sample"):
        by = "speaker" if "balanced" in name else None
        return {"rows": len(sample_manifest(manifest, seconds=3.6e6, balance_by=by, seed=0))}
    if name == "stats":
        return {"rows": manifest_stats(manifest).num_utterances}
    if name.startswith("fingerprint"):
        return {"rows": len(manifest), "digits": len(manifest.fingerprint())}
    if name.startswith("save"):
        chosen = manifest if "all rows" in name else manifest.filter(np.arange(len(manifest)) % 10 < 3)
        suffix = name.rpartition(".")[2]
        path = scratch / f"saved.{suffix}"
        chosen.save(path)
        if suffix == "jsonl":
            os.replace(path, FOLDER / "m.jsonl")  # for the case that opens it
        return {"rows": len(chosen)}
    if name.startswith("prepare"):
        return {"rows": len(manifest.prepare())}
    rows = np.random.default_rng(0).integers(0, len(manifest), RANDOM_ROWS).tolist()
    started = time.perf_counter()
    for row in rows:
        manifest[row]
    return {"rows": len(rows), "microseconds_per_row": (time.perf_counter() - started) / len(rows) * 1e6}


def status(key: str) -> float:
    """A size from /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


@contextmanager
def anonymous_peak() -> Iterator[list[float]]:
    """Sizes of the process's own memory, in MB, taken every 20 ms."""
    seen = [status("RssAnon")]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            seen.append(status("RssAnon"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        seen.append(status("RssAnon"))


def generate() -> None:
    """Write the manifest, and open it once so that its rows are in the cache."""
    if not (FOLDER / "done").exists():
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        write(FOLDER / "m.parquet")
        from speechssl.manifest import Manifest

        manifest = Manifest.load(FOLDER / "m.parquet", cache_folder=FOLDER / "cache").prepare()
        manifest.save(FOLDER / "m.jsonl")
        (FOLDER / "done").touch()


def write(path: Path) -> None:
    """The generated rows, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    syllables = [a + b for a in "b d f g k l m n p r s t v".split() for b in "a e i o u".split()]
    words = ["".join(random.choice(syllables, random.integers(1, 4))) for _ in range(5000)]
    phrases = pa.array([" ".join(random.choice(words, 5)) for _ in range(60_000)], pa.large_string())
    names = {
        "language": pa.array("en de fr es it ru pl pt".split(), pa.large_string()),
        "split": pa.array(["train", "dev", "test"], pa.large_string()),
    }
    of_speaker = {
        "language": random.integers(0, 8, NUM_SPEAKERS),
        "split": random.choice(3, NUM_SPEAKERS, p=[0.96, 0.02, 0.02]),
    }
    writer = None
    for start in range(0, NUM_ROWS, 1 << 16):
        numbers = np.arange(start, min(start + (1 << 16), NUM_ROWS))
        table = block(random, numbers, phrases, names, of_speaker)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    writer.close()


def block(random: np.random.Generator, numbers: np.ndarray, phrases: object, names: dict, of_speaker: dict) -> object:
    """Rows of the given numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    string = pa.large_string()

    def join(separator: str, *parts: object) -> object:
        return pc.binary_join_element_wise(*parts, pa.scalar(separator, string))

    def digits(values: np.ndarray, width: int) -> object:
        return pc.utf8_lpad(pa.array(values).cast(string), width, "0")

    count = len(numbers)
    speaker = random.integers(0, NUM_SPEAKERS, count)
    known = {name: values.take(pa.array(of_speaker[name][speaker])) for name, values in names.items()}
    speakers, chapters = digits(speaker, 5), digits(random.integers(0, 1000, count), 3)
    ids = join("-", speakers, chapters, digits(numbers, 8))
    chosen = random.integers(0, len(phrases), (3, count))
    prompt = (speaker % NUM_COHORTS) * 10 + random.integers(0, 10, count)
    chosen = np.where(random.random(count) < 0.1, prompt[None] + np.arange(3)[:, None], chosen)
    text = join(" ", *(phrases.take(pa.array(row)) for row in chosen))
    num_samples = (np.clip(random.lognormal(1.8, 0.6, count), 0.4, 35) * 16000).astype(np.int64)
    return pa.table(
        {
            "id": ids,
            "audio_filepath": join("", join("/", pa.scalar("audio", string), known["split"], speakers, chapters, ids),
                                   pa.scalar(".flac", string)),
            "sample_rate": np.full(count, 16000),
            "num_samples": num_samples,
            "offset": np.zeros(count),
            "duration": num_samples / 16000,
            "text": pc.if_else(pa.array(random.random(count) < 0.02), pa.scalar(None, string), text),
            "speaker": speakers,
            **known,
        }
    )  # fmt: skip


if __name__ == "__main__":
    main(
        "manifests",
        cases,
        run,
        title=f"Manifests of {NUM_ROWS:,} rows",
        columns=[
            "wall_seconds",
            "cpu_seconds",
            "peak_megabytes",
            "anonymous_megabytes",
            "imports_megabytes",
            "microseconds_per_row",
            "rows",
        ],  # fmt: skip
        notes=(
            "Peak is the highest resident size, mapped files included; anonymous is the process's own memory; imports"
            " is the resident size before anything was opened."
        ),
        rounds=3,
        timeout=900,
    )
