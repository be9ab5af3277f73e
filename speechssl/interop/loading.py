"""One way in for every kind of model: ours, and those of other tools."""

import json
from pathlib import Path
from typing import Literal, get_args

import torch

from speechssl import encoder as native
from speechssl.encoder import SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.interop.fairseq import is_fairseq, read_fairseq
from speechssl.interop.fairseq2 import read_fairseq2
from speechssl.interop.fairseq2_cards import is_fairseq2
from speechssl.interop.huggingface import read_huggingface
from speechssl.interop.huggingface.hub import fetch, is_hub_id
from speechssl.interop.model import ImportedModel
from speechssl.interop.torchaudio_files import is_torchaudio, read_torchaudio
from speechssl.model_directory import shipped_models

Format = Literal["speechssl", "huggingface", "fairseq", "fairseq2", "torchaudio"]


def identify(source: str | Path) -> Format:
    """What kind of model `source` names; nothing but small text files and tables of contents is read.

    Raises:
        CheckpointError: there is nothing, or nothing that is known.
    """
    path = Path(source)
    if str(source) in shipped_models() and not path.is_dir():
        return "speechssl"
    if is_torchaudio(source):
        return "torchaudio"
    if is_fairseq2(path):
        return "fairseq2"
    if path.is_dir():
        return "huggingface" if _is_huggingface(path) else "speechssl"
    if is_fairseq(path):
        return "fairseq"
    if not path.exists() and is_hub_id(str(source)):
        return "huggingface"
    if path.is_file():
        raise CheckpointError(
            f"{source}: is no model that is known; give a run or model directory, a folder of Hugging Face's, a fairseq"
            " .pt, the asset card (.yaml) of a fairseq2 model, or a state that torchaudio's models saved (.pth)"
        )
    return "speechssl"  # whose loader says what is missing


def import_model(source: str | Path) -> ImportedModel:
    """A foreign model in our terms.

    `source` is a folder that Hugging Face's `save_pretrained` wrote, a name on its hub (`facebook/wav2vec2-base`), a
    fairseq checkpoint (`.pt`), the asset card of a fairseq2 model (`.yaml`), a bundle of torchaudio's
    (`torchaudio:WAV2VEC2_BASE`), the state of a model of torchaudio's (`.pth`) or what we exported for any of these.

    Raises:
        CheckpointError: unknown, damaged, or with parts that have no place here; the message names them.
    """
    kind = identify(source)
    if kind == "huggingface":
        path = Path(source)
        return read_huggingface(path if path.is_dir() else fetch(str(source)), source=str(source))
    if kind == "fairseq2":
        return read_fairseq2(source)
    if kind == "fairseq":
        return read_fairseq(source)
    if kind == "torchaudio":
        return read_torchaudio(source)
    foreign = ", ".join(name for name in get_args(Format) if name != "speechssl")
    raise CheckpointError(f"{source}: is no model of another tool; these are read: {foreign}")


def load_encoder(source: str | Path, *, device: torch.device | str = "cpu") -> SpeechEncoder:
    """Load an encoder in evaluation mode, ours or another tool's.

    `source` is a run directory (`runs/base`), one of its checkpoints, a model directory, the name of a shipped model
    (`speechssl-tiny`, which needs no network), or whatever `import_model` takes.

    Raises:
        CheckpointError: nothing usable is there, a file is damaged, or a foreign model has parts without a place here.
    """
    if identify(source) == "speechssl":
        return native.load_encoder(source, device=device)
    return import_model(source).build_encoder().to(device)


def _is_huggingface(folder: Path) -> bool:
    """Whether a folder's `config.json` is Hugging Face's: ours describes an `encoder`."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "model_type" in content and "encoder" not in content
