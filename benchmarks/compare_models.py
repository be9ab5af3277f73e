"""One network built by each implementation, with equal sizes, dropout and, where a result is compared, equal weights.

Every builder returns a module in fp32. `tiny` is a waveform network of 6 million parameters, `base` the paper's BASE.
LayerDrop is off on all sides, so that every step does the same work.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for tests.parity.weights

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"conv_dim": 256, "model_dim": 256, "num_layers": 4, "num_heads": 4, "feed_forward_dim": 1024},
    "base": {"conv_dim": 512, "model_dim": 768, "num_layers": 12, "num_heads": 12, "feed_forward_dim": 3072},
}
"""Both have 2 codebooks of 320 entries, 100 distractors, a positional convolution of 128 taps in 16 groups."""

DROPOUT = 0.1
VOCABULARY = 32
MASK_PROBABILITY = {"speechssl": 0.65, "transformers": 0.65, "fairseq2": 0.75}
"""In 30 draws for 4 x 10 s ours mask 983 frames on average (918 to 1044), fairseq2 976 (840 to 1056)."""
"""Chosen so that all mask about 49 % of the frames: fairseq2 draws starts with replacement and then unmasks some."""


def our_encoder(size: str, *, activation_dropout: float = 0.0) -> Any:
    """A `SpeechEncoder`."""
    from speechssl.encoder import SpeechEncoder, encoder_config

    options = {"layer_drop": 0.0, "activation_dropout": activation_dropout, **SIZES[size]}
    return SpeechEncoder(encoder_config("base", options), seed=1)


def our_pretraining(size: str) -> tuple[Any, Any]:
    """Encoder and objective."""
    from speechssl.objectives import ContrastiveConfig, ContrastiveObjective

    encoder = our_encoder(size)
    sizes = SIZES[size]
    objective = ContrastiveObjective(
        ContrastiveConfig(mask_probability=MASK_PROBABILITY["speechssl"]),
        latent_dim=sizes["conv_dim"], model_dim=sizes["model_dim"], seed=2,
    )  # fmt: skip
    return encoder.train(), objective.train()


def our_recognizer(size: str) -> Any:
    """A `CtcModel` whose convolutions are frozen."""
    from speechssl.asr import CtcModel
    from speechssl.text import Vocabulary

    letters = "".join(chr(ord("a") + number) for number in range(VOCABULARY - 1))
    vocabulary = Vocabulary.from_texts([letters + " "])
    assert len(vocabulary) == VOCABULARY, len(vocabulary)
    model = CtcModel(our_encoder(size, activation_dropout=DROPOUT), vocabulary, normalizer="none")
    for parameter in model.encoder.feature_encoder.parameters():
        parameter.requires_grad_(False)
    return model.train()


def transformers_config(size: str, **options: Any) -> Any:
    """With SDPA attention."""
    from transformers import Wav2Vec2Config

    sizes = SIZES[size]
    return Wav2Vec2Config(
        hidden_size=sizes["model_dim"], num_hidden_layers=sizes["num_layers"], num_attention_heads=sizes["num_heads"],
        intermediate_size=sizes["feed_forward_dim"], conv_dim=(sizes["conv_dim"],) * 7, layerdrop=0.0,
        attn_implementation="sdpa", hidden_dropout=DROPOUT, attention_dropout=DROPOUT, feat_proj_dropout=DROPOUT,
        **{"activation_dropout": 0.0, "final_dropout": 0.0, "feat_quantizer_dropout": DROPOUT,
           "mask_time_prob": MASK_PROBABILITY["transformers"], "mask_feature_prob": 0.0, **options},
    )  # fmt: skip


def transformers_pretraining(size: str) -> Any:
    """`Wav2Vec2ForPreTraining` with the defaults of BASE: 2 x 320 entries, 256 dims, 100 distractors."""
    from transformers import Wav2Vec2ForPreTraining

    return Wav2Vec2ForPreTraining(transformers_config(size)).train()


def transformers_recognizer(size: str) -> Any:
    """`Wav2Vec2ForCTC` whose convolutions are frozen."""
    from transformers import Wav2Vec2ForCTC

    config = transformers_config(
        size, vocab_size=VOCABULARY, pad_token_id=0, ctc_loss_reduction="sum", activation_dropout=DROPOUT,
        mask_feature_prob=0.25, mask_feature_length=64, mask_time_min_masks=2,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config).train()
    model.freeze_feature_encoder()
    return model


def transformers_encoder(size: str) -> Any:
    """`Wav2Vec2Model` in evaluation mode."""
    from transformers import Wav2Vec2Model

    return Wav2Vec2Model(transformers_config(size)).eval()


def fairseq2_encoder_config(size: str, **options: Any) -> Any:
    """SDPA is its default; soundfile comes first because its wheel carries the libsndfile that fairseq2 needs."""
    import soundfile  # noqa: F401
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig

    sizes = SIZES[size]
    return Wav2Vec2EncoderConfig(
        model_dim=sizes["model_dim"], feature_dim=sizes["conv_dim"], layer_drop_p=0.0,
        feature_extractor_layer_descs=[(sizes["conv_dim"], *pair) for pair in [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]],
        num_encoder_layers=sizes["num_layers"], num_encoder_attn_heads=sizes["num_heads"],
        ffn_inner_dim=sizes["feed_forward_dim"],
        **{"first_pass_dropout_p": DROPOUT, "dropout_p": DROPOUT, "attn_dropout_p": DROPOUT, **options},
    )  # fmt: skip


def fairseq2_pretraining(size: str) -> Any:
    """`Wav2Vec2Model` with the defaults of BASE."""
    encoder_config = fairseq2_encoder_config(size)
    from fairseq2.models.wav2vec2 import Wav2Vec2Config, create_wav2vec2_model

    mask = MASK_PROBABILITY["fairseq2"]
    return create_wav2vec2_model(Wav2Vec2Config(encoder_config=encoder_config, max_temporal_mask_prob=mask)).train()


def fairseq2_recognizer(size: str) -> Any:
    """`Wav2Vec2AsrModel` whose convolutions are frozen."""
    encoder_config = fairseq2_encoder_config(size, feature_grad_scale=1.0, ffn_inner_dropout_p=DROPOUT)
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, create_wav2vec2_asr_model

    model = create_wav2vec2_asr_model(
        Wav2Vec2AsrConfig(
            encoder_config=encoder_config, target_vocab_size=VOCABULARY, max_spatial_mask_prob=0.25,
            max_temporal_mask_prob=MASK_PROBABILITY["fairseq2"],
        )
    )  # fmt: skip
    for parameter in model.encoder_frontend.feature_extractor.parameters():
        parameter.requires_grad_(False)
    return model.train()


def torchaudio_encoder(size: str) -> Any:
    """`Wav2Vec2Model` in evaluation mode; it has no masking, so it cannot be pre-trained."""
    import torchaudio

    sizes = SIZES[size]
    return torchaudio.models.wav2vec2_model(
        extractor_mode="group_norm", extractor_conv_bias=False,
        extractor_conv_layer_config=[(sizes["conv_dim"], *pair) for pair in [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]],
        encoder_embed_dim=sizes["model_dim"], encoder_projection_dropout=0.0, encoder_pos_conv_kernel=128,
        encoder_pos_conv_groups=16, encoder_num_layers=sizes["num_layers"], encoder_num_heads=sizes["num_heads"],
        encoder_attention_dropout=0.0, encoder_ff_interm_features=sizes["feed_forward_dim"],
        encoder_ff_interm_dropout=0.0, encoder_dropout=0.0, encoder_layer_norm_first=False, encoder_layer_drop=0.0,
        aux_num_out=None,
    ).eval()  # fmt: skip


def with_our_weights(implementation: str, peer: Any, size: str) -> Any:
    """The peer's encoder with the weights of `our_encoder`, so that results can be compared."""
    from tests.parity import weights

    ours = our_encoder(size)
    if implementation == "transformers":
        pairs = weights.transformers_encoder(ours, peer)
    elif implementation == "torchaudio":
        pairs = weights.torchaudio_encoder(ours, peer)
    else:
        pairs = weights.fairseq2_encoder(ours, peer.encoder_frontend, peer.encoder, peer.masker)
    weights.copy_weights(list(pairs))
    return peer
