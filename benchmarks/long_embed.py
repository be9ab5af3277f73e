"""Recordings of 5, 20 and 60 minutes through `speechssl embed`: peak memory, CPU, and the price of cutting them.

Each recording is real speech: clips of LJSpeech and LibriSpeech one behind the other. The shipped `speechssl-tiny`
embeds it in chunks of 30 s with 10 s of context on either side, the mean over time or every frame, one thread, from the
file to the table. `megabytes_beyond` is the peak beyond that of the same process after a clip of 10 s. At 5 minutes the
whole recording is also encoded in one piece; `largest_difference` between the two is over the largest value.
"""

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import main, measured

ROOT = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
CORPORA = ("ljspeech_part", "librispeech_train100_251spk")
RATE = 16_000
LAYER = 3
POOLS = {"one vector": "mean", "frames": "none"}


def cases() -> list[dict]:
    """In chunks at all lengths, in one piece at the shortest."""
    chunks = [{"minutes": minutes, "output": output, "way": "chunks"} for minutes in (5, 20, 60) for output in POOLS]
    return [*chunks, *({"minutes": 5, "output": output, "way": "whole"} for output in POOLS)]


def run(case: dict) -> dict:
    """Write the recording, then embed it."""
    import torch

    from speechssl.embed import load_table

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = 60.0 * case["minutes"]
        write_recording(folder / "short.wav", 10.0)
        write_recording(folder / "long.wav", seconds)
        embed(folder, "short", 10.0, case["output"], "chunks")
        loaded = peak_megabytes()
        with measured() as used:
            table = embed(folder, "long", seconds, case["output"], case["way"])
        numbers = {
            **used.as_dict(),
            "megabytes_beyond": peak_megabytes() - loaded,
            "resident_megabytes": peak_megabytes(),
            "audio_seconds_per_cpu_second": seconds / used.cpu_seconds,
        }
        if case["way"] == "whole":
            cut_table = embed(folder, "long", seconds, case["output"], "chunks")
            found, cut = (load_table(path).vectors for path in (table, cut_table))
            apart = np.abs(cut - found) / np.abs(found).max()
            numbers |= {"largest_difference": float(apart.max()), "mean_difference": float(apart.mean())}
    return numbers


def embed(folder: Path, name: str, seconds: float, output: str, way: str) -> Path:
    """From the file to the table."""
    from speechssl.embed import EmbedConfig, run
    from speechssl.manifest import Manifest
    from speechssl.types import Utterance

    utterance = Utterance(
        id=name, audio_filepath=str(folder / f"{name}.wav"), sample_rate=RATE, num_samples=round(seconds * RATE),
        duration=seconds,
    )  # fmt: skip
    Manifest.from_utterances([utterance]).save(folder / f"{name}.jsonl")
    target = folder / f"{name}-{way}"
    whole: dict[str, Any] = {"whole_seconds": seconds + 1} if way == "whole" else {}
    config = EmbedConfig(
        checkpoint="speechssl-tiny", manifest=folder / f"{name}.jsonl", output=target, layer=LAYER,
        pool=POOLS[output], **whole,
    )  # fmt: skip
    run(config)
    return target


def peak_megabytes() -> float:
    """Resident memory of this process at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_recording(path: Path, seconds: float) -> None:
    """The same beginning at every length."""
    import soundfile

    missing = round(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for clip in speech():
            file.write(clip[:missing])
            missing -= len(clip[:missing])
            if not missing:
                return
    raise SystemExit(f"{ROOT}: its clips are shorter than {seconds:.0f} s in all")


def speech() -> Iterator[np.ndarray]:
    """Samples of one clip after the other."""
    import soundfile

    for corpus in CORPORA:
        for path in sorted((ROOT / corpus / "audio").iterdir()):
            yield soundfile.read(path, dtype="int16")[0]


def derive(entries: list[dict[str, Any]]) -> str:
    """How memory grows, and what cutting costs."""
    lines = []
    for output in POOLS:
        mine = {
            (entry["case"]["minutes"], entry["case"]["way"]): {k: v["median"] for k, v in entry["summary"].items()}
            for entry in entries
            if entry["case"]["output"] == output
        }
        if not {(5, "chunks"), (60, "chunks"), (5, "whole")} <= mine.keys():  # a part was asked for
            continue
        grown = (mine[60, "chunks"]["megabytes_beyond"] - mine[5, "chunks"]["megabytes_beyond"]) / 55
        whole = mine[5, "whole"]
        lines.append(
            f"- {output}: {grown:.2f} MB more for every minute; cut into chunks, 5 minutes differ from the whole by at"
            f" most {whole['largest_difference']:.2%} of the largest value ({whole['mean_difference']:.3%} on average)."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(
        "long_embed",
        cases,
        run,
        title="Embeddings of long recordings",
        columns=["megabytes_beyond", "resident_megabytes", "cpu_seconds", "largest_difference", "mean_difference"],
        notes=" ".join((__doc__ or "").split("\n\n")[1].split()),
        rounds=2,
        timeout=3600,
        derive=derive,
    )
