"""Tuned settings in a file: written by `speechssl evaluate --tune`, read by whatever takes a decoder."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from speechssl.config import from_dict, to_dict
from speechssl.ctc.decoding.config import BeamConfig
from speechssl.errors import ConfigError
from speechssl.files import write_text

logger = logging.getLogger(__name__)

DECODER_SUFFIX = ".json"
DECODER_FILE = "decoder.json"
_FILES = ("language_model", "lexicon")


def write_settings(path: Path, config: BeamConfig, facts: Mapping[str, Any]) -> None:
    """Write the settings, the digests of the files that they name, and `facts` on how they were found.

    The files are named relative to the folder of `path`.
    """
    settings = to_dict(config)
    digests = {}
    for name in _FILES:
        target = getattr(config, name)
        if target is not None:
            settings[name] = os.path.relpath(target, path.parent)
            digests[name] = _digest(target)
    content = {"decoder": "beam", "beam": settings, "sha256": digests, **facts}
    write_text(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def read_settings(path: Path) -> BeamConfig:
    """Read what `write_settings` wrote; a language model or lexicon that changed since is warned about.

    Raises:
        ConfigError: the file is missing or holds no settings.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = dict(content["beam"])
        digests = dict(content.get("sha256", {}))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; `speechssl evaluate --tune` writes one"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: holds no decoder settings ({type(error).__name__}: {error}); `speechssl evaluate --tune` writes"
            f" {DECODER_FILE}"
        ) from error
    for name in _FILES:
        if settings.get(name) is not None:
            settings[name] = os.path.normpath(path.parent / settings[name])
    config = from_dict(BeamConfig, settings, source=str(path))
    for name, digest in digests.items():
        target = getattr(config, name, None)
        if target is not None and target.is_file() and _digest(target) != digest:
            logger.warning("%s: %s has changed since the weights were tuned; tune again", path, target)
    return config


def merge_settings(base: BeamConfig, changes: BeamConfig) -> BeamConfig:
    """`base` with every field of `changes` that differs from its default."""
    default = BeamConfig()
    names = [field.name for field in fields(BeamConfig)]
    return replace(
        base, **{name: getattr(changes, name) for name in names if getattr(changes, name) != getattr(default, name)}
    )


def _digest(path: Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
