"""Find the weights of a beam search on development data: the network runs once, the search many times."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from speechssl.asr import Decoder, SpeechRecognizer
from speechssl.ctc.decoding import BeamDecoder, Hypothesis
from speechssl.data import iterate_once
from speechssl.errors import AudioError
from speechssl.lengths import receptive_field
from speechssl.manifest import Manifest
from speechssl.progress import Progress
from speechssl.scoring import count_errors, error_rates
from speechssl.text import NormalizerName
from speechssl.types import Utterance

Weights = tuple[float, float]
"""Language model weight and word score."""

COARSE_LM_WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0)
COARSE_WORD_SCORES = (-2.0, 0.0, 2.0)
LARGEST_STEPS: Weights = (0.5, 1.0)
NUM_REFINEMENTS = 3  # each with half the steps of the one before


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the network says of every utterance: log probabilities f32 `[T, N]` by id, on the CPU.

    An utterance in `failed` (id -> reason) could not be read.
    """

    log_probabilities: Mapping[str, Tensor]
    failed: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Error rates that one pair of weights gave."""

    lm_weight: float
    word_score: float
    wer: float
    cer: float


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The decoder with the best weights, and all trials in the order in which they were made."""

    decoder: BeamDecoder
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the lowest word error rate; of equals that with the lowest character error rate."""
        return min(self.trials, key=_rank)


def collect_outputs(
    recognizer: SpeechRecognizer, manifest: Manifest, *, batch_seconds: float, progress: Progress | None = None
) -> Outputs:
    """Run the network over a manifest."""
    found: dict[str, Tensor] = {}
    failed: dict[str, str] = {}

    def note(utterance: Utterance, error: AudioError) -> None:
        failed[utterance.id] = str(error)

    for batch in iterate_once(
        manifest,
        batch_seconds=batch_seconds,
        sample_rate=recognizer.sample_rate,
        min_num_samples=receptive_field(recognizer.model.encoder.strided_layers),
        on_error=note,
    ):
        output = recognizer.logits_of_batch(batch)
        rows = output.logits.float().log_softmax(dim=-1).cpu()
        for name, row, length in zip(batch.utterance_ids, rows, output.num_frames.tolist(), strict=True):
            found[name] = row[:length].clone()
        if progress is not None:
            progress(len(found) + len(failed), len(manifest))
    return Outputs(log_probabilities=found, failed=failed)


def decode_outputs(decoder: Decoder, outputs: Outputs) -> dict[str, Hypothesis]:
    """Hypotheses by id; log probabilities are their own logits."""
    return {name: decoder(rows[None], torch.tensor([len(rows)]))[0] for name, rows in outputs.log_probabilities.items()}


def tune(
    decoder: BeamDecoder,
    outputs: Outputs,
    references: Mapping[str, str],
    *,
    normalizer: NormalizerName,
    progress: Progress | None = None,
) -> Tuning:
    """Search the language model weight and the word score with the lowest word error rate.

    A coarse grid first, then the eight neighbours of the best at ever smaller steps. Without a language model only
    the word score is searched. An utterance without outputs counts with an empty hypothesis.

    Args:
        decoder: gives everything but the two weights.
        outputs: of `collect_outputs`.
        references: texts by id, of all utterances.
        normalizer: by which texts are compared.
        progress: told the trials made, and those to make at most.
    """
    with_model = decoder.config.language_model is not None
    lm_weights = COARSE_LM_WEIGHTS if with_model else (0.0,)
    trials: dict[Weights, Trial] = {}
    most = len(lm_weights) * len(COARSE_WORD_SCORES) + NUM_REFINEMENTS * (8 if with_model else 2)

    def attempt(weights: Weights) -> None:
        if weights in trials or weights[0] < 0:
            return
        texts = decode_outputs(decoder.with_weights(lm_weight=weights[0], word_score=weights[1]).decode, outputs)
        hypotheses = {name: texts[name].text if name in texts else "" for name in references}
        wer, cer = error_rates(count_errors(references, hypotheses, normalizer=normalizer))
        trials[weights] = Trial(lm_weight=weights[0], word_score=weights[1], wer=wer, cer=cer)
        if progress is not None:
            progress(len(trials), most)

    for lm_weight in lm_weights:
        for word_score in COARSE_WORD_SCORES:
            attempt((lm_weight, word_score))
    for refinement in range(NUM_REFINEMENTS):
        best = min(trials.values(), key=_rank)
        lm_step, word_step = (step / 2**refinement for step in LARGEST_STEPS)
        for lm_change in (-lm_step, 0.0, lm_step) if with_model else (0.0,):
            for word_change in (-word_step, 0.0, word_step):
                attempt((best.lm_weight + lm_change, best.word_score + word_change))
    best = min(trials.values(), key=_rank)
    chosen = decoder.with_weights(lm_weight=best.lm_weight, word_score=best.word_score)
    return Tuning(decoder=chosen, trials=tuple(trials.values()))


def _rank(trial: Trial) -> tuple[float, float, float, float]:
    """Of equal error rates the smaller weights are taken."""
    return trial.wer, trial.cer, trial.lm_weight, abs(trial.word_score)
