"""The recordings that `data.py` reads: real speech, written once in every format, beside manifests for each library.

Made from the recorded corpora (SPEECHSSL_CORPORA, else `../shared/corpora`) into a cache folder
(SPEECHSSL_BENCHMARK_CACHE, else `~/.cache/speechssl-benchmarks`); about 700 MB and a minute and a half.
"""

import csv
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET_RATE = 16000
SEED = 20
NUM_CLIPS = 300
CORPORA = ("librispeech_train100_251spk", "ljspeech_part", "kathleen_en")

FORMATS: dict[str, tuple[int, str, dict[str, object]]] = {
    # name: rate in Hz, extension, arguments of soundfile.write
    "flac": (16000, "flac", {"subtype": "PCM_16"}),
    "opus": (16000, "opus", {"format": "OGG", "subtype": "OPUS", "compression_level": 0.9}),  # 32 kbit/s
    "mp3": (16000, "mp3", {}),
    "wav": (16000, "wav", {"subtype": "PCM_16"}),
    "flac 44.1 kHz": (44100, "flac", {"subtype": "PCM_16"}),
    "opus 48 kHz": (48000, "opus", {"format": "OGG", "subtype": "OPUS", "compression_level": 0.9}),
    "mp3 44.1 kHz": (44100, "mp3", {}),
    "wav 44.1 kHz": (44100, "wav", {"subtype": "PCM_16"}),
}
SHARD = "tar"
CLIPS_PER_SHARD = 100


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One file; `num_samples` as the decoder counts them. `member` is its range within a tar shard."""

    path: str
    sample_rate: int
    num_samples: int
    member: str = ""

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate


def cache() -> Path:
    """Where the files lie."""
    named = os.environ.get("SPEECHSSL_BENCHMARK_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "speechssl-benchmarks"


def corpora() -> Path:
    """The recorded corpora."""
    named = os.environ.get("SPEECHSSL_CORPORA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "corpora"
    if not folder.is_dir():
        raise SystemExit(f"no recorded corpora: {folder} is not a folder; set SPEECHSSL_CORPORA to one that holds them")
    return folder


def prepare() -> None:
    """Write all files that are not there yet."""
    import numpy as np
    import soundfile
    import soxr

    done = cache() / "done"
    if done.exists():
        return
    chosen = [path for name in CORPORA for path in sorted((corpora() / name / "audio").glob("*"))]
    chosen = [chosen[place] for place in np.random.default_rng(SEED).permutation(len(chosen))]
    lengths = [soundfile.info(path).duration for path in chosen[: 2 * NUM_CLIPS]]
    chosen = [path for path, seconds in zip(chosen, lengths, strict=False) if 1 <= seconds <= 17][:NUM_CLIPS]
    for path in chosen:
        speech, rate = soundfile.read(path, dtype="float32")
        for name, (to_rate, extension, arguments) in FORMATS.items():
            samples = np.clip(soxr.resample(speech, rate, to_rate), -1, 1)
            folder = cache() / name.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(
                folder / f"{path.parent.parent.name}-{path.stem}.{extension}", samples, to_rate, **arguments
            )
    _write_shards()
    done.touch()


def _write_shards() -> None:
    """The flac files in tar archives, each beside its text, as webdataset wants them."""
    files = sorted((cache() / "flac").glob("*"))
    (cache() / SHARD).mkdir(exist_ok=True)
    for number, first in enumerate(range(0, len(files), CLIPS_PER_SHARD)):
        with tarfile.open(cache() / SHARD / f"shard-{number:03d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for path in files[first : first + CLIPS_PER_SHARD]:
                stem = path.stem.replace(".", "_")
                for name, content in ((f"{stem}.flac", path.read_bytes()), (f"{stem}.txt", b"text")):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))


def recordings(name: str) -> list[Recording]:
    """The files of a format, or the members of the tar shards."""
    import soundfile

    if name == SHARD:
        return list(_members())
    found = []
    for path in sorted((cache() / name.replace(" ", "_")).glob("*")):
        info = soundfile.info(path)
        found.append(Recording(path=str(path), sample_rate=info.samplerate, num_samples=info.frames))
    return found


def _members() -> Iterator[Recording]:
    import soundfile

    for shard in sorted((cache() / SHARD).glob("*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.name.endswith(".flac"):
                    file = archive.extractfile(member)
                    assert file is not None
                    info = soundfile.info(io.BytesIO(file.read()))
                    yield Recording(
                        path=str(shard),
                        sample_rate=info.samplerate,
                        num_samples=info.frames,
                        member=f"{shard}:{member.offset_data}:{member.size}",
                    )


def noises() -> list[Recording]:
    """Recorded noise for augmentation, at most 30 s each."""
    import soundfile

    folder = corpora() / "noise_rir"
    with open(folder / "transcripts.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = []
    for row in rows:
        info = soundfile.info(folder / row["path"])
        if row["kind"] == "noise" and 1 <= info.duration <= 30:
            path = str(folder / row["path"])
            found.append(Recording(path=path, sample_rate=info.samplerate, num_samples=info.frames))
    return found
