"""Spoken digits searched for in all recordings of the corpora: exactly, and by FAISS's indexes, with their recall.

The collection is every clip of the six speech corpora but FSDD's test takes; the queries are 20 of these. Frames (where
is it said?) and utterance vectors (what is alike?) are those of `speechssl-tiny`, layer 3. They are embedded once and
kept in the folder for temporary files. `build_seconds` are CPU seconds to make the index, `seconds_a_query` CPU seconds
of `speechssl search` with the index ready, divided by the number of queries: the encoder is loaded and the queries are
embedded in them. `recall` is the share of the exact search's ten best hits that were found, on average over queries.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import main, measured

ROOT = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
CORPORA = ("librispeech_train100_251spk", "kathleen_en", "ljspeech_part", "kerstin_de", "fsdd", "wakewords_en")
FOLDER = Path(tempfile.gettempdir()) / "speechssl-benchmark-search"
NUM_QUERIES = 20
POOLS = {"frames": "none", "utterances": "mean"}
WAYS = (
    ("exact", ""),
    ("Flat", ""),
    ("HNSW32", ""),
    ("HNSW32", "efSearch=128"),
    ("IVF256,Flat", "nprobe=1"),
    ("IVF256,Flat", "nprobe=16"),
    ("IVF256,PQ48", "nprobe=16"),
)


def cases() -> list[dict]:
    """Every way for both collections."""
    return [
        {"collection": name, "index": factory, "parameters": parameters}
        for name in POOLS
        for factory, parameters in WAYS
    ]


def run(case: dict) -> dict:
    """Embed what is missing, make the index, search."""
    import torch

    from speechssl.search import SearchConfig
    from speechssl.search import run as search
    from speechssl.search.approximate import FACTS_NAME, INDEX_NAME, open_approximate
    from speechssl.search.collection import Collection

    torch.set_num_threads(1)
    folder, queries = collection(case["collection"]), digits()[:NUM_QUERIES]
    opened = Collection(folder)
    statistics = opened.statistics()
    numbers: dict[str, float] = {"recordings": float(len(opened.index)), "vectors": float(opened.num_vectors)}
    settings: dict[str, Any] = {}
    if case["index"] != "exact":
        settings = {"method": "faiss", "factory": case["index"], "parameters": case["parameters"]}
        (folder / FACTS_NAME).unlink(missing_ok=True)
        with measured() as used:
            open_approximate(opened, statistics, factory=case["index"], progress=lambda what, done, total: None)
        numbers["build_seconds"] = used.cpu_seconds
        numbers["index_megabytes"] = (folder / INDEX_NAME).stat().st_size / 1e6
    with measured() as used:
        search(SearchConfig(index=folder, queries=tuple(queries), **settings))
    numbers["seconds_a_query"] = used.cpu_seconds / len(queries)
    if settings:
        recall = search(SearchConfig(index=folder, queries=tuple(queries), recall=True, **settings)).recall
        assert recall is not None
        numbers["recall"] = float(np.mean(list(recall.values())))
    return numbers


def collection(name: str) -> Path:
    """Embeddings of all corpora, made where they are missing."""
    from speechssl.embed import EmbedConfig
    from speechssl.embed import run as embed
    from speechssl.manifest import Manifest, build_manifest

    manifest = FOLDER / "all.jsonl"
    if not manifest.exists():
        held_out = {path.stem for path in digits()}
        rows = [row for corpus in CORPORA for row in build_manifest(ROOT / corpus, num_workers=1).manifest]
        Manifest.from_utterances([row for row in rows if Path(row.audio_filepath).stem not in held_out]).save(manifest)
    embed(EmbedConfig(checkpoint="speechssl-tiny", manifest=manifest, output=FOLDER / name, layer=3, pool=POOLS[name]))
    return FOLDER / name


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
