"""Query by example on spoken digits: precision of the first hits, by layer, beside hand-made features.

Every query is searched in utterances of other takes; a hit is right where the same digit is said. The search is that of
`speechssl search`: spans by the means of their thirds, then subsequence warping.
"""

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from speechssl.encoder import SpeechEncoder, load_encoder
from speechssl.frames import CONTEXT, FrameSource
from speechssl.manifest import Manifest
from speechssl.search.collection import Block, Statistics
from speechssl.search.spans import SpanSearch, warp, without_overlaps

KEPT = 20


def precisions(queries: Mapping, collection: Mapping, labels: Mapping, frame_seconds: float, speakers: Mapping | None):
    """Precision at 1 and at 10 of spans alone and after warping; with speakers, those of the query are left out."""
    every = np.concatenate(list(collection.values()))
    scale = every.std(axis=0)
    statistics = Statistics(mean=every.mean(axis=0), scale=np.where(scale > 1e-6, scale, 1).astype(np.float32))
    ids = tuple(collection)
    starts = np.cumsum([0, *(len(collection[name]) for name in ids)])
    times = np.concatenate([frame_seconds * np.arange(len(collection[name])) for name in ids])
    block = Block(number=0, ids=ids, starts=starts, vectors=every, times=times)
    rows = []
    for name, frames in queries.items():
        search = SpanSearch(name, frames, statistics, keep=KEPT, per_recording=1, frame_seconds=frame_seconds)
        search.show(block, None if speakers is None else [one for one in ids if speakers[one] != speakers[name]])
        found = search.candidates()
        warped = without_overlaps([warp(search.frames, one, frame_seconds=frame_seconds) for one in found],
                                  per_recording=1)  # fmt: skip
        ordered = [[one.hit.id for one in found], [hit.id for hit in warped]]
        right = [[labels[one] == labels[name] for one in hits] for hits in ordered]
        rows.append([right[0][0], np.mean(right[0][:10]), right[1][0], np.mean(right[1][:10])])
    return np.array(rows, dtype=float)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    parser.add_argument("--every", type=int, default=2, help="of the collection, take each so many")
    parser.add_argument("--query_every", type=int, default=5)
    parser.add_argument("--checkpoint", default="speechssl-tiny")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    collection = Manifest.load(arguments.collection)
    queries = Manifest.load(arguments.queries)
    collection = collection.take(np.arange(0, len(collection), arguments.every))
    queries = queries.take(np.arange(0, len(queries), arguments.query_every))
    labels, speakers = ({one.id: getattr(one, name) for part in (collection, queries) for one in part}
                        for name in ("text", "speaker"))  # fmt: skip
    encoder = load_encoder(arguments.checkpoint)
    layers = (*range(encoder.config.num_layers + 1), CONTEXT)
    sources = [FrameSource(name="mfcc"), FrameSource(name="log_mel"),
               FrameSource(name="random", encoder=SpeechEncoder(encoder.config, seed=0).eval(), layers=layers),
               FrameSource(name=arguments.checkpoint, encoder=encoder, layers=layers)]  # fmt: skip
    results = []
    for source in sources:
        parts = [dict(source.stream(part)) for part in (queries, collection)]
        for number, layer in enumerate(source.layers or ("",)):
            one = [{name: found[number] for name, found in part.items()} for part in parts]
            for which, told in (("any speaker", None), ("other speakers", speakers)):
                begun = time.process_time()
                rows = precisions(*one, labels, source.frame_seconds, told)
                error = rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
                results.append({
                    "representation": source.name, "layer": str(layer), "among": which, "num_queries": len(rows),
                    "num_recordings": len(one[1]), "cpu_seconds": round(time.process_time() - begun, 2),
                    **{key: [round(float(mean), 4), round(float(sd), 4)] for key, mean, sd in
                       zip(("p_at_1", "p_at_10", "warped_p_at_1", "warped_p_at_10"), rows.mean(axis=0), error,
                           strict=True)},
                })  # fmt: skip
                print(results[-1], flush=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
