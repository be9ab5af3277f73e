"""Evaluate a fine-tuned model on a manifest: every utterance counts, whatever becomes of it."""

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speechssl.asr import SpeechRecognizer
from speechssl.config import to_dict
from speechssl.ctc.decoding import BeamConfig, BeamDecoder, Hypothesis
from speechssl.ctc.decoding.choice import beam_settings, check_decoder
from speechssl.ctc.decoding.file import DECODER_FILE, write_settings
from speechssl.data import iterate_once
from speechssl.encoder import resolve_device
from speechssl.errors import AudioError, ConfigError, ManifestError
from speechssl.evaluation import read_hypotheses, save_report
from speechssl.evaluation.columns import chosen_columns, column_values, has_several
from speechssl.files import writing
from speechssl.interop import identify, load_asr
from speechssl.lengths import receptive_field
from speechssl.manifest import Manifest
from speechssl.model_directory import resolve_model_directory
from speechssl.progress import Progress
from speechssl.scoring import AlignmentMethod, Breakdown, break_down, score
from speechssl.text import NormalizerName, normalize
from speechssl.tuning import Tuning, collect_outputs, decode_outputs, tune
from speechssl.types import ErrorReport, Utterance

logger = logging.getLogger(__name__)

FOREIGN_NORMALIZER: NormalizerName = "letters"
"""Of hypotheses that come from a file, where none was chosen."""
NBEST_FILE = "nbest.jsonl"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to evaluate, on what, and how texts are compared.

    Attributes:
        checkpoint: a fine-tuning run, one of its checkpoints, a model directory or another tool's recogniser.
        hypotheses: a file of what another tool recognised (.jsonl, .csv, .tsv, .trn or .ctm), instead of a checkpoint.
        manifest: utterances with texts.
        output: folder for result.json, utterances.csv, breakdown.csv, confusions.csv; null writes nothing.
        decoder: greedy takes the best label of every frame; beam searches as `beam` says; a decoder.json that tuning
            wrote searches as it says, with the changed fields of `beam`.
        beam: settings of the beam search.
        tune: find the language model weight and the word score with the lowest WER on this manifest, which must be
            development data, and write them to decoder.json in `output`; the decoder is beam then.
        normalizer: applied to references and hypotheses: none, lowercase, letters, basic or english; null takes the
            rule that the model was trained with, or letters for a file of hypotheses.
        alignment: levenshtein counts the fewest errors, as jiwer does; sclite weighs them as NIST's tool does.
        breakdown: columns of the manifest, or num_words, to divide the errors by; numbers are binned. Null takes
            speaker, language and duration as far as there are several of them.
        batch_seconds: padded audio that is recognised at a time.
        num_bootstrap: replicates of the bootstrap for the confidence intervals.
        confidence: coverage of the confidence intervals.
        seed: of the bootstrap.
        device: `auto` takes a GPU where there is one.
    """

    checkpoint: str | None = None
    hypotheses: Path | None = None
    manifest: Path
    output: Path | None = None
    decoder: str = "greedy"
    beam: BeamConfig = field(default_factory=BeamConfig)
    tune: bool = False
    normalizer: NormalizerName | None = None
    alignment: AlignmentMethod = "levenshtein"
    breakdown: tuple[str, ...] | None = None
    batch_seconds: float = 120.0
    num_bootstrap: int = 1000
    confidence: float = 0.95
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        check_decoder(self.decoder)
        if (self.checkpoint is None) == (self.hypotheses is None):
            raise ConfigError("give either checkpoint, a model that recognises, or hypotheses, another tool's file")
        if self.hypotheses is not None and (self.tune or self.decoder != "greedy"):
            raise ConfigError("hypotheses are decoded already: leave tune and decoder away, or give a checkpoint")
        if self.tune and self.output is None:
            raise ConfigError(f"tune writes {DECODER_FILE} into output, so give output")
        if self.batch_seconds <= 0:
            raise ConfigError(f"batch_seconds must be above 0, but is {self.batch_seconds}")
        if self.num_bootstrap < 1:
            raise ConfigError(f"num_bootstrap must be at least 1, but is {self.num_bootstrap}")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence must lie between 0 and 1, but is {self.confidence}")


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """The error rates, where they were written, and the utterances whose audio could not be used.

    An utterance in `failed` (id -> reason) has an empty hypothesis in `report`: all of its words count as deleted.
    `unknown_characters` counts what of the references the model's vocabulary lacks (whole words where it writes
    phonemes), `num_out_of_lexicon` the words of the references that a search with a lexicon cannot write, None without
    one. `beam` holds the settings of the search, None of the greedy decoder, and `tuning` the trials. `breakdowns` are
    the groups that were asked for.
    """

    report: ErrorReport
    directory: Path | None
    failed: Mapping[str, str]
    unknown_characters: Mapping[str, int] = field(default_factory=dict)
    num_out_of_lexicon: int | None = None
    beam: BeamConfig | None = None
    tuning: Tuning | None = None
    breakdowns: tuple[Breakdown, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """Hypotheses of all utterances, and what is to be told of how they came to be.

    `references` are compared with in place of the manifest's texts, where the model writes by rules of its own.
    """

    texts: Mapping[str, str]
    references: Mapping[str, str] | None = None
    normalizer: NormalizerName
    details: Mapping[str, Any]
    failed: Mapping[str, str] = field(default_factory=dict)
    unknown_characters: Counter[str] = field(default_factory=Counter)
    num_out_of_lexicon: int | None = None
    beam: BeamConfig | None = None
    tuning: Tuning | None = None
    found: Mapping[str, Hypothesis] = field(default_factory=dict)


def run(config: EvaluateConfig, *, progress: Progress | None = None) -> EvaluateResult:
    """Recognise every utterance of the manifest, or read what another tool recognised, and compare with its text.

    `progress` is told the utterances recognised and their number, in tuning then the trials.

    Raises:
        ConfigError: the decoder's settings cannot be used, or a column to divide by is not there.
        CheckpointError: the model cannot be loaded.
        ManifestError: the manifest or the hypotheses cannot be read, do not belong together, or rows have no text.
    """
    manifest = Manifest.load(config.manifest)
    missing = [utterance.id for utterance in manifest if utterance.text is None]
    if missing:
        raise ManifestError(
            f"{config.manifest}: {len(missing)} of {len(manifest)} utterances have no text to compare with, the first "
            f"is {missing[0]!r}; add the texts, or use `speechssl transcribe` on recordings without"
        )
    columns = chosen_columns(config.breakdown, manifest)
    references = {utterance.id: utterance.text or "" for utterance in manifest}
    answers = _read(config, manifest) if config.hypotheses else _recognize_all(config, manifest, references, progress)
    report = score(
        references if answers.references is None else answers.references,
        answers.texts,
        normalizer=answers.normalizer,
        speakers={utterance.id: utterance.speaker for utterance in manifest},
        num_bootstrap=config.num_bootstrap,
        confidence=config.confidence,
        seed=config.seed,
        alignment=config.alignment,
    )
    values = column_values(columns, manifest, report)
    breakdowns = tuple(
        break_down(report, name, values[name], num_bootstrap=config.num_bootstrap, seed=config.seed)
        for name in columns
        if config.breakdown is not None or has_several(values[name])
    )
    if config.output is not None:
        details = {
            **answers.details,
            "num_bootstrap": config.num_bootstrap,
            "seed": config.seed,
            "manifest": str(config.manifest),
            "manifest_fingerprint": manifest.fingerprint(),
            "audio_seconds": round(manifest.total_seconds, 3),
            "failed": dict(answers.failed),
        }
        save_report(report, config.output, details=details, breakdowns=breakdowns, columns=values)
        if answers.beam is not None and answers.beam.num_hypotheses > 1:
            _save_nbest(answers.found, config.output)
        if answers.tuning is not None:
            _save_tuning(answers.tuning, config.output, details)
    return EvaluateResult(
        report=report,
        directory=config.output,
        failed=answers.failed,
        unknown_characters=answers.unknown_characters,
        num_out_of_lexicon=answers.num_out_of_lexicon,
        beam=answers.beam,
        tuning=answers.tuning,
        breakdowns=breakdowns,
    )


def _read(config: EvaluateConfig, manifest: Manifest) -> _Answers:
    """The answers in a file."""
    assert config.hypotheses is not None
    found = read_hypotheses(config.hypotheses, manifest)
    if found.num_outside:
        logger.warning("%s: %d words lie in no utterance of the manifest", config.hypotheses, found.num_outside)
    details = {
        "decoder": None,
        "hypotheses": str(config.hypotheses),
        "num_without_line": found.num_silent,
        "num_words_outside": found.num_outside,
    }
    return _Answers(texts=found.texts, normalizer=config.normalizer or FOREIGN_NORMALIZER, details=details)


def _recognize_all(
    config: EvaluateConfig, manifest: Manifest, references: Mapping[str, str], progress: Progress | None
) -> _Answers:
    """The answers of a model."""
    assert config.checkpoint is not None
    recognizer = load_asr(config.checkpoint, device=resolve_device(config.device))
    vocabulary = recognizer.model.vocabulary
    settings = beam_settings("beam" if config.tune and config.decoder == "greedy" else config.decoder, config.beam)
    beam = None if settings is None else BeamDecoder(vocabulary, settings)
    normalizer = config.normalizer or recognizer.model.normalizer
    spoken = [normalize(reference, normalizer) for reference in references.values()]
    unknown = sum((vocabulary.unknown_characters(text) for text in spoken), Counter[str]())
    in_phonemes = vocabulary.pronunciations is not None and (beam is None or not beam.uses_lexicon)
    if in_phonemes:
        references, normalizer = dict(zip(references, map(vocabulary.written, spoken), strict=True)), "none"
    elif vocabulary.policy is not None and config.normalizer is None:
        references = dict(zip(references, map(vocabulary.policy.apply, spoken), strict=True))
    tuning = None
    if config.tune:
        assert beam is not None
        outputs = collect_outputs(recognizer, manifest, batch_seconds=config.batch_seconds, progress=progress)
        for name, reason in outputs.failed.items():
            logger.warning("%s counts as not recognised: %s", name, reason)
        tuning = tune(beam, outputs, references, normalizer=normalizer, progress=progress)
        beam = tuning.decoder
        found, failed = decode_outputs(beam.decode, outputs), dict(outputs.failed)
    else:
        recognizer.decoder = None if beam is None else beam.decode
        found, failed = _recognize(recognizer, manifest, batch_seconds=config.batch_seconds, progress=progress)
    texts = [normalize(reference, normalizer) for reference in references.values()]
    outside = None if beam is None or not beam.uses_lexicon else _num_outside(texts, beam)
    details = {
        "decoder": "greedy" if beam is None else "beam",
        "beam": None if beam is None else to_dict(beam.config),
        "unknown_characters": dict(unknown.most_common()),
        "num_unknown_characters": unknown.total(),
        "num_out_of_lexicon": outside,
        "compared": "phonemes" if in_phonemes else "words",
        "text_policy": None if vocabulary.policy is None else asdict(vocabulary.policy),
        "checkpoint": str(config.checkpoint),
        "model_directory": _model_name(config.checkpoint),
    }
    return _Answers(
        texts={name: found[name].text if name in found else "" for name in references}, references=references,
        normalizer=normalizer, details=details, failed=failed, unknown_characters=unknown, num_out_of_lexicon=outside,
        beam=None if beam is None else beam.config, tuning=tuning, found=found,
    )  # fmt: skip


def _num_outside(texts: list[str], beam: BeamDecoder) -> int:
    """Words that the search's lexicon lacks."""
    return sum(not beam.can_write(word) for text in texts for word in text.split())


def _save_nbest(found: Mapping[str, Hypothesis], directory: Path) -> None:
    """One line a hypothesis: `score` is what they are ranked by, `lm_log10` the language model's share before its
    weight.
    """
    with writing(directory / NBEST_FILE) as file:
        for name, best in found.items():
            for rank, one in enumerate((best, *best.alternatives), start=1):
                scores = {"acoustic": one.log_probability, "lm_log10": one.lm_log10, "score": one.score}
                file.write(
                    json.dumps({"id": name, "rank": rank, "text": one.text, **scores}, ensure_ascii=False) + "\n"
                )


def _save_tuning(tuning: Tuning, directory: Path, details: Mapping[str, Any]) -> None:
    names = ("checkpoint", "model_directory", "manifest", "manifest_fingerprint")
    facts = {
        "tuned_on": {name: details[name] for name in names},
        "wer": tuning.best.wer,
        "cer": tuning.best.cer,
        "trials": [asdict(trial) for trial in tuning.trials],
    }
    write_settings(directory / DECODER_FILE, tuning.decoder.config, facts)


def _model_name(checkpoint: str) -> str:
    """The model directory that a run stood for; of another tool's model the name as it was given."""
    if identify(checkpoint) != "speechssl":
        return checkpoint
    return resolve_model_directory(checkpoint).resolve().name


def _recognize(
    recognizer: SpeechRecognizer, manifest: Manifest, *, batch_seconds: float, progress: Progress | None
) -> tuple[dict[str, Hypothesis], dict[str, str]]:
    """Hypotheses by id, and the reasons where audio could not be used."""
    hypotheses: dict[str, Hypothesis] = {}
    failed: dict[str, str] = {}

    def note(utterance: Utterance, error: AudioError) -> None:
        failed[utterance.id] = str(error)
        logger.warning("%s counts as not recognised: %s", utterance.id, error)

    for batch in iterate_once(
        manifest,
        batch_seconds=batch_seconds,
        sample_rate=recognizer.sample_rate,
        min_num_samples=receptive_field(recognizer.model.encoder.strided_layers),
        on_error=note,
    ):
        hypotheses.update(zip(batch.utterance_ids, recognizer.recognize_batch(batch), strict=True))
        if progress is not None:
            progress(len(hypotheses) + len(failed), len(manifest))
    return hypotheses, failed
