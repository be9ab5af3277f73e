"""How many recordings a second become rows of a manifest, against lhotse and Hugging Face datasets, on two processes.

The recordings are those of the corpora: flac, opus and ogg/vorbis as they are, and the flac ones once more as wav. All
sides list the same folder and give the length of every recording; imports, and a pass that brings the files into the
system's cache, are not measured. lhotse: `RecordingSet.from_dir(..., num_jobs=2)`. datasets: a dataset of the listed
paths, and a batched `map` of soundfile's header reader with `num_proc=2`; `load_dataset("audiofolder")` took longer,
for it copies the list into its cache first.
"""

import os
import shutil
import tempfile
from pathlib import Path

from harness import main, measured

ROOT = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
FOLDER = Path(tempfile.gettempdir()) / "speechssl-benchmark-headers"
FORMATS = ("wav", "flac", "opus", "ogg")
PEERS = ("lhotse", "datasets")
IMPLEMENTATIONS = ("speechssl", "speechssl, nothing has changed", *PEERS)
NUM_PROCESSES = 2


def cases() -> list[dict]:
    """Every side on every format."""
    collect()
    return [{"format": name, "implementation": side} for name in FORMATS for side in IMPLEMENTATIONS]


def run(case: dict) -> dict:
    """List the folder and read the headers."""
    folder = FOLDER / case["format"]
    files = sorted(folder.rglob("*.*"))
    for path in files:
        path.read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_HOME"] = scratch
        read = SIDES[case["implementation"].partition(",")[0]]
        if case["implementation"].startswith("speechssl"):
            output = Path(scratch) / "m.parquet"
            read(folder, output, warm_up="nothing" not in case["implementation"])
            with measured() as used:
                seconds = read(folder, output)
        else:
            read(folder, warm_up=True)
            with measured() as used:
                seconds = read(folder)
    return {
        "recordings": len(files),
        "audio_seconds": round(seconds, 1),
        "recordings_per_second": len(files) / used.wall_seconds,
        "recordings_per_cpu_second": len(files) / used.cpu_seconds,
        **used.as_dict(),
    }


def read_ours(folder: Path, output: Path, *, warm_up: bool = False) -> float:
    """A manifest in a file; the journal is written too."""
    from speechssl.manifest import build_manifest

    if warm_up:
        return 0.0
    return build_manifest(folder, output=output, num_workers=NUM_PROCESSES).manifest.total_seconds


def read_lhotse(folder: Path, *, warm_up: bool = False) -> float:
    """A set of recordings in memory."""
    os.environ["TQDM_DISABLE"] = "1"
    from lhotse import RecordingSet

    if warm_up:
        return 0.0
    found = RecordingSet.from_dir(folder, f"*.{folder.name}", num_jobs=NUM_PROCESSES)
    return sum(recording.duration for recording in found)


def read_datasets(folder: Path, *, warm_up: bool = False) -> float:
    """A dataset with the columns path, sample rate and number of samples."""
    import datasets

    datasets.disable_progress_bars()
    if warm_up:
        return 0.0
    paths = sorted(str(path) for path in folder.rglob(f"*.{folder.name}"))
    table = datasets.Dataset.from_dict({"path": paths})
    table = table.map(headers_of, batched=True, batch_size=256, num_proc=NUM_PROCESSES)
    return sum(count / rate for count, rate in zip(table["num_samples"], table["sample_rate"], strict=True))


def headers_of(batch: dict) -> dict:
    """Facts of a batch of recordings."""
    import soundfile

    infos = [soundfile.info(path) for path in batch["path"]]
    return {"sample_rate": [info.samplerate for info in infos], "num_samples": [info.frames for info in infos]}


SIDES = {"speechssl": read_ours, "lhotse": read_lhotse, "datasets": read_datasets}


def collect() -> None:
    """Copies of the recordings by format, four levels deep as corpora are; kept for the next run."""
    import soundfile

    if (FOLDER / "done").exists():
        return
    if not ROOT.is_dir():
        raise SystemExit(f"{ROOT}: no corpora there; name their folder by SPEECHSSL_CORPORA")
    shutil.rmtree(FOLDER, ignore_errors=True)
    for path in sorted(ROOT.rglob("audio/**/*.*")):
        name = path.suffix[1:].lower()
        if name not in FORMATS or not path.is_file():
            continue
        target = FOLDER / name / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if name == "flac":
            target = (FOLDER / "wav" / path.relative_to(ROOT)).with_suffix(".wav")
            target.parent.mkdir(parents=True, exist_ok=True)
            samples, rate = soundfile.read(path, dtype="int16")
            soundfile.write(target, samples, rate)
    (FOLDER / "done").touch()


def check(finished: list[dict]) -> str:
    """Refuse figures of unequal work; the ratios to the peers."""
    lines = []
    for name in FORMATS:
        entries = [entry for entry in finished if entry["case"]["format"] == name]
        of = {entry["case"]["implementation"]: entry["summary"] for entry in entries}
        lengths = {side: summary["audio_seconds"]["median"] for side, summary in of.items()}
        if lengths and max(lengths.values()) > 1.001 * min(lengths.values()):
            raise SystemExit(f"{name}: the sides found different amounts of audio: {lengths}")
        speed = {side: summary["recordings_per_cpu_second"]["median"] for side, summary in of.items()}
        present = [side for side in PEERS if {side, "speechssl"} <= of.keys()]
        peers = [f"{speed['speechssl'] / speed[side]:.1f} times {side}" for side in present]
        lines += [f"{name}: recordings per CPU second {' and '.join(peers)}."] if peers else []
    return "\n".join(lines)


if __name__ == "__main__":
    main(
        "headers",
        cases,
        run,
        title="Manifests from folders of recordings",
        columns=["recordings_per_second", "recordings_per_cpu_second", "wall_seconds", "cpu_seconds", "recordings"],
        notes="Two processes each; the files are in the system's cache.",
        rounds=5,
        derive=check,
    )
