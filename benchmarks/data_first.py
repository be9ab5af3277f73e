"""The way from a manifest of a million rows to the first batch, for each library in its own file format.

Every row names one of the benchmark's flac files. Writing the files and importing the libraries is not measured.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from data_files import SEED, TARGET_RATE, Recording, cache, recordings
from data_peers import BATCH_SECONDS, _collate_paths

NUM_ROWS = 1_000_000
FOLDER = "first"


def prepare() -> None:
    """Write the manifests that are not there yet: ours, lhotse's, Hugging Face's and fairseq2's; about 1.5 GB."""
    folder = cache() / FOLDER
    if (folder / "done").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    files = recordings("flac")
    rows = [(f"{number:07d}", files[number % len(files)]) for number in range(NUM_ROWS)]
    with open(folder / "ours.jsonl", "w") as file:
        file.writelines(
            f'{{"id": "{name}", "audio_filepath": "{r.path}", "sample_rate": {r.sample_rate}, "offset": 0.0,'
            f' "duration": {r.duration}, "num_samples": {r.num_samples}, "text": "text {name}"}}\n'
            for name, r in rows
        )
    with open(folder / "lhotse.jsonl", "w") as file:
        file.writelines(json.dumps(_lhotse_row(name, r)) + "\n" for name, r in rows)
    with open(folder / "fairseq2.tsv", "w") as file:
        file.writelines(f"{r.path}\t{r.num_samples}\n" for _, r in rows)

    from datasets import Dataset

    from speechssl.manifest import Manifest

    Manifest.load(folder / "ours.jsonl").save(folder / "ours.parquet")
    columns = {
        "id": [name for name, _ in rows],
        "audio": [{"path": r.path} for _, r in rows],
        "text": [f"text {name}" for name, _ in rows],
    }
    Dataset.from_dict(columns).save_to_disk(folder / "datasets")
    (folder / "done").touch()


def _lhotse_row(name: str, r: Recording) -> dict[str, object]:
    """A cut as lhotse writes it."""
    text = {
        "id": name,
        "recording_id": name,
        "start": 0.0,
        "duration": r.duration,
        "channel": 0,
        "text": f"text {name}",
    }
    return {
        "id": name, "start": 0, "duration": r.duration, "channel": 0, "type": "MonoCut", "supervisions": [text],
        "recording": {
            "id": name, "sources": [{"type": "file", "channels": [0], "source": r.path}],
            "sampling_rate": r.sample_rate, "num_samples": r.num_samples, "duration": r.duration, "channel_ids": [0],
        },
    }  # fmt: skip


def _ours(name: str, cache_folder: Path | None = None) -> int:
    from speechssl.data import AudioBatches, DataConfig
    from speechssl.manifest import Manifest

    manifest = Manifest.load(cache() / FOLDER / name, cache_folder=cache_folder or cache() / FOLDER / "cache")
    config = DataConfig(batch_seconds=BATCH_SECONDS, num_workers=0)
    stream = AudioBatches(manifest, config, sample_rate=TARGET_RATE, min_num_samples=400, seed=SEED)
    return len(next(stream.batches()).num_samples)


def parquet() -> int:
    """Ours, from Parquet."""
    return _ours("ours.parquet")


def json_lines() -> int:
    """Ours, from JSON Lines that were loaded once before."""
    return _ours("ours.jsonl")


def json_lines_anew() -> int:
    """Ours, from JSON Lines never loaded before: parsed, checked and kept for the next time."""
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        return _ours("ours.jsonl", Path(folder))


def lhotse() -> int:
    """Cuts read lazily, the dynamic bucketing sampler's buffer of 10,000 cuts."""
    from lhotse import CutSet
    from lhotse.dataset import DynamicBucketingSampler, K2SpeechRecognitionDataset
    from lhotse.dataset.input_strategies import AudioSamples
    from torch.utils.data import DataLoader

    cuts = CutSet.from_jsonl_lazy(cache() / FOLDER / "lhotse.jsonl")
    sampler = DynamicBucketingSampler(cuts, max_duration=BATCH_SECONDS, num_buckets=10, shuffle=True, seed=SEED)
    loader = DataLoader(K2SpeechRecognitionDataset(input_strategy=AudioSamples()), sampler=sampler, batch_size=None)
    return len(next(iter(loader))["supervisions"]["num_samples"])


def datasets() -> int:
    """A data set on disk, shuffled by the DataLoader, a fixed number of clips in a batch; it knows no lengths."""
    from datasets import Audio, load_from_disk
    from torch.utils.data import DataLoader

    dataset = load_from_disk(cache() / FOLDER / "datasets").cast_column("audio", Audio(decode=False))
    loader = DataLoader(dataset, batch_size=12, shuffle=True, collate_fn=_collate_paths)
    return len(next(iter(loader))[1])


def fairseq2() -> int:
    """Its pipeline over lines of text, shuffled within 10,000, batched by length."""
    import soundfile  # noqa: F401  fairseq2n finds this libsndfile
    import torch
    from fairseq2.data.audio import AudioDecoder
    from fairseq2.data.data_pipeline import Collater, FileMapper, create_bucket_sizes
    from fairseq2.data.text import StrSplitter, read_text

    sizes = create_bucket_sizes(
        max_seq_len=20 * TARGET_RATE, min_seq_len=1, max_num_elements=int(BATCH_SECONDS * TARGET_RATE)
    )
    builder = read_text(cache() / FOLDER / "fairseq2.tsv", rtrim=True, memory_map=True)
    builder.map(StrSplitter(names=["audio", "size"])).map(int, selector="size").shuffle(10000, seed=SEED)
    builder.bucket_by_length(sizes, selector="size")
    builder.map(FileMapper(), selector="[*].audio")
    builder.map(AudioDecoder(dtype=torch.float32), selector="[*].audio.data").map(Collater(pad_value=0))
    return len(next(iter(builder.and_return()))["audio"]["data"]["waveform"]["seq_lens"])


WAYS: dict[str, Callable[[], int]] = {
    "speechssl, Parquet": parquet,
    "speechssl, JSON Lines": json_lines,
    "speechssl, JSON Lines for the first time": json_lines_anew,
    "lhotse": lhotse,
    "datasets": datasets,
    "fairseq2": fairseq2,
}
MODULES = {
    "speechssl": ["speechssl.data", "speechssl.manifest", "soundfile"],
    "lhotse": ["lhotse.dataset", "torch.utils.data", "soundfile"],
    "datasets": ["datasets", "torch.utils.data", "soundfile", "soxr"],
    "fairseq2": ["soundfile", "fairseq2.data.audio", "fairseq2.data.text", "fairseq2.data.data_pipeline"],
}
"""What each imports before the clock starts."""
