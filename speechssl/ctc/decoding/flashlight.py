"""flashlight-text: imported when a beam search is asked for, and its KenLM kept quiet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechssl.errors import ConfigError
from speechssl.quiet import without_stderr


def flashlight() -> Any:
    """The module `flashlight.lib.text.decoder`.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        from flashlight.lib.text import decoder
    except ImportError as error:
        raise ConfigError(
            f"the beam search needs the package flashlight-text ({error}): pip install 'speechssl[lm]'"
        ) from error
    return decoder


def dictionary(entries: Sequence[str]) -> Any:
    """A flashlight dictionary in which entry i has the id i."""
    flashlight()
    from flashlight.lib.text.dictionary import Dictionary

    made = Dictionary()
    for index, entry in enumerate(entries):
        made.add_entry(entry, index)
    return made


def load_kenlm(path: Path, entries: Sequence[str]) -> Any:
    """The model in `path`, whose symbol i is the word `entries[i]` (its unknown word where it lacks that).

    Raises:
        ConfigError: the file is missing, or is no model that KenLM reads.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such language model; `speechssl lm TEXT --output {path.name}` makes one")
    symbols = dictionary(entries)
    try:
        from flashlight.lib.text.decoder.kenlm import KenLM

        with without_stderr():  # KenLM draws a progress bar
            return KenLM(str(path), symbols)
    except ImportError as error:
        raise ConfigError(f"this flashlight-text holds no KenLM ({error}): pip install 'speechssl[lm]'") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path}: is no language model that KenLM reads: {reason}; give an ARPA file or KenLM's binary"
        ) from error
