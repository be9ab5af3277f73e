"""Confidences that mean what they say: fitted on a development manifest, stored beside the model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.asr import SpeechRecognizer, Transcript
from speechssl.ctc.confidence import Calibration, Method, Reliability, cross_validated, fit, reliability
from speechssl.encoder import resolve_device
from speechssl.errors import AudioError, ManifestError
from speechssl.interop import identify, load_asr
from speechssl.manifest import Manifest
from speechssl.model_directory import resolve_model_directory
from speechssl.progress import Progress
from speechssl.scoring import count_errors
from speechssl.text import normalize


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """What to calibrate, on what.

    Attributes:
        checkpoint: a fine-tuning run, one of its checkpoints or a model directory; confidence.json is written there.
        manifest: utterances with texts that the model was not trained on; best a development set.
        test_manifest: other utterances with texts, on which the result is measured; null measures on parts of
            `manifest`, each mapped by what the other parts gave.
        method: temperature (two numbers) or isotonic (hundreds of words).
        device: auto takes a GPU where there is one.
    """

    checkpoint: str
    manifest: Path
    test_manifest: Path | None = None
    method: Method = "temperature"
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class JudgedWords:
    """Recognised words: raw score, whether right, and whose utterance. `failed`: id -> why it was not recognised."""

    scores: tuple[float, ...]
    correct: tuple[bool, ...]
    utterances: tuple[str, ...]
    failed: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class CalibrateResult:
    """The map, where it was written, and the words' reliability before and after it on words it was not fitted to."""

    calibration: Calibration
    path: Path
    before: Reliability
    after: Reliability
    num_words: int
    num_correct: int
    failed: dict[str, str]


def run(config: CalibrateConfig, *, progress: Progress | None = None) -> CalibrateResult:
    """Recognise the manifest greedily, judge every word, fit the map and store it.

    Raises:
        CheckpointError: the model cannot be loaded, or is another tool's and has no directory of ours.
        ManifestError: a manifest cannot be used, or has too few right or wrong words.
    """
    if identify(config.checkpoint) != "speechssl":
        raise ManifestError(
            f"{config.checkpoint}: another tool's model has no place for confidence.json; make a directory of ours with"
            " speechssl import"
        )
    directory = resolve_model_directory(config.checkpoint)
    recognizer = load_asr(config.checkpoint, device=resolve_device(config.device))
    recognizer.calibration = None
    judged = judge(recognizer, config.manifest, progress=progress)
    calibration = fit(judged.scores, judged.correct, method=config.method)
    if config.test_manifest is None:
        measured = judged
        mapped = cross_validated(judged.scores, judged.correct, judged.utterances, method=config.method)
    else:
        measured = judge(recognizer, config.test_manifest, progress=progress)
        mapped = calibration.apply_all(np.array(measured.scores))
    before, after = reliability(measured.scores, measured.correct), reliability(mapped, measured.correct)
    facts: dict[str, Any] = {
        "decoder": "greedy",
        "manifest": str(config.manifest),
        "test_manifest": None if config.test_manifest is None else str(config.test_manifest),
        "num_words": len(judged.scores),
        "measured_on_words": len(measured.scores),
        "before": asdict(before),
        "after": asdict(after),
    }
    return CalibrateResult(
        calibration=calibration,
        path=calibration.save(directory, facts=facts),
        before=before,
        after=after,
        num_words=len(measured.scores),
        num_correct=sum(measured.correct),
        failed={**judged.failed, **measured.failed},
    )


def judge(recognizer: SpeechRecognizer, path: Path, *, progress: Progress | None = None) -> JudgedWords:
    """Every recognised word of a manifest with its score, and whether the alignment with the reference has it right."""
    manifest = Manifest.load(path)
    scores: list[float] = []
    correct: list[bool] = []
    utterances: list[str] = []
    failed: dict[str, str] = {}
    for number, utterance in enumerate(manifest, start=1):
        if utterance.text is None:
            raise ManifestError(f"{path}: {utterance.id} has no text to judge words by; leave such rows out")
        duration = utterance.duration if utterance.duration > 0 else None
        try:
            found = recognizer.transcribe(utterance.audio_filepath, offset=utterance.offset, duration=duration)
        except AudioError as error:
            failed[utterance.id] = str(error)
        else:
            for score, right in judge_words(found, utterance.text, recognizer):
                scores.append(score)
                correct.append(right)
                utterances.append(utterance.id)
        if progress is not None:
            progress(number, len(manifest))
    return JudgedWords(scores=tuple(scores), correct=tuple(correct), utterances=tuple(utterances), failed=failed)


def judge_words(found: Transcript, reference: str, recognizer: SpeechRecognizer) -> list[tuple[float, bool]]:
    """Score and correctness of the words of one transcript; a word that the normaliser divides is right as a whole."""
    normalizer = recognizer.model.normalizer
    parts = [normalize(word.text, normalizer).split() for word in found.words]
    hypothesis = " ".join(part for group in parts for part in group)
    if not normalize(reference, normalizer):
        flags = [False] * len(hypothesis.split())
    else:
        errors = count_errors({"": reference}, {"": hypothesis}, normalizer=normalizer)[0]
        flags = [kind == "equal" for kind, _, words in errors.alignment for _ in words.split()]
    judged = []
    place = 0
    for word, group in zip(found.words, parts, strict=True):
        if group and word.confidence is not None:
            judged.append((word.confidence, all(flags[place : place + len(group)])))
        place += len(group)
    return judged
