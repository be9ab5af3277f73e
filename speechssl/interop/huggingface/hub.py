"""Models by their name on Hugging Face's hub, through its own client and cache."""

import re
from pathlib import Path

from speechssl.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?\Z")
_FILES = ("*.json", "*.safetensors", "README.md", "*.txt", "*.model")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/model`, or `owner/model@revision` (a branch, tag or commit)."""
    return _HUB_ID.match(name) is not None


def fetch(name: str) -> Path:
    """Folder of a model on this machine, fetched if needed; weights as safetensors where there are any.

    Without network what an earlier fetch left in the client's cache is used.

    Raises:
        CheckpointError: the client is not installed, the model or its revision is not there, or the hub cannot be
            reached.
    """
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub import errors as hub
    except ImportError:
        raise CheckpointError(
            f"{name}: no such path, and to fetch it from the hub huggingface_hub is needed (`pip install"
            " 'speechssl[hf]'`); or give a folder that holds the model"
        ) from None
    repository, _, revision = name.partition("@")
    hub_name = f"{name}: no such path, and the hub at {constants.ENDPOINT}"
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(_FILES)))
        if not list(folder.glob("*.safetensors")):
            patterns = [*_FILES, "pytorch_model.bin"]
            folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
        return folder
    except hub.LocalEntryNotFoundError:
        raise CheckpointError(
            f"{hub_name} cannot be reached to fetch a model of this name, nor is it in the cache"
            f" ({constants.HF_HUB_CACHE}); download it elsewhere and give its folder"
        ) from None
    except hub.GatedRepoError:
        raise CheckpointError(
            f"{hub_name} gives it to those alone who accepted its terms; accept them on its page and log in"
            " (`hf auth login`)"
        ) from None
    except hub.RepositoryNotFoundError:
        raise CheckpointError(
            f"{hub_name} has no model {repository}; check the name, or log in where it is private (`hf auth login`)"
        ) from None
    except hub.RevisionNotFoundError:
        raise CheckpointError(
            f"{hub_name} has no revision {revision!r} of {repository}; name one of its branches, tags or commits"
        ) from None
    except (hub.HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(f"{hub_name} does not give it ({reason}); try again later") from None
