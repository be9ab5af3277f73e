"""The decoder that a user asks for: greedy, beam, or a file of tuned settings."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from speechssl.ctc.decoding.beam import BeamDecoder
from speechssl.ctc.decoding.config import BeamConfig
from speechssl.ctc.decoding.file import DECODER_SUFFIX, merge_settings, read_settings
from speechssl.ctc.decoding.hypothesis import Hypothesis
from speechssl.errors import ConfigError
from speechssl.text import Vocabulary


def check_decoder(decoder: str) -> None:
    """Refuse what is neither greedy nor beam nor the name of a file.

    Raises:
        ConfigError: it is none of them.
    """
    if decoder not in ("greedy", "beam") and not decoder.endswith(DECODER_SUFFIX):
        raise ConfigError(
            f"decoder must be greedy, beam or a {DECODER_SUFFIX} file that `speechssl evaluate --tune` wrote,"
            f" but is {decoder!r}"
        )


def beam_settings(decoder: str, beam: BeamConfig) -> BeamConfig | None:
    """The settings of the beam search: `beam`, or those of a file with the changed fields of `beam`; None for greedy.

    Raises:
        ConfigError: the file cannot be used, or settings are given to the greedy decoder.
    """
    check_decoder(decoder)
    if decoder == "greedy":
        if beam != BeamConfig():
            raise ConfigError("beam settings are given, but the decoder is greedy; set decoder to beam")
        return None
    return beam if decoder == "beam" else merge_settings(read_settings(Path(decoder)), beam)


def choose_decoder(
    decoder: str, beam: BeamConfig, vocabulary: Vocabulary
) -> Callable[[Tensor, Tensor], list[Hypothesis]] | None:
    """The decoder for a vocabulary, from logits `[B, T, N]` and num_frames to hypotheses; None is `greedy_decode`.

    Arguments and errors as those of `beam_settings` and `BeamDecoder`.
    """
    settings = beam_settings(decoder, beam)
    return None if settings is None else BeamDecoder(vocabulary, settings).decode
