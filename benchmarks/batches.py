"""Planning batches: how soon the first one is there, how much is padding, how evenly ranks share, and at what scale.

Lengths are drawn from those of five corpora of real speech, each with a jitter of 2 %. lhotse runs with its dynamic
bucketing sampler and 30 buckets, which reads its manifest as it goes; its budget counts audio without padding.
Processes against threads: the same batches, decoded by two of either.
"""

import gzip
import itertools
import json
import os
import tempfile
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from harness import main, measured

ROOT = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
CORPORA = ("librispeech_train100_251spk", "kathleen_en", "kerstin_de", "ljspeech_part", "wakewords_en")
CACHE = Path(tempfile.gettempdir()) / "speechssl-benchmark-batches"
BATCH_SECONDS, WORLD_SIZE, SEED = 87.5, 8, 0


def cases() -> list[dict]:
    """Each question with its sides."""
    return [
        {"question": "an epoch of 100 000 rows", "implementation": "speechssl"},
        {"question": "an epoch of 100 000 rows", "implementation": "speechssl, alike_batches 8"},
        {"question": "an epoch of 100 000 rows", "implementation": "lhotse"},
        {"question": "the first batch of 1 000 000 rows", "implementation": "speechssl"},
        {"question": "the first batch of 1 000 000 rows", "implementation": "speechssl, 2 workers"},
        {"question": "the first batch of 1 000 000 rows", "implementation": "lhotse"},
        {"question": "a plan for 1 000 000 rows", "implementation": "speechssl"},
        {"question": "a plan for 10 000 000 rows", "implementation": "speechssl"},
        {"question": "a plan for 10 000 000 rows", "implementation": "speechssl, by_shard"},
        {"question": "1800 s of audio", "implementation": "speechssl, 2 processes"},
        {"question": "1800 s of audio", "implementation": "speechssl, 2 threads"},
    ]


def run(case: dict) -> dict:
    """Answer one question."""
    question, name = case["question"], case["implementation"]
    if question.startswith("an epoch"):
        return epoch(name, 100_000)
    if question.startswith("the first batch"):
        return first_batch(name, 1_000_000)
    if question.startswith("a plan"):
        return plan(name, int(question.split("for ")[1].removesuffix(" rows").replace(" ", "")))
    return decode(name, seconds=1800.0)


def recordings() -> list:
    """All utterances of the corpora."""
    from speechssl.manifest import Manifest, build_manifest

    CACHE.mkdir(exist_ok=True)
    found = []
    for name in CORPORA:
        path = CACHE / f"{name}.jsonl"
        if not path.exists():
            build_manifest(ROOT / name / "audio", output=path)
        found += list(Manifest.load(path))
    return found


def lengths(count: int) -> np.ndarray:
    """Seconds of `count` utterances."""
    random = np.random.default_rng(SEED)
    real = np.array([utterance.duration for utterance in recordings()])
    return random.choice(real, count) * random.uniform(0.98, 1.02, count)


def epoch(name: str, count: int) -> dict:
    """Plan one epoch for eight ranks; batches only, no audio."""
    seconds = lengths(count)
    with measured() as used:
        steps = lhotse_steps(seconds) if name == "lhotse" else our_steps(seconds, 8 if "alike" in name else 1)
    batches = [batch for step in steps for batch in step]
    times = Counter(row for batch in batches for row in batch)
    cells = [[len(batch) * seconds[batch].max() for batch in step] for step in steps]
    whole = [step for step in cells if len(step) == WORLD_SIZE]
    return {
        "rows": count,
        "num_batches": len(batches),
        "padding_percent": 100 * (1 - sum(seconds[batch].sum() for batch in batches) / sum(map(sum, cells))),
        "slowest_rank_over_mean": float(np.mean([max(step) / np.mean(step) for step in whole])),
        "rows_not_delivered_once": count - sum(seen == 1 for seen in times.values()),
        **used.as_dict(),
    }


def our_steps(seconds: np.ndarray, alike: int) -> list[list[list[int]]]:
    """Rows of the batches of every rank in every step of epoch 0."""
    from speechssl.data import BatchPlan

    plan = BatchPlan(seconds, max_batch_length=BATCH_SECONDS, seed=SEED, alike=alike)
    numbers = range(plan.num_batches)
    return [
        [plan.batch(number).tolist() for number in numbers[start : start + WORLD_SIZE]]
        for start in range(0, plan.num_batches, WORLD_SIZE)
    ]


def lhotse_steps(seconds: np.ndarray) -> list[list[list[int]]]:
    """The same of lhotse; each rank has a sampler of its own."""
    from lhotse import CutSet
    from lhotse.dataset.sampling import DynamicBucketingSampler

    path = CACHE / f"epoch-{len(seconds)}.jsonl.gz"
    if not path.exists():
        write_cuts(path, seconds)
    ranks = []
    for rank in range(WORLD_SIZE):
        sampler = DynamicBucketingSampler(
            CutSet.from_jsonl_lazy(path), max_duration=BATCH_SECONDS, num_buckets=30, shuffle=True,
            buffer_size=20_000, seed=SEED, rank=rank, world_size=WORLD_SIZE,
        )  # fmt: skip
        ranks.append([[int(cut.id) for cut in cuts] for cuts in sampler])
    return [[batch for batch in step if batch is not None] for step in itertools.zip_longest(*ranks)]


def write_cuts(path: Path, seconds: np.ndarray) -> None:
    """Cuts of `seconds`, each with a recording of the corpora."""
    real = recordings()
    with gzip.open(path, "wt", compresslevel=1) as file:
        for number, duration in enumerate(seconds.tolist()):
            file.write(json.dumps(cut(number, real[number % len(real)], duration)) + "\n")


def cut(number: int, utterance: object, duration: float) -> dict:
    """A lhotse cut of a whole recording, as its JSON has it."""
    recording = {
        "id": str(number), "sources": [{"type": "file", "channels": [0], "source": utterance.audio_filepath}],
        "sampling_rate": utterance.sample_rate, "num_samples": utterance.num_samples, "duration": utterance.duration,
    }  # fmt: skip
    return {
        "id": str(number), "start": 0, "duration": duration, "channel": 0, "supervisions": [],
        "recording": recording, "type": "MonoCut",
    }  # fmt: skip


def first_batch(name: str, count: int) -> dict:
    """From the manifest file to a batch of decoded audio; imports are not counted."""
    if name == "lhotse":
        from lhotse import CutSet
        from lhotse.dataset.collation import collate_audio
        from lhotse.dataset.sampling import DynamicBucketingSampler

        path = CACHE / f"first-{count}.jsonl.gz"
        if not path.exists():
            real = recordings()
            write_cuts(path, np.array([real[number % len(real)].duration for number in range(count)]))
        started = time.perf_counter()
        with measured() as used:
            sampler = DynamicBucketingSampler(
                CutSet.from_jsonl_lazy(path), max_duration=BATCH_SECONDS, num_buckets=30, shuffle=True,
                buffer_size=20_000, seed=SEED,
            )  # fmt: skip
            audio, _ = collate_audio(next(iter(sampler)))
        return {"rows": count, "seconds_to_first_batch": time.perf_counter() - started, **used.as_dict()}
    from speechssl.data import AudioBatches, DataConfig
    from speechssl.manifest import Manifest

    path = CACHE / f"first-{count}.parquet"
    if not path.exists():
        write_manifest(path, count)
    config = DataConfig(batch_seconds=BATCH_SECONDS, num_workers=2 if "workers" in name else 0)
    with measured() as used:
        started = time.perf_counter()
        manifest = Manifest.load(path)
        loaded = time.perf_counter()
        batches = AudioBatches(manifest, config, sample_rate=16_000, min_num_samples=400, seed=SEED).batches()
        next(batches)
        ended = time.perf_counter()
        batches.close()
    return {
        "rows": count,
        "seconds_to_first_batch": ended - started,
        "seconds_of_these_to_load": loaded - started,
        **used.as_dict(),
    }


def write_manifest(path: Path, count: int) -> None:
    """Rows that go round the recordings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    real = recordings()
    chosen = np.arange(count) % len(real)

    def column(attribute: str) -> pa.Array:
        return pa.array([getattr(utterance, attribute) for utterance in real]).take(pa.array(chosen))

    columns = {name: column(name) for name in ("audio_filepath", "sample_rate", "num_samples", "offset", "duration")}
    pq.write_table(pa.table({"id": pa.array([f"u{number}" for number in range(count)]), **columns}), path)


def plan(name: str, count: int) -> dict:
    """Plan, name the first batch, and a batch of another epoch as a resumed run would."""
    from speechssl.data import BatchPlan

    seconds = lengths(count)
    windows = np.random.default_rng(SEED).integers(0, count // 8000, count) if "by_shard" in name else None
    with measured() as used:
        started = time.perf_counter()
        made = BatchPlan(seconds, max_batch_length=BATCH_SECONDS, seed=SEED, windows=windows)
        planned = time.perf_counter()
        made.batch(0)
        first = time.perf_counter()
        made.batch(5 * made.num_batches + made.num_batches // 2)
        resumed = time.perf_counter()
    return {
        "rows": count,
        "num_batches": made.num_batches,
        "padding_percent": 100 * made.padding_share(),
        "plan_seconds": planned - started,
        "first_batch_milliseconds": 1000 * (first - planned),
        "resume_milliseconds": 1000 * (resumed - first),
        **used.as_dict(),
    }


def decode(name: str, *, seconds: float) -> dict:
    """Batches of real recordings from two processes, or from two threads of this process."""
    from speechssl.data import AudioBatches, DataConfig
    from speechssl.manifest import Manifest

    config = DataConfig(batch_seconds=BATCH_SECONDS, num_workers=2 if "processes" in name else 0)
    manifest = Manifest.from_utterances(recordings())
    stream = AudioBatches(manifest, config, sample_rate=16_000, min_num_samples=400, seed=SEED)
    batches = stream.batches() if "processes" in name else from_threads(stream)
    next(batches)
    heard = 0.0
    with measured() as used:
        for batch in batches:
            heard += batch.seconds
            if heard >= seconds:
                break
    batches.close()
    return {
        "audio_seconds_per_second": heard / used.wall_seconds,
        "audio_seconds_per_cpu_second": heard / used.cpu_seconds,
        **used.as_dict(),
    }


def from_threads(stream: object):
    """What `read_ahead` does, with threads."""
    requests = stream._requests(0)
    with ThreadPoolExecutor(2) as pool:
        waiting = deque(pool.submit(stream._maker, request) for request in itertools.islice(requests, 4))
        try:
            while True:
                made = waiting.popleft().result()
                waiting.append(pool.submit(stream._maker, next(requests)))
                yield made.batch
        finally:
            for future in waiting:
                future.cancel()


if __name__ == "__main__":
    main(
        "batches",
        cases,
        run,
        title="Batches",
        timeout=1200.0,
        notes=__doc__.split("\n\n")[1].replace("\n", " "),
        columns=[
            "padding_percent", "slowest_rank_over_mean", "rows_not_delivered_once", "num_batches",
            "seconds_to_first_batch", "seconds_of_these_to_load", "plan_seconds", "first_batch_milliseconds",
            "resume_milliseconds", "audio_seconds_per_second", "audio_seconds_per_cpu_second", "cpu_seconds",
            "peak_megabytes",
        ],
    )  # fmt: skip
