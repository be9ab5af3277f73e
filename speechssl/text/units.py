"""Subword units by sentencepiece."""

import io
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from speechssl.errors import ConfigError

Algorithm = Literal["unigram", "bpe"]
WORD_PREFIX = "\u2581"
_UNKNOWN = 0


def train_pieces(texts: Iterable[str], *, size: int, algorithm: Algorithm) -> bytes:
    """A sentencepiece model of at most `size` pieces, learnt from texts that are taken as they are.

    Every character of the texts is a piece or part of one. The unknown piece is number 0, and there is no other that
    is not written. A small text may give fewer pieces than asked for.

    Raises:
        ConfigError: `size` is smaller than the number of characters, or the text is too small.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=size,
            model_type=algorithm,
            character_coverage=1.0,
            normalization_rule_name="identity",
            unk_id=_UNKNOWN,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            hard_vocab_limit=False,
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"units.size: no {size} pieces can be learnt from the texts: {reason}") from error
    return model.getvalue()


class PieceModel:
    """A sentencepiece model whose piece numbers are label ids."""

    def __init__(self, content: bytes) -> None:
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        except RuntimeError as error:
            raise ConfigError(f"the sentencepiece model cannot be read: {error}") from error

    @property
    def pieces(self) -> list[str]:
        """All pieces by number."""
        return [self._processor.id_to_piece(number) for number in range(self._processor.get_piece_size())]

    def encode(self, text: str) -> tuple[list[int], Counter[str]]:
        """Label ids of the best segmentation, and the characters without a piece."""
        numbers: list[int] = self._processor.encode(text)
        if _UNKNOWN not in numbers:
            return numbers, Counter()
        known = set("".join(self.pieces[_UNKNOWN + 1 :]))
        unknown = Counter(character for character in text if character != " " and character not in known)
        return [number for number in numbers if number != _UNKNOWN], unknown
