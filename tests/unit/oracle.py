"""A recogniser that needs no training: letters are spoken as levels, and it hears them without a mistake.

Letter number n of the alphabet is a plateau of `(n + 1) / 20`; blanks are silence, and the separator is a level of its
own. So texts, times and chunks are known exactly, and everything around the network can be tested.
"""

import numpy as np
import torch

from speechssl.asr import CtcModel, SpeechRecognizer
from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.text import Vocabulary

RATE = 16_000
STRIDE, FIELD = 320, 560  # of the log-mel front end
LETTERS = "abcdefgh"
CONFIG = EncoderConfig(
    front_end="log_mel", model_dim=32, num_layers=1, num_heads=2, feed_forward_dim=64, position_kernel=16
)


def speak(text: str, *, letter_seconds: float = 0.1, gap_seconds: float = 0.06, silence: float = 0.3) -> np.ndarray:
    """Samples f32 `[S]`: every letter and space of `letter_seconds`, gaps between, silence around."""
    gap = np.zeros(round(gap_seconds * RATE), np.float32)
    quiet = np.zeros(round(silence * RATE), np.float32)
    pieces = [quiet]
    for letter in text:
        level = 0.5 if letter == " " else (LETTERS.index(letter) + 1) / 20
        pieces += [np.full(round(letter_seconds * RATE), level, np.float32), gap]
    return np.concatenate([*pieces, quiet])


def hear(waveform: torch.Tensor, *, sharpness: float = 12.0) -> torch.Tensor:
    """Waveform `[S]` -> logits `[T, N]` of what lies in the middle of each frame."""
    frames = waveform.unfold(0, FIELD, STRIDE)[:, FIELD // 2 - 40 : FIELD // 2 + 40].mean(dim=1)
    label = (frames * 20).round().long()  # 0 silence, 10 the separator, 1.. letters
    index = torch.where(label == 0, 0, torch.where(label == 10, 1, label + 1))
    return sharpness * torch.nn.functional.one_hot(index, len(LETTERS) + 2).float()


def oracle() -> SpeechRecognizer:
    """The recogniser, with the frames of a log-mel model."""
    model = CtcModel(SpeechEncoder(CONFIG), Vocabulary.from_texts([LETTERS]), normalizer="letters")
    recognizer = SpeechRecognizer(model)
    recognizer._logits_of_piece = hear  # type: ignore[method-assign]
    return recognizer
