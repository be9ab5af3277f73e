"""Times of words, seams between chunks and memory of long recordings, on connected digits with known boundaries.

    python benchmarks/connected_digits.py --corpora CORPORA --output runs/connected-digits --finetune
    python benchmarks/timing.py --data runs/connected-digits --parts align seams hour pipe

Every part writes its figures into `benchmarks/results_timing/PART.json`. A digit's truth is where its clip lies; clips
are trimmed to speech, some with a little silence.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent / "results_timing"
RATE = 16_000


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def deviations(found: Any, boundaries: list[Any]) -> np.ndarray:
    """`[words, 3]`: found minus true start and end in milliseconds, and 1 where the found middle lies in the truth."""
    assert [word.text for word in found.words] == [word for word, *_ in boundaries]
    triples = []
    for word, (_, start, end) in zip(found.words, boundaries, strict=True):
        middle = (word.start_seconds + word.end_seconds) / 2
        triples.append(
            (1000 * (word.start_seconds - start), 1000 * (word.end_seconds - end), float(start <= middle <= end))
        )
    return np.array(triples)


def describe(errors: np.ndarray) -> dict[str, float]:
    sizes = np.abs(errors[:, :2])
    return {
        "words": len(errors),
        "start_median_ms": float(np.median(sizes[:, 0])),
        "start_mean_ms": float(sizes[:, 0].mean()),
        "end_median_ms": float(np.median(sizes[:, 1])),
        "end_mean_ms": float(sizes[:, 1].mean()),
        "start_bias_ms": float(errors[:, 0].mean()),
        "end_bias_ms": float(errors[:, 1].mean()),
        "within_100_ms": float((sizes <= 100).mean()),
        "within_200_ms": float((sizes <= 200).mean()),
        "middle_within_word": float(errors[:, 2].mean()),
    }


def part_align(data: Path) -> dict[str, Any]:
    """Boundaries of the test digits, by the weight of the label priors."""
    from speechssl.align import align
    from speechssl.asr import load_asr

    recognizer = load_asr(data / "run")
    result = {}
    for weight in (0.0, 0.3, 0.6, 1.0):
        errors = [
            deviations(
                align(recognizer, data / row["audio_filepath"], row["text"], prior_weight=weight), row["boundaries"]
            )
            for row in rows(data / "test.jsonl")
        ]
        result[f"prior_weight {weight:g}"] = describe(np.concatenate(errors))
    return result


def part_seams(data: Path) -> dict[str, Any]:
    """Chunks against the whole of five minutes, by chunk and context; and both against the truth."""
    from speechssl.asr import load_asr
    from speechssl.ctc.chunking import Chunking
    from speechssl.seams import seam_error

    recognizer = load_asr(data / "run")
    row = rows(data / "five_minutes.jsonl")[0]
    waveform = np.concatenate(list(recognizer.read(data / row["audio_filepath"])))
    result: dict[str, Any] = {}
    for chunk, context in ((30.0, 4.0), (30.0, 1.0), (30.0, 0.0), (10.0, 4.0)):
        plan = Chunking(whole_seconds=0.0, chunk_seconds=chunk, left_seconds=context, right_seconds=context)
        result[f"chunk {chunk:g} s, context {context:g} s"] = seam_error(recognizer, waveform, chunking=plan).to_dict()
    return result


def part_truth(data: Path) -> dict[str, Any]:
    """Word error rate against what was said: five minutes in one piece, and in chunks."""
    from speechssl.asr import load_asr
    from speechssl.ctc.chunking import Chunking
    from speechssl.scoring import count_errors, error_rates

    recognizer = load_asr(data / "run")
    row = rows(data / "five_minutes.jsonl")[0]
    result = {}
    for name, seconds in (("whole", 1e6), ("chunk 30 s, context 4 s", 0.0)):
        recognizer.own_chunking = Chunking(
            whole_seconds=seconds, chunk_seconds=30.0, left_seconds=4.0, right_seconds=4.0
        )
        text = recognizer.transcribe(data / row["audio_filepath"]).text
        errors = count_errors({"": row["text"]}, {"": text}, normalizer="letters")
        wer, cer = error_rates(errors)
        result[name] = {"wer": wer, "cer": cer, "words": errors[0].num_words}
    return result


def part_hour(data: Path) -> dict[str, Any]:
    """Boundaries in one hour in one file, with the memory and time that it took."""
    from speechssl.align import align
    from speechssl.asr import load_asr

    recognizer = load_asr(data / "run")
    row = rows(data / "hour.jsonl")[0]
    before = peak_megabytes()
    cpu = time.process_time()
    found = align(recognizer, data / row["audio_filepath"], row["text"], characters=False)
    return {
        **describe(deviations(found, row["boundaries"])),
        "seconds": found.duration_seconds,
        "cpu_seconds": time.process_time() - cpu,
        "peak_megabytes_before": before,
        "peak_megabytes": peak_megabytes(),
    }


def part_calibrate(data: Path) -> dict[str, Any]:
    """Confidences fitted on dev, and how far they are off on the test digits, before and after."""
    from speechssl.calibrate import CalibrateConfig, run

    result = run(
        CalibrateConfig(checkpoint=str(data / "run"), manifest=data / "dev.jsonl", test_manifest=data / "test.jsonl")
    )
    found = {name: value for name, value in asdict(result).items() if name != "path"}
    return json.loads(json.dumps(found, default=lambda value: value.tolist()))


def part_pipe(data: Path) -> dict[str, Any]:
    """An hour, and its first five minutes, through a pipe: peak memory of `speechssl transcribe -`."""
    import soundfile

    result = {}
    for name, seconds in (("five minutes", 300), ("hour", 3600)):
        words = [sys.executable, "-m", "speechssl", "transcribe", str(data / "run"), "-", "--encoding", "s16le"]
        words += ["--sample_rate", str(RATE), "--stream.chunk_seconds", "10", "--stream.left_seconds", "4"]
        words += ["--format", "json", "--device", "cpu"]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None and process.stdout is not None
        if os.fork() == 0:  # feeds, while this process reads
            process.stdout.close()
            with soundfile.SoundFile(data / "audio" / "hour.flac") as file:
                for _ in range(seconds):
                    process.stdin.write(file.read(RATE, dtype="int16").tobytes())
            process.stdin.close()
            os._exit(0)
        process.stdin.close()
        last = b""
        for line in process.stdout:
            last = line
        _, status, usage = os.wait4(process.pid, 0)
        end = json.loads(last)
        result[name] = {
            "exit_code": os.waitstatus_to_exitcode(status),
            "seconds": end["duration"],
            "words": len(end["text"].split()),
            "peak_megabytes": usage.ru_maxrss / 1024,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }
    return result


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run the parts that are asked for."""
    parts = {name.removeprefix("part_"): f for name, f in globals().items() if name.startswith("part_")}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if len(arguments.parts) > 1:  # each in a process of its own: peak memory is that of the process
        for name in arguments.parts:
            words = [sys.executable, __file__, "--data", str(arguments.data), "--parts", name]
            subprocess.run(words, check=True)
        return
    (name,) = arguments.parts
    result = parts[name](arguments.data)
    print(name, json.dumps(result, indent=1), flush=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    main()
