"""transformers running a model that was written for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.errors import CheckpointError
from speechssl.interop.card import kind_of
from speechssl.interop.gate import Layers, Peer, encoder_of
from speechssl.interop.model import Exportable


def import_transformers() -> Any:
    """The package.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise CheckpointError(
            "an export to Hugging Face is checked by running it there, which needs transformers; install it with"
            " `pip install 'speechssl[hf]'`"
        ) from None
    return transformers


def huggingface_peer(folder: Path, model: Exportable) -> tuple[str, Peer]:
    """transformers running what was written, from waveforms through its own feature extractor."""
    transformers = import_transformers()
    kind = kind_of(model)
    auto = {"ctc": "AutoModelForCTC", "pretraining": "AutoModelForPreTraining", "encoder": "AutoModel"}[kind]
    theirs = getattr(transformers, auto).from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    rate = encoder_of(model).config.sample_rate
    context: list[Tensor] = []
    # the hidden states end before or after the norm behind the layers, depending on the version
    theirs.base_model.register_forward_hook(lambda module, inputs, output: context.append(output[0]))

    @torch.no_grad()
    def run(waveform: Tensor, num_samples: Tensor) -> Layers:
        clips = [row[:length].numpy() for row, length in zip(waveform, num_samples.tolist(), strict=True)]
        inputs = extractor(clips, sampling_rate=rate, padding=True, return_tensors="pt", return_attention_mask=True)
        context.clear()
        output = theirs(**inputs, output_hidden_states=True)
        states = output.hidden_states
        layers: dict[str, Tensor] = {}
        if kind == "encoder" and output.get("extract_features") is not None:
            layers["latents"] = output.extract_features
        layers |= {f"layer {index}": state for index, state in enumerate(states[:-1])}
        layers["context"] = context[0]
        if kind == "ctc":
            layers["logits"] = output.logits
        elif kind == "pretraining":
            layers |= _pretraining_layers(theirs, inputs)
            layers["context projection"] = output.projected_states
        return layers

    return f"transformers {transformers.__version__}, {type(theirs).__name__}", run


def _pretraining_layers(theirs: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Logits of the codes, and the projected mean of the codebooks under their softmax."""
    latents = getattr(theirs, theirs.base_model_prefix)(**inputs).extract_features
    logits = theirs.quantizer.weight_proj(latents)
    groups = theirs.config.num_codevector_groups
    codebooks = theirs.quantizer.codevectors.unflatten(1, (groups, -1))[0]  # [G, V, Q / G]
    weights = logits.unflatten(-1, (groups, -1)).softmax(dim=-1)
    expected = torch.einsum("btgv,gvq->btgq", weights, codebooks).flatten(2)
    return {"code logits": logits, "target projection": theirs.project_q(expected)}
