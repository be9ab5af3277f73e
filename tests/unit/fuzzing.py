"""Mutated files, read in a process of their own: whatever happens there, it must be an answer or an error of ours.

As a command it is the long campaign: `python tests/unit/fuzzing.py --corpora CORPORA --seconds 600 --seed 1` mutates
real recordings of every format, manifests, and what other tools call one, until the time is up; it prints how many
files were read and how many refused, by format, with the slowest and the most memory, and keeps in `--keep` whatever
broke a promise.

As a worker (`--worker`) it reads one JSON object a line, `{"kind": "audio", "path": ...}`, and answers with one.
"""

import argparse
import contextlib
import gzip
import json
import os
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speechssl.manifest import Manifest

Mutation = tuple[str, float, int]
"""What is done, where (as a fraction of the file), and a number that means what the mutation takes it for."""

KINDS = ("flip", "byte", "zeros", "ones", "cut", "insert", "repeat", "delete", "big")

IMPORTS = {
    "import-nemo": ("nemo", "nemo/train.json", "nemo/train.json"),
    "import-csv": ("csv", "csv/train.csv", "csv/train.csv"),
    "import-tsv": ("tsv", "tsv/train.tsv", "tsv/train.tsv"),
    "import-fairseq": ("fairseq", "fairseq/train.tsv", "fairseq/train.tsv"),
    "import-fairseq-wrd": ("fairseq", "fairseq/train.wrd", "fairseq/train.tsv"),
    "import-kaldi-wav": ("kaldi", "kaldi/wav.scp", "kaldi"),
    "import-kaldi-segments": ("kaldi", "kaldi/segments", "kaldi"),
    "import-kaldi-text": ("kaldi", "kaldi/text", "kaldi"),
    "import-kaldi-speakers": ("kaldi", "kaldi/utt2spk", "kaldi"),
    "import-lhotse-cuts": ("lhotse", "lhotse/cuts.jsonl", "lhotse/cuts.jsonl"),
    "import-lhotse-recordings": ("lhotse", "lhotse/recordings.jsonl", "lhotse/recordings.jsonl"),
    "import-lhotse-supervisions": ("lhotse", "lhotse/supervisions.jsonl", "lhotse/recordings.jsonl"),
    "import-lhotse-gz": ("lhotse", "lhotse/all.jsonl.gz", "lhotse/all.jsonl.gz"),
    "import-audiofolder-csv": ("audiofolder", "audiofolder-csv/metadata.csv", "audiofolder-csv"),
    "import-audiofolder-jsonl": ("audiofolder", "audiofolder-jsonl/metadata.jsonl", "audiofolder-jsonl"),
    "import-audiofolder-parquet": ("audiofolder", "audiofolder-parquet/metadata.parquet", "audiofolder-parquet"),
}
"""Other tools' manifests: the format, the file that is mutated, what is imported."""


def mutate(content: bytes, mutations: Sequence[Mutation]) -> bytes:
    """`content` after all mutations, in order; deterministic."""
    data = bytearray(content)
    for kind, where, number in mutations:
        at = min(int(where * len(data)), max(0, len(data) - 1))
        size = 1 + number % 64
        if not data:
            break
        if kind == "flip":
            data[at] ^= 1 << number % 8
        elif kind == "byte":
            data[at] = number % 256
        elif kind in ("zeros", "ones"):
            data[at : at + size] = (b"\0" if kind == "zeros" else b"\xff") * len(data[at : at + size])
        elif kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = random.Random(number).randbytes(size)
        elif kind == "repeat":
            data[at:at] = data[at : at + 8 * size]
        elif kind == "delete":
            del data[at : at + size]
        else:  # a length field that claims the most
            data[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(data)


def seal_ogg(content: bytes) -> bytes:
    """Every page that can still be found gets the checksum of what it holds now, so that its packets are decoded."""
    from speechssl.audio.opus import _checksum

    data = bytearray(content)
    place = data.find(b"OggS")
    while 0 <= place <= len(data) - 27:
        sizes = data[place + 27 : place + 27 + data[place + 26]]
        end = place + 27 + len(sizes) + sum(sizes)
        data[place + 22 : place + 26] = bytes(4)
        data[place + 22 : place + 26] = _checksum(bytes(data[place:end])).to_bytes(4, "little")
        place = data.find(b"OggS", place + 27)
    return bytes(data)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a file: `outcome` is `read`, `refused`, or what broke the promise."""

    outcome: str
    detail: str
    seconds: float
    megabytes: float


class Worker:
    """A process that reads files, started again when one has killed it."""

    def __init__(self, *, limit_seconds: float = 30.0, limit_megabytes: int = 20000) -> None:
        self._limit_seconds = limit_seconds
        self._limit_megabytes = limit_megabytes
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """Read one file; a crash, a hang and an unforeseen error are answers too."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        started = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # it ended before it was asked: below, its output has ended too
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], self._limit_seconds)
        line = process.stdout.readline() if ready else ""
        seconds = time.monotonic() - started
        if line:
            return Answer(seconds=seconds, **json.loads(line))
        self.close()
        code = process.returncode
        outcome = f"crash ({code})" if ready else f"hang (over {self._limit_seconds:g} s)"
        return Answer(outcome=outcome, detail="", seconds=seconds, megabytes=0.0)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            try:
                self._process.wait(timeout=0.2)  # one that has crashed keeps its exit code
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is None:
            words = [sys.executable, "-W", "ignore", __file__, "--worker", str(self._limit_megabytes)]
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        return self._process


def serve(limit_megabytes: int) -> None:
    """Answer requests until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (limit_megabytes << 20, limit_megabytes << 20))
    for line in sys.stdin:
        request = json.loads(line)
        named = request["path"]
        if request["kind"] in IMPORTS:  # of several files, errors name the one that they are about
            named = f"mutated-{IMPORTS[request['kind']][0]}"
        try:
            outcome, detail = READERS[request["kind"]](request["path"])
        except Exception as error:
            outcome, detail = _judge(error, named)
        megabytes = peak_megabytes()
        print(json.dumps({"outcome": outcome, "detail": detail, "megabytes": megabytes}), flush=True)


def peak_megabytes() -> float:
    """The most that was resident; getrusage would count the process that this one was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def _judge(error: Exception, path: str) -> tuple[str, str]:
    from speechssl.errors import SpeechSSLError

    text = f"{type(error).__name__}: {error}"
    if not isinstance(error, SpeechSSLError):
        return "unforeseen error", text
    if Path(path).name not in str(error):
        return "an error that does not name the file", text
    return "refused", text


def read_audio(path: str) -> tuple[str, str]:
    """Probe, read all at its own rate, read a span at another rate; every sample is a number, and libsndfile's too."""
    import numpy as np

    from speechssl import audio
    from speechssl.audio.quick import read_quickly
    from speechssl.audio.recording import to_float
    from speechssl.audio.sndfile import read_soundfile

    info = audio.probe(path)
    whole = audio.read(path)
    part = audio.read(path, sample_rate=16000, offset=0.0, duration=0.1)
    for waveform in (whole, part):
        if waveform.dtype != np.float32 or waveform.ndim != 1 or not len(waveform) or not np.isfinite(waveform).all():
            return "wrong samples", f"{waveform.dtype} {waveform.shape}"
    quick = read_quickly(path, None, 0.0, None)
    if quick is not None:
        samples, rate = read_soundfile(path, path, 0.0, None)
        if quick[1] != rate or quick[0].shape != samples.shape or np.abs(to_float(quick[0]) - samples).max() > 1e-5:
            return "wrong samples", f"{quick[1]} Hz {quick[0].shape}, libsndfile {rate} Hz {samples.shape}"
    return "read", f"{info.num_samples}"


def read_manifest(path: str) -> tuple[str, str]:
    """Load, look at every row, validate."""
    from speechssl.manifest import Manifest, validate_manifest

    try:
        validate_manifest(path, audio=False)
    except Exception as error:
        outcome, detail = _judge(error, path)
        if outcome != "refused":
            return outcome, detail
    rows = list(Manifest.load(path))
    return "read", f"{len(rows)}"


def read_import(path: str, format: str) -> tuple[str, str]:
    """Import, look at every row."""
    from speechssl.manifest.formats import read_format

    return "read", f"{len(list(read_format(path, format).manifest))}"


READERS: dict[str, Callable[[str], tuple[str, str]]] = {"audio": read_audio, "manifest": read_manifest}
READERS |= {name: partial(read_import, format=format) for name, (format, _, _) in IMPORTS.items()}


def samples_of(corpora: Path, folder: Path) -> dict[str, Path]:
    """Files to mutate by name: a real recording of about a second in every format, and a manifest in all of them."""
    import numpy as np
    import soundfile

    from speechssl.manifest import build_manifest

    clip = sorted((corpora / "fsdd" / "audio").glob("*.flac"))[0]
    samples, rate = soundfile.read(clip, dtype="float32")
    folder.mkdir(parents=True, exist_ok=True)
    found = {"flac": clip}
    writers = {
        "wav": ("WAV", "PCM_16"),
        "wav-float": ("WAV", "FLOAT"),
        "wav-ulaw": ("WAV", "ULAW"),
        "aiff": ("AIFF", "PCM_16"),
        "au": ("AU", "PCM_16"),
        "ogg": ("OGG", "VORBIS"),
        "opus": ("OGG", "OPUS"),
        "mp3": ("MP3", "MPEG_LAYER_III"),
    }
    for name, (container, subtype) in writers.items():
        suffix = name.partition("-")[0]
        found[name] = folder / f"sample-{name}.{suffix}"
        soundfile.write(found[name], np.tile(samples, 2), rate, format=container, subtype=subtype)
    small = folder / "clips"
    small.mkdir(exist_ok=True)
    for path in sorted((corpora / "fsdd" / "audio").glob("*_0.flac"))[:12]:
        (small / path.name).write_bytes(path.read_bytes())
    manifest = build_manifest(small).manifest
    for suffix in ("jsonl", "parquet"):
        found[f"manifest-{suffix}"] = folder / f"sample.{suffix}"
        manifest.save(found[f"manifest-{suffix}"])
    found["opus-sealed"] = found["opus"]
    _write_imports(manifest, folder)
    return found | {name: folder / file for name, (_, file, _) in IMPORTS.items()}


def _write_imports(manifest: "Manifest", folder: Path) -> None:
    import numpy as np

    from speechssl.manifest.formats import write_format

    number = np.arange(len(manifest))
    manifest = manifest.with_column("text", [f"zwölf, {word} Wörter" for word in number])
    manifest = manifest.with_column("speaker", [f"s{speaker}" for speaker in number % 3])
    halves = manifest.with_column("num_samples", np.asarray(manifest.column("num_samples")) // 2)
    halves = halves.with_column("duration", manifest.durations / 2)
    for format, file, source in IMPORTS.values():
        (folder / file).parent.mkdir(exist_ok=True)
        if format == "lhotse":
            write_format(manifest, folder / "lhotse", format)
        else:
            target = file if format == "audiofolder" else source
            write_format(halves if format == "kaldi" else manifest, folder / target, format, place="link")
    for packed in (folder / "lhotse").glob("*.jsonl.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.rename(folder / "lhotse/all.jsonl.gz") if packed.name == "cuts.jsonl.gz" else packed.unlink()


def request_for(name: str, content: bytes, like: Path, folder: Path) -> dict[str, str]:
    """Write a mutated file, with what belongs to it beside it, and the request for it."""
    if name not in IMPORTS:
        path = folder / f"mutated{like.suffix}"
        path.write_bytes(seal_ogg(content) if name == "opus-sealed" else content)
        return {"kind": "manifest" if name.startswith("manifest") else "audio", "path": str(path)}
    home = like.parent.with_name(f"mutated-{like.parent.name}")  # where relative paths lead to the same recordings
    home.mkdir(exist_ok=True)
    for file in like.parent.iterdir():
        if file.is_file():
            (home / file.name).write_bytes(file.read_bytes())
    (home / like.name).write_bytes(content)
    return {"kind": name, "path": str(home.parent / f"mutated-{IMPORTS[name][2]}")}


def random_mutations(generator: random.Random) -> list[Mutation]:
    """One to six; half of all places lie in the first twentieth, where headers are."""
    places = [generator.random() * generator.choice((0.05, 1.0)) for _ in range(generator.choice((1, 1, 2, 3, 6)))]
    return [(generator.choice(KINDS), place, generator.randrange(1 << 16)) for place in places]


def campaign(corpora: Path, *, seconds: float, seed: int, keep: Path) -> int:
    """Mutate and read until the time is up; the number of broken promises."""
    generator, worker = random.Random(seed), Worker()
    outcomes: dict[str, Counter[str]] = {}
    slowest, most, broken = 0.0, 0.0, 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        samples = {name: (path, path.read_bytes()) for name, path in samples_of(corpora, folder / "samples").items()}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for name, (like, content) in samples.items():
                mutated = mutate(content, random_mutations(generator))
                answer = worker.ask(request_for(name, mutated, like, folder))
                outcomes.setdefault(name, Counter())[answer.outcome] += 1
                slowest, most = max(slowest, answer.seconds), max(most, answer.megabytes)
                if answer.outcome not in ("read", "refused"):
                    broken += 1
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{name}-{broken:03}{like.suffix}").write_bytes(mutated)
                    print(f"{name}: {answer.outcome}: {answer.detail}", flush=True)
        worker.close()
    for name, counts in outcomes.items():
        print(f"{name}: {sum(counts.values())} files, {dict(counts)}")
    print(f"slowest {slowest:.2f} s, at most {most:.0f} MB; {broken} broken promises; seed {seed}")
    return broken


def main() -> None:
    """Worker or campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--corpora", type=Path, default=Path(os.environ.get("SPEECHSSL_CORPORA", "../shared/corpora")))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz"))
    arguments = parser.parse_args()
    if arguments.worker:
        serve(arguments.worker)
    else:
        sys.exit(campaign(arguments.corpora, seconds=arguments.seconds, seed=arguments.seed, keep=arguments.keep) > 0)


if __name__ == "__main__":
    main()
