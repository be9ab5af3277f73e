"""Long recordings: chunks are normalized as the whole is, and pooled by the formulas of short ones."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import ConfigError
from speechssl.extraction import ChunkSettings, Extractor, Representation, encode_batch, encode_long
from speechssl.extraction.audio_blocks import array_blocks, content_hash, cut, file_blocks
from speechssl.nn.pooling import AttentiveStatistics, make_pooling

SMALL = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_groups": 4}
FRONT_ENDS = {
    "log_mel": ("tiny", SMALL),
    "fbank": ("tiny", {**SMALL, "front_end": "fbank", "normalize_waveform": False}),  # as in w2v-BERT 2.0
    "group_norm": ("base", {**SMALL, "conv_dim": 16, "normalize_waveform": True}),
    "layer_norm": ("small", {**SMALL, "conv_dim": 16}),
}


def speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose level changes, so that a chunk's statistics are not those of the whole; with an offset."""
    random = np.random.default_rng(seed)
    level = np.repeat(random.uniform(0.01, 0.5, int(seconds * 4) + 1), 4000)[: int(seconds * 16_000)]
    return (0.02 + level * random.normal(size=len(level))).astype(np.float32)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("pool", ["none", "mean", "max", "mean_std", "first", "last", "attentive"])
def test_chunks_that_see_everything_are_the_whole(front_end: str, pool: str) -> None:
    preset, changes = FRONT_ENDS[front_end]
    encoder = SpeechEncoder(encoder_config(preset, changes), seed=1).eval()
    pooling = AttentiveStatistics(32, hidden_dim=4)
    torch.nn.init.normal_(pooling.score.weight, std=2.0, generator=torch.Generator().manual_seed(0))
    extractor = Extractor(encoder, Representation(layers=(0, None), pool=pool), pooling=pooling if pool == "attentive" else None)  # type: ignore[arg-type] # fmt: skip # noqa: E501
    waveform = speechlike(4.2)
    whole = encode_batch(extractor, torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))[0]
    settings = ChunkSettings(whole_seconds=0, chunk_seconds=1.3, context_seconds=100)
    found = encode_long(extractor, lambda: array_blocks(waveform, 16_000), settings)
    assert found.num_samples == len(waveform) and found.content_sha256 == content_hash([waveform])
    assert relative(found.vectors, whole) < 1e-5
    # and the latents, layer 0 without its positions, need no more context than the positional convolution
    if pool == "none":
        near = ChunkSettings(whole_seconds=0, chunk_seconds=1.3, context_seconds=2)
        close = encode_long(extractor, lambda: array_blocks(waveform, 16_000), near).vectors
        assert relative(close[0], whole[0]) < 1e-5 < relative(close[1], whole[1])


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_long_file_is_read_block_by_block_to_the_same_samples(rate: int, tmp_path: Path) -> None:
    from speechssl.audio import read

    soundfile.write(tmp_path / "long.wav", speechlike(65 * rate / 16_000), rate)
    blocks = list(file_blocks(tmp_path / "long.wav", 16_000, offset=1.0, duration=62.5))
    whole = read(tmp_path / "long.wav", sample_rate=16_000, offset=1.0, duration=62.5)
    assert len(blocks) > 2
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)


def test_spans_are_cut_out_of_a_stream() -> None:
    stream = np.arange(1000, dtype=np.float32)
    spans = [(0, 10), (5, 300), (290, 291), (700, 1000), (990, 2000)]
    pieces = (stream[start : start + 64] for start in range(0, 1000, 64))
    for (first, last), found in zip(spans, cut(pieces, iter(spans)), strict=True):
        assert np.array_equal(found, stream[first:last])


@pytest.mark.parametrize("name", ["mean", "max", "mean_std", "attentive", "first", "last"])
def test_parts_are_pooled_as_the_whole_and_padding_counts_for_nothing(name: str) -> None:
    torch.manual_seed(0)
    pooling = make_pooling(name, dim=6)  # type: ignore[arg-type]
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter)
    frames, lengths = torch.randn(2, 9, 6), torch.tensor([9, 9])
    whole = pooling(frames, lengths)
    parts = [pooling.summarize(frames[:, a:b], torch.tensor([b - a] * 2)) for a, b in ((0, 2), (2, 8), (8, 9))]
    merged = pooling.merge(pooling.merge(parts[0], parts[1]), parts[2])
    torch.testing.assert_close(pooling.finish(merged), whole)
    padded = torch.cat([frames, torch.full((2, 3, 6), 1e4)], dim=1)
    torch.testing.assert_close(pooling(padded, lengths), whole)
    assert whole.shape == (2, pooling.output_dim(6))


def test_attentive_statistics_by_hand() -> None:
    pooling = AttentiveStatistics(1, hidden_dim=1)
    with torch.no_grad():
        for parameter, value in zip(pooling.parameters(), (1.0, 0.0, np.log(3) / np.tanh(1.0), 0.0), strict=True):
            parameter.fill_(value)
    # the frames 0 and 1 have the weights 1/4 and 3/4: mean 3/4, variance 3/16
    found = pooling(torch.tensor([[[0.0], [1.0]]]), torch.tensor([2]))
    torch.testing.assert_close(found, torch.tensor([[0.75, (3 / 16) ** 0.5]]))


def test_wrong_wishes_are_named() -> None:
    for wish, message in (
        ({"layers": (1, 1)}, "name each layer once"),
        ({"layers": ()}, "at least one layer"),
        ({"layers": (1,), "layer_weights": (1.0,)}, "exclude each other"),
        ({"layer_weights": (0.0, 0.0)}, "not all 0"),
        ({"normalize": "l1"}, "normalize must be none or l2"),
    ):
        with pytest.raises(ConfigError, match=message):
            Representation(**wish)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="context_seconds must be at least 0, but is -1"):
        ChunkSettings(context_seconds=-1)
