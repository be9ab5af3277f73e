"""Models by their name on Hugging Face's hub, through its own client and cache."""

import re
from pathlib import Path

from speechssl.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")
_FILES = ("*.json", "*.safetensors", "README.md", "*.txt", "*.model")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/model`."""
    return _HUB_ID.match(name) is not None


def fetch(name: str) -> Path:
    """Folder of a model on this machine, fetched if needed; weights as safetensors where there are any.

    Raises:
        CheckpointError: the client is not installed, the model is not there, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise CheckpointError(
            f"{name}: no such path, and to fetch it from the hub huggingface_hub is needed (`pip install"
            " huggingface_hub`); or give a folder that holds the model"
        ) from None
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_FILES)))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*_FILES, "pytorch_model.bin"]))
        return folder
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"{name}: no such path, and the hub cannot be reached to fetch a model of this name; download it elsewhere"
            " and give its folder"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{name}: no such path, and the hub gives no such model ({reason}); check the name, or log in where it is"
            " private"
        ) from None
