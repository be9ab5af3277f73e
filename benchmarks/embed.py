"""Every layer of 200 recorded clips of unequal length, from files to one table: beside transformers and torchaudio.

The clips are those of `compare_files.py` (1 to 17 s, 3.9 s on average). All sides have the same weights, decode the
same files, take every layer's mean over its valid frames and write float32 vectors to Parquet, on one thread. The
peers run as their documentation shows: transformers with its feature extractor, SDPA attention and
`output_hidden_states`, one clip at a time and in batches of eight sorted by length; torchaudio by `extract_features`,
one clip at a time, so that it needs no mask. transformers has no pipeline that gives vectors of audio. s3prl, which
wraps the same network of fairseq or transformers, is not measured.

What is compared must be the same: the magnitudes of the vectors have to agree between sides without padding. Padded
batches of transformers differ, because its group norm sees the padding; that side is shown for its speed alone.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import compare_models as models
import numpy as np
from compare_files import NUM_CLIPS, RATE, clips
from harness import cpu_seconds, main

SIDES = ("speechssl", "transformers, batch 1", "transformers, batch 8 sorted", "torchaudio, batch 1")
TOLERANCE = 1e-4


def cases() -> list[dict]:
    """A small network and BASE."""
    return [{"network": size, "implementation": side} for size in ("tiny", "base") for side in SIDES]


def run(case: dict) -> dict:
    """Prepare models and files, then measure from loading the model to the table on the disk."""
    import soundfile
    import torch

    torch.set_num_threads(1)
    size, side = case["network"], case["implementation"]
    seconds = sum(soundfile.info(path).duration for path in clips())
    with tempfile.TemporaryDirectory() as name:
        prepare = {"speechssl": ours, "torchaudio": by_torchaudio}.get(side.partition(",")[0], by_transformers)
        work = prepare(Path(name), size, side)
        started, wall = cpu_seconds(), time.perf_counter()
        work()
        used = {"cpu_seconds": cpu_seconds() - started, "wall_seconds": time.perf_counter() - wall}
        vectors, layers = stored(Path(name), size)
    return {
        **used,
        "audio_seconds_per_cpu_second": seconds / used["cpu_seconds"],
        "vectors": float(vectors.shape[0]),
        "layers": float(layers),
        "magnitude": float(np.abs(vectors).mean()),
    }


def ours(folder: Path, size: str, side: str) -> Any:
    """The stage behind `speechssl embed`; the manifest is made before the clock starts, as are the imports."""
    from speechssl import embed
    from speechssl.manifest import build_manifest

    models.our_encoder(size).save(folder / "model")
    (folder / "audio").mkdir()
    for path in clips():
        (folder / "audio" / path.name).symlink_to(path)
    build_manifest(folder / "audio", num_workers=1).manifest.save(folder / "clips.jsonl")
    config = embed.EmbedConfig(
        checkpoint=str(folder / "model"),
        manifest=folder / "clips.jsonl",
        output=folder / "out",
        layers=tuple(str(n) for n in range(models.SIZES[size]["num_layers"] + 1)),
    )
    return lambda: embed.run(config)


def by_transformers(folder: Path, size: str, side: str) -> Any:
    """`Wav2Vec2Model` with all hidden states."""
    import soundfile
    import torch
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

    models.with_our_weights("transformers", models.transformers_encoder(size), size).save_pretrained(folder / "model")
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    batch_size = 8 if "batch 8" in side else 1

    def work() -> None:
        model = Wav2Vec2Model.from_pretrained(folder / "model", attn_implementation="sdpa").eval()
        paths = sorted(clips(), key=lambda path: soundfile.info(path).frames) if batch_size > 1 else clips()
        rows: list[Any] = []
        for first in range(0, len(paths), batch_size):
            audio = [soundfile.read(path, dtype="float32")[0] for path in paths[first : first + batch_size]]
            inputs = extractor(audio, sampling_rate=RATE, padding=True, return_tensors="pt")
            mask = inputs.attention_mask if batch_size > 1 else None
            with torch.inference_mode():
                found = model(inputs.input_values, attention_mask=mask, output_hidden_states=True).hidden_states
            for row, clip in enumerate(audio):
                count = int(model._get_feat_extract_output_lengths(len(clip)))
                rows.append([layer[row, :count].mean(dim=0).numpy() for layer in found])
        write(folder, paths, rows)

    return work


def by_torchaudio(folder: Path, size: str, side: str) -> Any:
    """`Wav2Vec2Model.extract_features`, whose list begins after the first layer; the input of the first is left out."""
    import soundfile
    import torch

    model = models.with_our_weights("torchaudio", models.torchaudio_encoder(size), size)
    torch.save(model.state_dict(), folder / "model.pt")

    def work() -> None:
        loaded = models.torchaudio_encoder(size)
        loaded.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
        paths, rows = clips(), []
        for path in paths:
            audio = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
            with torch.inference_mode():
                found, _ = loaded.extract_features(audio)
            rows.append([layer[0].mean(dim=0).numpy() for layer in found])
        write(folder, paths, rows)

    return work


def write(folder: Path, paths: list[Path], rows: list[Any]) -> None:
    """One row a clip and layer, as our own table has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.stack([np.stack(row) for row in rows])  # [clips, layers, D]
    num_layers = vectors.shape[1]
    flat = pa.array(vectors.reshape(-1))
    table = pa.table(
        {
            "id": np.repeat([path.stem for path in paths], num_layers),
            "layer": np.tile(np.arange(num_layers), len(paths)),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[2]),
        }
    )
    pq.write_table(table, folder / "embeddings.parquet", compression="zstd")


def stored(folder: Path, size: str) -> tuple[np.ndarray, int]:
    """What was written: the last layers' vectors `[clips * layers, D]`, which all sides have, and how many layers."""
    import pyarrow.parquet as pq

    num_layers = models.SIZES[size]["num_layers"]
    if (folder / "out").exists():
        from speechssl.embed import open_index

        index = open_index(folder / "out")
        every = [index.read(layer).vectors for layer in index.layers]
    else:
        table = pq.read_table(folder / "embeddings.parquet")
        layers = table["layer"].to_numpy()
        flat = table["embedding"].combine_chunks().flatten().to_numpy()
        vectors = flat.reshape(len(table), -1)
        every = [vectors[layers == number] for number in range(layers.max() + 1)]
    assert all(len(one) == NUM_CLIPS for one in every), [len(one) for one in every]
    return np.concatenate(every[-num_layers:]), len(every)


def derive(entries: list[dict[str, Any]]) -> str:
    """Ratios of CPU seconds; refuses sides that wrote other vectors."""
    lines = []
    for size in models.SIZES:
        sides = {e["case"]["implementation"]: e["summary"] for e in entries if e["case"]["network"] == size}
        if "speechssl" not in sides:
            continue
        mine = sides.pop("speechssl")
        for name, summary in sides.items():
            apart = abs(summary["magnitude"]["median"] / mine["magnitude"]["median"] - 1)
            if "batch 8" not in name and apart > TOLERANCE:
                raise SystemExit(
                    f"{size}: {name} wrote other vectors than speechssl (magnitudes differ by {apart:.1e})"
                )
            ratio = summary["cpu_seconds"]["median"] / mine["cpu_seconds"]["median"]
            lines.append(f"- {size}: speechssl needs 1/{ratio:.2f} of the CPU seconds of {name}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main(
        "embed",
        cases,
        run,
        title="Every layer of 200 clips, from files to a table",
        columns=["audio_seconds_per_cpu_second", "cpu_seconds", "wall_seconds", "peak_megabytes"],
        notes="Clips of 1 to 17 s (prompts of Kathleen, utterances of LibriSpeech), one thread, fp32, equal weights.",
        rounds=3,
        timeout=7200,
        derive=derive,
    )
