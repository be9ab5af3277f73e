"""Spoken digits searched for in all recordings of the corpora: exactly, and by FAISS's indexes, with their recall.

The collection is every clip of the six speech corpora but FSDD's test takes; the queries are 20 of these. Frames are
those of `speechssl-tiny`, layer 3, embedded once and kept in the folder for temporary files. `build_seconds` are CPU
seconds to make the index, `seconds_a_query` CPU seconds of `speechssl search` with the index ready, divided by the
number of queries: the encoder is loaded and the queries are embedded in them. `recall` is the share of the exact
search's ten best hits that were found, on average over queries.
"""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from harness import main, measured

from speechssl.search.settings import Hit
from speechssl.search.stage import recall

ROOT = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
CORPORA = ("librispeech_train100_251spk", "kathleen_en", "ljspeech_part", "kerstin_de", "fsdd", "wakewords_en")
FOLDER = Path(tempfile.gettempdir()) / "speechssl-benchmark-search"
NUM_QUERIES = 20
WAYS = (
    ("exact", "", 0),
    ("HNSW32", "efSearch=16", 100),
    ("HNSW32", "efSearch=1000", 1000),
    ("IVF256,Flat", "nprobe=1", 100),
    ("IVF256,Flat", "nprobe=16", 1000),
)
"""FAISS's words for the index, for how it is searched, and how many neighbours of each part of a query it names."""


def cases() -> list[dict]:
    """Every way, the exact one first: its hits are what the others are compared with."""
    return [{"index": factory, "parameters": words, "candidates": count} for factory, words, count in WAYS]


def run(case: dict) -> dict:
    """Embed what is missing, make the index, search."""
    import torch

    from speechssl.search import SearchConfig
    from speechssl.search import run as search
    from speechssl.search.approximate import FACTS_NAME, INDEX_NAME, open_approximate
    from speechssl.search.collection import Collection

    torch.set_num_threads(1)
    folder, queries = collection(), tuple(digits()[:NUM_QUERIES])
    opened = Collection(folder)
    statistics = opened.statistics()
    numbers: dict[str, float] = {"recordings": float(len(opened.index)), "vectors": float(opened.num_vectors)}
    settings: dict[str, Any] = {}
    if case["index"] != "exact":
        settings = {"method": "faiss", "factory": case["index"], "parameters": case["parameters"]}
        settings["candidates"] = case["candidates"]
        (folder / FACTS_NAME).unlink(missing_ok=True)
        with measured() as used:
            open_approximate(opened, statistics, factory=case["index"], progress=lambda what, done, total: None)
        numbers["build_seconds"] = used.cpu_seconds
        numbers["index_megabytes"] = (folder / INDEX_NAME).stat().st_size / 1e6
    exact = FOLDER / "exact.jsonl"
    with measured() as used:
        found = search(SearchConfig(index=folder, queries=queries, output=None if settings else exact, **settings))
    numbers["seconds_a_query"] = used.cpu_seconds / len(queries)
    if settings:
        wanted: dict[str, list[Hit]] = {}
        for line in exact.read_text().splitlines():
            hit = {name: value for name, value in json.loads(line).items() if name != "rank"}
            wanted.setdefault(hit["query"], []).append(Hit(**hit))
        assert wanted.keys() == found.hits.keys()
        numbers["recall"] = float(np.mean([recall(found.hits[name], tuple(wanted[name])) for name in wanted]))
    return numbers


def collection() -> Path:
    """Frames of all corpora, made where they are missing."""
    from speechssl.embed import EmbedConfig
    from speechssl.embed import run as embed
    from speechssl.manifest import Manifest, build_manifest

    manifest = FOLDER / "all.jsonl"
    if not manifest.exists():
        held_out = {path.stem for path in digits()}
        rows = [
            replace(row, id=f"{corpus}/{row.id}")
            for corpus in CORPORA
            for row in build_manifest(ROOT / corpus, num_workers=1).manifest
            if Path(row.audio_filepath).stem not in held_out
        ]
        Manifest.from_utterances(rows).save(manifest)
    config = EmbedConfig(checkpoint="speechssl-tiny", manifest=manifest, output=FOLDER / "frames", layer=3, pool="none")
    embed(config)
    return config.output


def digits() -> list[Path]:
    """FSDD's test takes, of every digit and speaker in turn."""
    FOLDER.mkdir(exist_ok=True)
    paths = [path for path in sorted((ROOT / "fsdd/audio").iterdir()) if int(path.stem.split("_")[2]) < 5]
    return [paths[number * 37 % len(paths)] for number in range(len(paths))]


if __name__ == "__main__":
    main(
        "search",
        cases,
        run,
        title="Search by example",
        columns=["recall", "seconds_a_query", "build_seconds", "index_megabytes", "peak_megabytes", "vectors"],
        notes=" ".join((__doc__ or "").split("\n\n")[1].split()),
        rounds=1,
        timeout=3600,
    )
