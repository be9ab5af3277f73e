"""The loaders that `data.py` compares: each a function from a `Job` to an iterator over the lengths of its batches.

Every one delivers each recording once, as mono f32 at 16 kHz in padded batches of about `BATCH_SECONDS`, made of clips
of similar length in random order. Peers run in the best setting that we found; what else was tried is said there.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from data_files import SEED, TARGET_RATE, Recording

BATCH_SECONDS = 60.0
Lengths = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to deliver: `recordings`, with `num_workers` processes beside the main one; `noises` to augment with."""

    recordings: Sequence[Recording]
    num_workers: int
    noises: Sequence[Recording] = ()


def speechssl(job: Job) -> Iterator[Lengths]:
    """Ours: LabeledBatches, whole clips, padded."""
    from pathlib import Path

    from data_files import cache

    from speechssl.data import DataConfig, LabeledBatches
    from speechssl.data.augmentation import AugmentConfig, NoiseConfig, SpeedConfig
    from speechssl.manifest import Manifest

    rows = manifest_rows(job.recordings)
    augment = AugmentConfig()
    if job.noises:
        noise = Path(cache() / "noise.jsonl")
        Manifest.from_utterances(manifest_rows(job.noises)).save(noise)
        augment = AugmentConfig(
            speed=SpeedConfig(probability=2 / 3, factors=(0.9, 1.1)),
            noise=NoiseConfig(probability=0.5, manifest=noise, snr_db=(10.0, 20.0)),
        )
    stream = LabeledBatches(
        Manifest.from_utterances(rows),
        [[0]] * len(rows),
        DataConfig(batch_seconds=BATCH_SECONDS, num_workers=job.num_workers, augment=augment),
        sample_rate=TARGET_RATE,
        min_num_samples=400,
        seed=SEED,
    )
    for batch in itertools.islice(stream.batches(), stream.plan.num_batches):
        yield batch.audio.num_samples.tolist()


def manifest_rows(recordings: Sequence[Recording]) -> list[Any]:
    """Our manifest's rows."""
    from speechssl.types import Utterance

    return [
        Utterance(
            id=str(number), audio_filepath=r.member or r.path, sample_rate=r.sample_rate, duration=r.duration,
            num_samples=r.num_samples, text="a",
        )
        for number, r in enumerate(recordings)
    ]  # fmt: skip


def soundfile(job: Job) -> Iterator[Lengths]:
    """No loader: soundfile decodes each whole file to f32 and soxr resamples. What every loader here is bound by."""
    import soundfile
    import soxr

    assert job.num_workers == 0
    for recording in job.recordings:
        samples, rate = soundfile.read(recording.path, dtype="float32")
        yield [len(samples if rate == TARGET_RATE else soxr.resample(samples, rate, TARGET_RATE))]


def _pad(waveforms: Sequence[Any]) -> tuple[Any, Any]:
    import torch

    waveforms = [torch.as_tensor(waveform) for waveform in waveforms]
    return torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True), torch.tensor([len(w) for w in waveforms])


def _read_and_resample(source: Any) -> Any:
    import soundfile
    import soxr

    samples, rate = soundfile.read(source, dtype="float32")
    return samples if rate == TARGET_RATE else soxr.resample(samples, rate, TARGET_RATE)


def _collate_decoded(rows: Sequence[Any]) -> tuple[Any, Any]:
    return _pad([row["audio"].get_all_samples().data[0] for row in rows])


def _collate_paths(rows: Sequence[Any]) -> tuple[Any, Any]:
    return _pad([_read_and_resample(row["audio"]["path"]) for row in rows])


def datasets_torchcodec(job: Job) -> Iterator[Lengths]:
    """torch DataLoader over Hugging Face datasets; its own decoder (torchcodec, FFmpeg) decodes and resamples."""
    return _datasets(job, decode=True)


def datasets_soundfile(job: Job) -> Iterator[Lengths]:
    """torch DataLoader over Hugging Face datasets with `Audio(decode=False)`; soundfile and soxr in the collation."""
    return _datasets(job, decode=False)


def _datasets(job: Job, *, decode: bool) -> Iterator[Lengths]:
    """Batches of our own plan, so that it has to plan nothing; the built-in way is a fixed number of random clips."""
    from datasets import Audio, Dataset
    from torch.utils.data import DataLoader

    from speechssl.data import BatchPlan

    audio = Audio(sampling_rate=TARGET_RATE, num_channels=1, decode=decode)
    dataset = Dataset.from_dict({"audio": [recording.path for recording in job.recordings]}).cast_column("audio", audio)
    plan = BatchPlan([r.duration for r in job.recordings], max_batch_length=BATCH_SECONDS, seed=SEED)
    loader = DataLoader(
        dataset,
        batch_sampler=[plan.batch(number).tolist() for number in range(plan.num_batches)],
        collate_fn=_collate_decoded if decode else _collate_paths,
        num_workers=job.num_workers,
        prefetch_factor=4 if job.num_workers else None,
    )
    for _, lengths in loader:
        yield lengths.tolist()


def lhotse(job: Job) -> Iterator[Lengths]:
    """DynamicBucketingSampler and K2SpeechRecognitionDataset; libsndfile named as the backend, resampled by lhotse.

    Its resampler is torchaudio's of width 6, of less quality than soxr's; its `sox` backend needs a library we lack.
    """
    return _lhotse(job, lhotse_cuts(job.recordings))


def lhotse_cuts(recordings: Sequence[Recording], prefix: str = "") -> Any:
    """One cut a recording, resampled where needed; noises, whose ids have a prefix, without text."""
    from lhotse import CutSet, MonoCut, SupervisionSegment
    from lhotse import Recording as LhotseRecording
    from lhotse.audio import AudioSource

    cuts = []
    for number, r in enumerate(recordings):
        recording = LhotseRecording(
            id=f"{prefix}{number}", sources=[AudioSource(type="file", channels=[0], source=r.path)],
            sampling_rate=r.sample_rate, num_samples=r.num_samples, duration=r.duration,
        )  # fmt: skip
        text = SupervisionSegment(id=recording.id, recording_id=recording.id, start=0, duration=r.duration, text="a")
        cut = MonoCut(
            id=recording.id,
            start=0,
            duration=r.duration,
            channel=0,
            recording=recording,
            supervisions=[] if prefix else [text],
        )
        cuts.append(cut if r.sample_rate == TARGET_RATE else cut.resample(TARGET_RATE))
    return CutSet.from_cuts(cuts)


def _lhotse(job: Job, cuts: Any) -> Iterator[Lengths]:
    from lhotse.audio.backend import LibsndfileBackend, set_current_audio_backend
    from lhotse.dataset import CutMix, DynamicBucketingSampler, K2SpeechRecognitionDataset, PerturbSpeed
    from lhotse.dataset.input_strategies import AudioSamples
    from torch.utils.data import DataLoader

    set_current_audio_backend(LibsndfileBackend())
    transforms = []
    if job.noises:
        noise = lhotse_cuts(job.noises, "noise")
        transforms = [
            PerturbSpeed(factors=[0.9, 1.1], p=2 / 3, randgen=None, preserve_id=True),
            CutMix(cuts=noise, snr=(10.0, 20.0), p=0.5, preserve_id=True),
        ]
    sampler = DynamicBucketingSampler(
        cuts, max_duration=BATCH_SECONDS, num_buckets=10, shuffle=True, seed=SEED, buffer_size=10000
    )
    loader = DataLoader(
        K2SpeechRecognitionDataset(input_strategy=AudioSamples(), cut_transforms=transforms),
        sampler=sampler,
        batch_size=None,
        num_workers=job.num_workers,
        prefetch_factor=4 if job.num_workers else None,
        worker_init_fn=_use_libsndfile,
    )
    for batch in loader:
        yield batch["supervisions"]["num_samples"].tolist()


def _use_libsndfile(worker: int) -> None:
    from lhotse.audio.backend import LibsndfileBackend, set_current_audio_backend

    set_current_audio_backend(LibsndfileBackend())


def lhotse_shar(job: Job) -> Iterator[Lengths]:
    """lhotse's own shards (Shar) of the same recordings, which it encodes again as flac."""
    from data_files import CLIPS_PER_SHARD, cache
    from lhotse import CutSet

    folder = cache() / "shar"
    files = cache() / "flac"
    if not folder.exists():
        from data_files import recordings

        cuts = lhotse_cuts(recordings("flac"))
        folder.mkdir()
        cuts.to_shar(folder, fields={"recording": "flac"}, shard_size=CLIPS_PER_SHARD)
    copies = len(job.recordings) // len(list(files.glob("*")))
    cuts = CutSet.from_shar(in_dir=folder)
    return _lhotse(job, cuts.repeat(copies) if copies > 1 else cuts)


def fairseq2(job: Job) -> Iterator[Lengths]:
    """fairseq2's pipeline: native threads read, decode and collate whole batches, which our plan has made up for it.

    It has no resampler: soxr in a mapped function, on the same threads. More parallel calls than cores were slower.
    """
    import soundfile  # noqa: F401  fairseq2n finds this libsndfile
    import soxr
    import torch
    from fairseq2.data.audio import AudioDecoder
    from fairseq2.data.data_pipeline import Collater, FileMapper, read_sequence

    from speechssl.data import BatchPlan

    def resample(decoded: Any) -> Any:
        samples = soxr.resample(decoded["waveform"].numpy(), int(decoded["sample_rate"]), TARGET_RATE)
        decoded["waveform"] = torch.from_numpy(samples)
        return decoded

    plan = BatchPlan([r.duration for r in job.recordings], max_batch_length=BATCH_SECONDS, seed=SEED)
    batches = [
        [{"audio": job.recordings[place].path} for place in plan.batch(number)] for number in range(plan.num_batches)
    ]
    threads = max(1, job.num_workers)
    builder = read_sequence(batches)
    builder.map(FileMapper(), selector="[*].audio", num_parallel_calls=threads)
    builder.map(AudioDecoder(dtype=torch.float32), selector="[*].audio.data", num_parallel_calls=threads)
    if any(recording.sample_rate != TARGET_RATE for recording in job.recordings):
        builder.map(resample, selector="[*].audio.data", num_parallel_calls=threads)
    builder.map(Collater(pad_value=0), num_parallel_calls=threads)
    if job.num_workers:
        builder.prefetch(4)
    for batch in builder.and_return():
        yield batch["audio"]["data"]["waveform"]["seq_lens"]


def webdataset(job: Job) -> Iterator[Lengths]:
    """webdataset over the same tar files: shuffled buffer, soundfile, batches of a fixed number of clips."""
    import io

    import webdataset as wds

    shards = list(dict.fromkeys(recording.path for recording in job.recordings))
    copies = len(job.recordings) // len({recording.member for recording in job.recordings})
    mean = float(np.mean([recording.duration for recording in job.recordings]))
    batch_size = int(BATCH_SECONDS / mean)
    dataset = (
        wds.WebDataset(shards * copies, shardshuffle=False, workersplitter=wds.split_by_worker, seed=SEED)
        .shuffle(100)
        .to_tuple("flac")
        .map(lambda row: _read_and_resample(io.BytesIO(row[0])))
        .batched(batch_size, collation_fn=_pad, partial=True)
    )
    loader = wds.WebLoader(
        dataset, batch_size=None, num_workers=job.num_workers, prefetch_factor=4 if job.num_workers else None
    )
    for _, lengths in loader:
        yield lengths.tolist()


LOADERS: dict[str, Callable[[Job], Iterator[Lengths]]] = {
    "speechssl": speechssl,
    "datasets (soundfile)": datasets_soundfile,
    "datasets (torchcodec)": datasets_torchcodec,
    "lhotse": lhotse,
    "lhotse Shar": lhotse_shar,
    "fairseq2": fairseq2,
    "webdataset": webdataset,
    "soundfile alone": soundfile,
}

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
