"""200 recorded clips of unequal length, from files to stored vectors: `speechssl embed` beside transformers.

transformers has no audio pipeline that gives vectors, so its side is what its documentation shows: decode with
soundfile, `Wav2Vec2FeatureExtractor`, the model with SDPA attention under `inference_mode`, the mean over valid frames,
one Parquet file. Batches of 1 (no padding), of 8 in the files' order, and of 8 after sorting by length.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import compare_models as models
import numpy as np
from harness import cpu_seconds

ROOT = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
NUM_CLIPS = 200
RATE = 16_000


def clips() -> list[Path]:
    """180 short prompts and 20 long utterances, mixed: 1 to 17 s, 3.9 s on average."""
    short = sorted((ROOT / "kathleen_en/audio").iterdir())[:1620:9][:180]
    long = sorted((ROOT / "librispeech_train100_251spk/audio").iterdir())[:20]
    chosen = [*short, *long]
    return [chosen[number * 37 % len(chosen)] for number in range(len(chosen))]


def embed_files(implementation: str, size: str) -> dict:
    """From model directory and files to a Parquet file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = _ours(folder, size) if implementation == "speechssl" else _theirs(folder, size, implementation)
        started, started_wall = cpu_seconds(), time.perf_counter()
        vectors = work()
        used = {"cpu_seconds": cpu_seconds() - started, "wall_seconds": time.perf_counter() - started_wall}
        assert len(vectors) == NUM_CLIPS, len(vectors)
        import soundfile

        seconds = sum(soundfile.info(path).duration for path in clips())
    return {
        **used,
        "audio_seconds_per_cpu_second": seconds / used["cpu_seconds"],
        "vectors": float(len(vectors)),
        "magnitude": float(np.abs(vectors).sum()),
    }


def _ours(folder: Path, size: str) -> Any:
    """The stage behind `speechssl embed`; the manifest is made before the clock starts, as are the imports."""
    import pyarrow.parquet

    from speechssl import embed
    from speechssl.manifest import build_manifest

    models.our_encoder(size).save(folder / "model")
    audio = folder / "audio"
    audio.mkdir()
    for path in clips():
        (audio / path.name).symlink_to(path)
    build_manifest(audio, num_workers=1).manifest.save(folder / "clips.jsonl")

    def work() -> np.ndarray:
        config = embed.EmbedConfig(
            checkpoint=str(folder / "model"), manifest=folder / "clips.jsonl", output=folder / "out"
        )
        embed.run(config)
        return embed.read_embeddings(folder / "out").vectors

    assert pyarrow.parquet
    return work


def _theirs(folder: Path, size: str, implementation: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import soundfile
    import torch
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    models.with_our_weights("transformers", models.transformers_encoder(size), size).save_pretrained(folder / "model")
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    batch_size = 1 if implementation.endswith("batch 1") else 8

    def work() -> np.ndarray:
        model = Wav2Vec2Model.from_pretrained(folder / "model", attn_implementation="sdpa").eval()
        paths = clips()
        if implementation.endswith("sorted"):
            paths = sorted(paths, key=lambda path: soundfile.info(path).frames)
        rows = []
        for first in range(0, len(paths), batch_size):
            audio = [soundfile.read(path, dtype="float32")[0] for path in paths[first : first + batch_size]]
            inputs = extractor(audio, sampling_rate=RATE, padding=True, return_tensors="pt")
            mask = inputs.attention_mask if batch_size > 1 else None
            with torch.inference_mode():
                frames = model(inputs.input_values, attention_mask=mask).last_hidden_state
            for row, clip in zip(frames, audio, strict=True):
                count = int(model._get_feat_extract_output_lengths(len(clip)))
                rows.append(row[:count].mean(dim=0).numpy())
        table = pa.table({"id": [path.stem for path in paths], "embedding": pa.array(list(rows))})
        pq.write_table(table, folder / "embeddings.parquet")
        return np.stack(rows)

    return work
