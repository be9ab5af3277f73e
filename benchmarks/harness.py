"""Side-by-side measurements: fresh processes, alternating rounds, medians with spread; results as JSON and Markdown.

A benchmark is a script whose `__main__` calls `main`. It lists its cases as flat dicts (JSON values; the key
`implementation` names the side) and runs one case in the process it is called in::

    def run(case: dict) -> dict:
        prepare()                                   # imports, warm-up: outside of what is measured
        with measured() as used:
            do_the_work(case["implementation"])
        return {"samples": 1000, **used.as_dict()}  # any numbers; equal ones prove equal work

    if __name__ == "__main__":
        main("data", cases, run, title="Data loading", columns=["audio_seconds_per_cpu_second", "cpu_seconds"])

`python benchmarks/data.py --rounds 5` runs every case once a round, each in a process of its own, in an order that
turns from round to round, so that a slow moment of the machine meets all sides alike. It writes
`benchmarks/results/data.json` and regenerates `benchmarks/RESULTS.md` from all results there. Ctrl-C ends it with the
rounds that are finished.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
Case = dict[str, Any]
Numbers = dict[str, float]

MARK = "benchmark numbers: "
"""Begins the lines of a case's process that hold its numbers; libraries print others."""

PACKAGES = (
    "torch torchaudio torchcodec numpy pyarrow soundfile soxr av lhotse datasets fairseq2 webdataset transformers"
    " kaldiio jiwer librosa fsspec s3fs polars duckdb s3prl"
).split()


@dataclass
class Used:
    """Wall and CPU seconds (user and system, with children and threads) of a measured block."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def as_dict(self) -> Numbers:
        """By name."""
        return asdict(self)


@contextmanager
def measured() -> Iterator[Used]:
    """Fill in a `Used` when the block ends. Child processes count whether they have ended or still run."""
    used = Used()
    wall, cpu = time.perf_counter(), cpu_seconds()
    yield used
    used.wall_seconds, used.cpu_seconds = time.perf_counter() - wall, cpu_seconds() - cpu


def cpu_seconds() -> float:
    """CPU seconds that this process and all of its descendants have used so far."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    waiting = _children(os.getpid())
    while waiting:
        pid = waiting.pop()
        waiting += _children(pid)
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # ended just now: then its time is among that of the children waited for
            continue
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # utime, stime, and those of its children
    return total


def _children(pid: int) -> list[int]:
    """Process ids of the children that every thread of `pid` has started."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(word) for text in lists for word in text.split()]


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, system, versions, commit, load before the run."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "commit": _git("rev-parse", "--short", "HEAD") + ("+changes" if _git("status", "--short", "speechssl") else ""),
        "load": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=FOLDER, capture_output=True, text=True)
    return done.stdout.strip()


def run_in_fresh_process(script: str, cases: Sequence[Case], *, timeout: float) -> list[Numbers]:
    """Run cases one after the other with `script --case`; the numbers of each."""
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    words = [word for case in cases for word in ("--case", json.dumps(case))]
    process = subprocess.Popen([sys.executable, script, *words], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    lines = [line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK)]
    if process.returncode != 0 or len(lines) != len(cases):
        raise SystemExit(f"{cases}: ended with exit code {process.returncode}; see its messages above")
    return [dict(json.loads(line)) for line in lines]


def summarise(runs: Sequence[Numbers]) -> dict[str, dict[str, float]]:
    """Median, least and greatest of every number over the rounds."""
    return {
        key: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for key in runs[0]
        for values in [[run[key] for run in runs if key in run]]
    }


def main(
    name: str,
    cases: Callable[[], Sequence[Case]],
    run: Callable[[Case], Numbers],
    *,
    title: str,
    columns: Sequence[str],
    notes: str = "",
    rounds: int = 5,
    timeout: float = 300.0,
    together: Callable[[Case], object] | None = None,
    derive: Callable[[list[dict[str, Any]]], str] | None = None,
) -> None:
    """The command line of a benchmark.

    Args:
        name: of the results file.
        cases: lists them.
        run: runs one in the process it is called in.
        title: of the section in RESULTS.md.
        columns: the numbers that its table shows.
        notes: a text above it.
        rounds: how often each case is run by default.
        timeout: seconds for a process.
        together: cases for which it gives the same share a process, one after the other, where imports would take most
            of the time.
        derive: a text below the table, such as ratios, from the finished cases; may refuse them.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--only", default="", help="words that a case's values must contain, e.g. 'flac lhotse'")
    parser.add_argument("--case", action="append", help="run this case here and print its numbers (used by the rounds)")
    arguments = parser.parse_args()
    if arguments.case is not None:
        for text in arguments.case:
            numbers = run(json.loads(text))
            peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            print(MARK + json.dumps({**numbers, "peak_megabytes": peak / 1024}), flush=True)
        return
    facts = machine()
    chosen = [case for case in cases() if all(word in json.dumps(case) for word in arguments.only.split())]
    groups: dict[object, list[int]] = {}
    for place, case in enumerate(chosen):
        groups.setdefault(together(case) if together else place, []).append(place)
    runs: list[list[Numbers]] = [[] for _ in chosen]
    try:
        for number in range(arguments.rounds):
            order = list(groups.values())
            for places in order[number % len(order) :] + order[: number % len(order)]:
                done = run_in_fresh_process(sys.argv[0], [chosen[place] for place in places], timeout=timeout)
                for place, numbers in zip(places, done, strict=True):
                    runs[place].append(numbers)
                    shown = {key: round(value, 3) for key, value in numbers.items() if key in columns}
                    print(f"round {number + 1}: {chosen[place]} {shown}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        finished = min(map(len, runs))
        if not finished:
            raise
        print(f"interrupted: {finished} of {arguments.rounds} rounds are kept", file=sys.stderr)
        runs = [numbers[:finished] for numbers in runs]
    result = {
        "title": title,
        "notes": notes,
        "columns": list(columns),
        "command": f"python benchmarks/{Path(sys.argv[0]).name} --rounds {arguments.rounds}",
        "machine": facts,
        "cases": [{"case": case, "summary": summarise(r), "runs": r} for case, r in zip(chosen, runs, strict=True)],
    }
    if derive is not None:
        try:
            result["derived"] = derive(result["cases"])
        except SystemExit as refusal:  # an hour's figures are not thrown away, but do not count
            path = FOLDER / "results" / "refused" / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**result, "refused": str(refusal)}, indent=1) + "\n")
            raise SystemExit(f"{refusal}; the figures are in {path}") from None
    if arguments.only:  # part of the cases: shown, not kept
        print(section(result))
        return
    (FOLDER / "results").mkdir(exist_ok=True)
    (FOLDER / "results" / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    write_results()


def section(result: dict[str, Any]) -> str:
    """One benchmark as Markdown: the machine, then a row for each case with `median (least to greatest)`."""
    facts = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    keys = list(dict.fromkeys(key for entry in result["cases"] for key in entry["case"]))
    header = [*keys, *(column.replace("_", " ") for column in result["columns"])]
    rows = []
    for entry in result["cases"]:
        cells = [str(entry["case"].get(key, "")) for key in keys]
        for column in result["columns"]:
            value = entry["summary"].get(column)
            cells.append("" if value is None else f"{value['median']:.4g} ({value['min']:.4g} to {value['max']:.4g})")
        rows.append(cells)
    lines = [f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows]]
    rounds = max((len(entry["runs"]) for entry in result["cases"]), default=0)
    where = (
        f"`{result['command']}` on {facts['date']}, commit {facts['commit']}, {facts['cores']} cores of {facts['cpu']},"
        f" {facts['memory_gigabytes']} GB, load before the run {facts['load']}; Python {facts['python']}, {versions}."
        f" Median of {rounds} rounds (least to greatest)."
    )
    parts = [f"## {result['title']}", where, result["notes"], "\n".join(lines), result.get("derived", "")]
    return "\n\n".join(part for part in parts if part)


def write_results() -> None:
    """Regenerate RESULTS.md from all that lies in `results`."""
    results = [json.loads(path.read_text()) for path in sorted((FOLDER / "results").glob("*.json"))]
    results = [result for result in results if "title" in result]  # gpu.py writes what is no list of processes
    head = "# Results\n\nGenerated by `python benchmarks/harness.py` from `results/*.json`; do not edit."
    (FOLDER / "RESULTS.md").write_text("\n\n".join([head, *map(section, results)]) + "\n")


if __name__ == "__main__":
    write_results()
