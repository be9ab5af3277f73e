"""Every layer of 200 recorded clips of unequal length, from files to one table: beside transformers and torchaudio.

The clips are those of `compare_files.py` (1 to 17 s, 3.9 s on average). All sides have the same weights, decode the
same files, take every layer's mean over its valid frames and write float32 vectors to Parquet, on one thread. The
peers run as their documentation shows:

- transformers with its feature extractor, SDPA attention and `output_hidden_states`, one clip at a time and in batches
  of eight sorted by length;
- transformers' feature-extraction pipeline. It is made for text: it gets audio only when the feature extractor is
  handed to it as its tokenizer, and it gives the last layer alone, so it does less than the others;
- torchaudio by `extract_features`, one clip at a time, so that it needs no mask;
- s3prl's wav2vec 2.0 expert, one clip at a time, on BASE: as in fairseq, its network has no projection where both
  dimensions are equal. It is left out where s3prl is not installed. s3prl 0.4.18 asks torchaudio for a function that
  2.9 no longer has, so its `S3PRLUpstream` cannot be imported; the expert behind it can.

What is compared must be the same: the magnitudes of the last layer's vectors have to agree between sides without
padding. Padded batches of transformers differ, because its group norm sees the padding; that side is shown for its
speed alone.
"""

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import compare_models as models
import numpy as np
from compare_files import NUM_CLIPS, RATE, clips
from harness import cpu_seconds, main

PADDED = "transformers, batch 8 sorted"
SIDES = (
    "speechssl",
    "transformers, batch 1",
    PADDED,
    "transformers' pipeline, last layer",
    "torchaudio, batch 1",
    "s3prl, batch 1",
)
TOLERANCE = 1e-4


def cases() -> list[dict]:
    """A small network and BASE."""
    found = [{"network": size, "implementation": side} for size in ("tiny", "base") for side in SIDES]
    with_s3prl = ["base"] if importlib.util.find_spec("s3prl") else []
    return [case for case in found if "s3prl" not in case["implementation"] or case["network"] in with_s3prl]


def run(case: dict) -> dict:
    """Prepare models and files, then measure from loading the model to the table on the disk."""
    import soundfile
    import torch

    torch.set_num_threads(1)
    size, side = case["network"], case["implementation"]
    seconds = sum(soundfile.info(path).duration for path in clips())
    with tempfile.TemporaryDirectory() as name:
        work = PREPARE[side.partition(",")[0]](Path(name), size, side)
        started, wall = cpu_seconds(), time.perf_counter()
        work()
        used = {"cpu_seconds": cpu_seconds() - started, "wall_seconds": time.perf_counter() - wall}
        vectors, layers = stored(Path(name))
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


def by_pipeline(folder: Path, size: str, side: str) -> Any:
    """The pipeline `feature-extraction`, whose default is one clip at a time."""
    import soundfile
    from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model, pipeline

    models.with_our_weights("transformers", models.transformers_encoder(size), size).save_pretrained(folder / "model")
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False)

    def work() -> None:
        model = Wav2Vec2Model.from_pretrained(folder / "model", attn_implementation="sdpa").eval()
        extract = pipeline("feature-extraction", model=model, tokenizer=extractor, framework="pt")
        paths = clips()
        waveforms = (soundfile.read(path, dtype="float32")[0] for path in paths)
        found = extract(waveforms, tokenize_kwargs={"sampling_rate": RATE}, return_tensors=True)
        write(folder, paths, [[frames[0].mean(dim=0).numpy()] for frames in found])

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


def by_s3prl(folder: Path, size: str, side: str) -> Any:
    """`UpstreamExpert` on a checkpoint as s3prl converts them from fairseq's."""
    import soundfile
    import torch
    from s3prl.upstream.wav2vec2.expert import UpstreamExpert
    from s3prl.upstream.wav2vec2.wav2vec2_model import Wav2Vec2Config, Wav2Vec2Model

    from speechssl.interop.encoder_names import wav2vec2_pairs
    from speechssl.interop.fairseq import NAMES

    sizes = models.SIZES[size]
    told = {
        "extractor_mode": "default", "encoder_layers": sizes["num_layers"], "encoder_embed_dim": sizes["model_dim"],
        "encoder_ffn_embed_dim": sizes["feed_forward_dim"], "encoder_attention_heads": sizes["num_heads"],
        "conv_feature_layers": f"[({sizes['conv_dim']}, 10, 5)] + [({sizes['conv_dim']}, 3, 2)] * 4"
        f" + [({sizes['conv_dim']}, 2, 2)] * 2",
    }  # fmt: skip
    state = Wav2Vec2Model(Wav2Vec2Config(**told)).state_dict()
    encoder = models.our_encoder(size)
    mine = encoder.state_dict()
    for pair in wav2vec2_pairs(encoder.config, NAMES):
        part = mine[pair.ours].chunk(pair.num_parts)[pair.part]
        state[pair.theirs] = part.reshape(state[pair.theirs].shape)
    torch.save({"task_cfg": {"normalize": False}, "model_cfg": told, "model_weight": state}, folder / "model.pt")

    def work() -> None:
        expert = UpstreamExpert(str(folder / "model.pt")).eval()
        paths, rows = clips(), []
        for path in paths:
            audio = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
            with torch.inference_mode():
                found = expert([audio])["hidden_states"]
            rows.append([layer[0].mean(dim=0).numpy() for layer in found])
        write(folder, paths, rows)

    return work


PREPARE = {
    "speechssl": ours,
    "transformers": by_transformers,
    "transformers' pipeline": by_pipeline,
    "torchaudio": by_torchaudio,
    "s3prl": by_s3prl,
}


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


def stored(folder: Path) -> tuple[np.ndarray, int]:
    """What was written: the last layer's vectors `[clips, D]`, which all sides have, and how many layers."""
    import pyarrow.parquet as pq

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
    return every[-1], len(every)


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
            if name != PADDED and apart > TOLERANCE:
                raise SystemExit(
                    f"{size}: {name} wrote other vectors than speechssl (magnitudes differ by {apart:.1e})"
                )
            ratio = summary["cpu_seconds"]["median"] / mine["cpu_seconds"]["median"]
            lines.append(f"- {size}: {name} needs {ratio:.2f} of the CPU seconds of speechssl.")
    return "\n".join(lines)


if __name__ == "__main__":
    main(
        "embed",
        cases,
        run,
        title="Every layer of 200 clips, from files to a table",
        columns=["layers", "audio_seconds_per_cpu_second", "cpu_seconds", "wall_seconds", "peak_megabytes"],
        notes="Clips of 1 to 17 s (prompts of Kathleen, utterances of LibriSpeech), one thread, fp32, equal weights."
        " `layers` is how many each side wrote; those of the pipeline and of torchaudio are fewer.",
        rounds=3,
        timeout=7200,
        derive=derive,
    )
