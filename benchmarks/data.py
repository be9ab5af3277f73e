"""How fast audio is delivered: ours beside the loaders of other libraries, on the same files, in one run.

`python benchmarks/data.py` compares decoding alone, with resampling, with augmentation, from tar shards, and the time
to the first batch of a manifest of a million rows. See `data_files.py` for the recordings and `data_peers.py` for the
loaders. The torchcodec decoder of Hugging Face datasets is compared where `torchcodec` is installed.

The clock starts when the first batch is there and stops with the last, so that neither imports nor the start of worker
processes count. Worker processes read ahead while the first batch is awaited, so with them there is so much to deliver
that what was read ahead is a small part. With 0 workers a case is bound to one core (libraries that start threads of
their own share it), with 2 workers to two. All loaders must deliver the same number of samples.
"""

import importlib
import importlib.util
import os
from typing import Any

import data_files
import data_first
from data_files import SHARD, TARGET_RATE
from data_peers import LOADERS, Job
from harness import Case, Numbers, main, measured

from speechssl.training.allocator import keep_freed_memory

NATIVE = ("flac", "opus", "mp3", "wav")
RESAMPLED = ("flac 44.1 kHz", "opus 48 kHz", "mp3 44.1 kHz", "wav 44.1 kHz")
SIZES = {"flac": 600, "wav": 900, "mp3": 600, "opus": 150, SHARD: 600, "flac 44.1 kHz": 300, "opus 48 kHz": 100}
"""How many clips are delivered, 300 where not said: all of them, some of them, or all several times. About a second."""
WITH_WORKERS = 8
"""So many times as much is delivered by worker processes."""
AUGMENTED = "flac, speed and noise"
ALONE = "soundfile alone"
FIRST = "first of a million"
TASKS = {
    **dict.fromkeys((*NATIVE, *RESAMPLED), ("datasets (soundfile)", "datasets (torchcodec)", "lhotse", "fairseq2")),
    SHARD: ("webdataset", "lhotse Shar"),
    AUGMENTED: ("lhotse",),
}


def cases() -> list[Case]:
    """Every task with every loader that can do it, and the bare decoder; those of one task one after the other."""
    loaders = [name for name in LOADERS if "torchcodec" not in name or importlib.util.find_spec("torchcodec")]
    chosen: list[Case] = []
    for task, peers in TASKS.items():
        for workers in (0, 2):
            able = ("speechssl", *peers, *((ALONE,) if task in data_files.FORMATS and not workers else ()))
            chosen += [{"implementation": name, "workers": workers, "task": task} for name in loaders if name in able]
    return chosen + [{"implementation": way, "workers": 0, "task": FIRST} for way in data_first.WAYS]


def run(case: Case) -> Numbers:
    """Deliver the recordings of a case once, or only the first batch of many."""
    if case["task"] == FIRST:
        return run_first(str(case["implementation"]))
    workers, task = int(case["workers"]), str(case["task"])
    cores = sorted(os.sched_getaffinity(0))[: max(1, workers)]
    data_files.prepare()
    name = "flac" if task == AUGMENTED else task
    once = data_files.recordings(name)
    size = SIZES.get(task, len(once)) * (WITH_WORKERS if workers else 1)
    job = Job(
        recordings=(once * -(-size // len(once)))[:size],
        num_workers=workers,
        noises=data_files.noises() if task == AUGMENTED else (),
    )
    keep_freed_memory()  # for all: as in training on a CPU; else the price of fresh pages hides the rest
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    batches = iter(LOADERS[str(case["implementation"])](job))
    with measured() as start:
        lengths = list(next(batches))
    num_first = sum(lengths)
    with measured() as used:
        for batch in batches:
            lengths.extend(batch)
    os.sched_setaffinity(0, before)
    seconds = (sum(lengths) - num_first) / TARGET_RATE
    return {
        "audio_seconds_per_cpu_second": seconds / used.cpu_seconds,
        "audio_seconds_per_second_and_core": seconds / used.wall_seconds / len(cores),
        "clips": len(lengths),
        "samples": sum(lengths),
        "first_batch_seconds": start.wall_seconds,
        **used.as_dict(),
    }


def run_first(way: str) -> Numbers:
    """From the name of a large manifest to its first batch."""
    data_files.prepare()
    data_first.prepare()
    for module in data_first.MODULES[way.partition(",")[0]]:
        importlib.import_module(module)
    with measured() as used:
        clips = data_first.WAYS[way]()
    return {"clips": clips, "first_batch_seconds": used.wall_seconds, **used.as_dict()}


def ratios(done: list[dict[str, Any]]) -> str:
    """Ours against each peer, after the check that the same was delivered."""
    speed = {}
    for entry in done:
        case, summary = entry["case"], entry["summary"]
        speed[case["task"], case["workers"], case["implementation"]] = summary
    lines = ["Ours against each peer, by CPU seconds (by wall seconds):", "", "| task | workers | peer | times |"]
    lines.append("| --- | --- | --- | --- |")
    for (task, workers, peer), theirs in speed.items():
        ours = speed.get((task, workers, "speechssl"))
        if task == FIRST or ours is None or peer == "speechssl":
            continue
        for bound in ("min", "max"):
            _check_same(task, peer, ours, theirs, bound)
        cpu, wall = (
            ours[key]["median"] / theirs[key]["median"]
            for key in ("audio_seconds_per_cpu_second", "audio_seconds_per_second_and_core")
        )
        lines.append(f"| {task} | {workers} | {peer} | {cpu:.2f} ({wall:.2f}) |")
    return "\n".join(lines)


def _check_same(task: str, peer: str, ours: dict[str, Any], theirs: dict[str, Any], bound: str) -> None:
    """Every clip, and the same number of samples but for the rounding of a resampled length; speeds are random."""
    tolerance = 0.03 * ours["samples"][bound] if task == AUGMENTED else ours["clips"][bound] * (task in RESAMPLED)
    if theirs["clips"][bound] != ours["clips"][bound] or (
        abs(theirs["samples"][bound] - ours["samples"][bound]) > tolerance
    ):
        raise SystemExit(
            f"{task}: {peer} delivered {theirs['clips'][bound]} clips and {theirs['samples'][bound]} samples, ours"
            f" {ours['clips'][bound]} and {ours['samples'][bound]}: no comparison"
        )


if __name__ == "__main__":
    main(
        "data",
        cases,
        run,
        title="Delivering audio",
        columns=["audio_seconds_per_cpu_second", "audio_seconds_per_second_and_core", "first_batch_seconds"],
        notes=" ".join(str(__doc__).split("\n\n")[2].split()),
        rounds=3,
        together=lambda case: (case["implementation"], case["workers"]),
        derive=ratios,
    )
