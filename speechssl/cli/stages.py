"""Commands that run a stage: configuration from the words, `run(config)`, and its result as text."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from speechssl.cli.options import stage_config
from speechssl.cli.output import clock, log_to_stderr, percent, percent_interval, progress_bar, say, table
from speechssl.cli.probe import show_probe
from speechssl.cli.profile import show_profile
from speechssl.errors import SpeechSSLError

if TYPE_CHECKING:
    from speechssl.quickstart import QuickstartResult
    from speechssl.training.dry_run import StepCost
    from speechssl.training.task import TrainingConfig, TrainingResult
    from speechssl.types import ErrorReport

Config = TypeVar("Config")

logger = logging.getLogger(__name__)

NO_REPORT = "--no_report"
DRY_RUN = "--dry_run"
PROFILE = "--profile"

EXAMPLES = {
    "quickstart": "speechssl quickstart\n"
    "speechssl quickstart --audio recordings/ --transcripts texts.tsv --output runs/mine",
    "pretrain": "speechssl pretrain --preset tiny --manifests train.jsonl --run_directory runs/tiny"
    " --training.max_steps 2000\n"
    "speechssl pretrain --config pretrain.yaml --training.optim.peak_lr 5e-4",
    "finetune": "speechssl finetune --pretrained speechssl-tiny --train_manifest train.jsonl --valid_manifest dev.jsonl"
    " --run_directory runs/asr\nspeechssl finetune --config finetune.yaml --training.optim.peak_lr 1e-4",
    "evaluate": "speechssl evaluate --checkpoint runs/asr --manifest test.jsonl --output runs/asr/test\n"
    "speechssl evaluate --checkpoint runs/asr --manifest dev.jsonl --output runs/asr/dev --tune"
    " --beam.language_model lm.arpa\n"
    "speechssl evaluate --checkpoint runs/asr --manifest test.jsonl --decoder runs/asr/dev/decoder.json\n"
    "speechssl evaluate --hypotheses other_tool.ctm --manifest test.jsonl --output other/ --normalizer english",
    "report": "speechssl report runs/tiny",
}


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `speechssl report`.

    Attributes:
        run: a run directory of pre-training or fine-tuning.
        output: the page to write; report.html in the run directory when null.
    """

    run: Path
    output: Path | None = None


def quickstart(words: list[str]) -> int:
    """The whole pipeline."""
    from speechssl.quickstart import QuickstartConfig, run

    config = _config("quickstart", QuickstartConfig, words, "The whole pipeline on real speech, or on your recordings.")
    if config is None:
        return 0
    result = run(config)
    _show_quickstart(result)
    return 0


def pretrain(words: list[str]) -> int:
    """Train an encoder on unlabelled audio."""
    from speechssl.pretrain import PretrainConfig, dry_run, run

    return _train("pretrain", "Train an encoder on unlabelled audio", PretrainConfig, run, dry_run, words)


def finetune(words: list[str]) -> int:
    """Train a recogniser on transcribed audio."""
    from speechssl.finetune import FinetuneConfig, dry_run, run

    return _train("finetune", "Train a recogniser with CTC on transcribed audio", FinetuneConfig, run, dry_run, words)


def evaluate(words: list[str]) -> int:
    """Word and character error rates."""
    from speechssl.cli.evaluation import show_breakdowns, write_page
    from speechssl.evaluate import EvaluateConfig, run
    from speechssl.text import describe_characters

    words, with_report = _take_flag(words, NO_REPORT)
    summary = (
        "Word and character error rates of a recogniser, or of another tool's hypotheses, on a manifest. With --output"
        f" also a page, report.html, without it by {NO_REPORT}."
    )
    config = _config("evaluate", EvaluateConfig, words, summary)
    if config is None:
        return 0
    with progress_bar("evaluating") as progress:
        result = run(config, progress=progress)
    report = result.report
    rows = [
        ("WER", percent(report.wer, 2), percent_interval(report.wer_interval)),
        ("CER", percent(report.cer, 2), percent_interval(report.cer_interval)),
    ]
    system = config.checkpoint or str(config.hypotheses)
    table(f"{system} on {config.manifest}", ("", "rate", f"{100 * report.confidence:g} % interval"), rows)
    decoder = "of another tool" if config.checkpoint is None else "greedy" if result.beam is None else "beam"
    say(
        f"{len(report.utterances)} utterances, {report.hits} words right, {report.substitutions} substituted,"
        f" {report.deletions} deleted, {report.insertions} inserted; normaliser {report.normalizer}"
        f" ({report.normalizer_version}); decoder {decoder}; intervals over {report.interval_over}"
    )
    if result.unknown_characters:
        lacking = describe_characters(result.unknown_characters)
        say(f"the vocabulary lacks {sum(result.unknown_characters.values())} characters of the references: {lacking}")
    if result.num_out_of_lexicon:
        total = sum(utterance.num_words for utterance in report.utterances)
        say(f"the lexicon lacks {result.num_out_of_lexicon} of the {total} words of the references")
    if result.tuning is not None:
        best = result.tuning.best
        say(
            f"best of {len(result.tuning.trials)} trials: lm_weight {best.lm_weight:g}, word_score {best.word_score:g};"
            f" use them by --decoder {config.output}/decoder.json; on data that they were chosen by, rates are too low"
        )
    if result.failed:
        say(f"{len(result.failed)} recordings could not be used; all their words count as deleted")
    show_breakdowns(result.breakdowns)
    if result.directory is not None:
        say(f"written: {result.directory / 'result.json'}, {result.directory / 'utterances.csv'}")
        if with_report:
            say(f"report: {write_page(config, result, system)}")
    return 0


def report(words: list[str]) -> int:
    """One HTML page about a run."""
    options = _config("report", ReportOptions, words, "One self-contained HTML page about a run.", ("run",))
    if options is None:
        return 0
    from speechssl.run_report import report_run

    say(f"written: {report_run(options.run, output=options.output)}")
    return 0


def _config(
    command: str, config_class: type[Config], words: Sequence[str], summary: str, positionals: Sequence[str] = ()
) -> Config | None:
    log_to_stderr()
    return stage_config(
        command, config_class, words, example=EXAMPLES[command], summary=summary, positionals=positionals
    )


def _show_dry_run(cost: "StepCost", training: "TrainingConfig") -> int:
    hours = training.max_steps * training.accumulation_steps * cost.seconds / 3600
    rows = [
        ("weights", f"{cost.num_parameters / 1e6:.1f} M, {cost.num_trained_parameters / 1e6:.1f} M of them trained"),
        ("a batch", f"{cost.batch_seconds:.1f} s of audio, {cost.seconds:.2f} s forward and backward"),
        ("memory", f"{cost.memory_bytes / 1e9:.2f} GB"),
        ("all updates", f"{training.max_steps} of {training.accumulation_steps} batches: about {clock(3600 * hours)}"),
    ]
    table("dry run", ("", ""), rows, right=False)
    say("nothing was trained: the manifests, every recording and the models are there, and a batch runs")
    return 0


def _show_training(what: str, run: Path, training: "TrainingResult", num_left_out: int) -> None:
    names = ("loss", "accuracy", "code_perplexity", "valid_loss", "valid_accuracy", "valid_wer", "valid_cer")
    rows = [(name.replace("_", " "), f"{training.metrics[name]:.4g}") for name in names if name in training.metrics]
    table(f"{what}: {training.steps} updates in {clock(training.seconds)}", ("metric", "last value"), rows)
    say(f"audio seen: {clock(training.audio_seconds)}; model: {training.best_checkpoint or training.last_checkpoint}")
    if num_left_out:
        say(f"{num_left_out} utterances were left out; the log and the run directory say why")
    for diagnosis in training.diagnoses:
        say(f"monitor, update {diagnosis.step}: {diagnosis.message}")
    if training.stopped_because != "max_steps":
        say(f"stopped early: {training.stopped_because.replace('_', ' ')}; {run}")


def _train(
    name: str, what: str, declared: type[Any], run: Callable[..., Any], dry_run: Callable[[Any], Any], words: list[str]
) -> int:
    """The command `name`: train, or only try to."""
    from speechssl.training.profiling import Profiler
    from speechssl.training.together import is_first

    words, with_report = _take_flag(words, NO_REPORT)
    words, trains = _take_flag(words, DRY_RUN)
    words, is_plain = _take_flag(words, PROFILE)
    summary = (
        f"{what}; resumes by itself. Ends with report.html, without it by {NO_REPORT}. {DRY_RUN} checks data, memory"
        f" and every path without training. Processes of torchrun train one model. {PROFILE} shows where updates go."
    )
    config = _config(name, declared, words, summary)
    if config is None:
        return 0
    if not trains:
        return _show_dry_run(dry_run(config), config.training) if is_first() else 0
    if not is_first():
        return _train_along(run, config)
    profiler = None if is_plain else Profiler(num_workers=config.data.num_workers)
    result = run(config, profiler=profiler)
    show_profile(profiler)
    kind = "pre-training" if name == "pretrain" else "fine-tuning"
    _show_training(kind, config.run_directory, result.training, len(result.left_out))
    return _finish_training(config.run_directory, result.training, with_report=with_report)


def _train_along(run: Callable[[Any], Any], config: Any) -> int:
    """Train as one of several processes of which another shows what becomes of it."""
    log_to_stderr(logging.WARNING)
    training: TrainingResult = run(config).training
    return 128 + (training.signal_number or 2) if training.stopped_because == "signal" else 0


def _finish_training(run: Path, training: "TrainingResult", *, with_report: bool) -> int:
    """Exit code; a run that came to its end gets its page, whose failure is no reason to fail the run."""
    if training.stopped_because == "signal":
        return 128 + (training.signal_number or 2)
    if with_report:
        from speechssl.run_report import report_run

        try:
            say(f"report: {report_run(run)}")
        except (SpeechSSLError, OSError) as error:
            logger.warning("no report: %s", error)
    return 0


def _take_flag(words: list[str], flag: str) -> tuple[list[str], bool]:
    """The words without `flag`, and whether it was absent."""
    return [word for word in words if word != flag], flag not in words


def _show_quickstart(result: "QuickstartResult") -> None:
    if result.trials:
        rows = [
            (
                trial.arm + (" *" if trial.chosen else ""),
                f"{trial.learning_rate:g}",
                percent(trial.dev_cer),
                percent(trial.dev_wer) or "failed",
            )
            for trial in result.trials
        ]
        table("learning rates tried (* best on dev)", ("arm", "peak rate", "dev CER", "dev WER"), rows)
    if result.errors:
        _show_errors(result.errors)
    for probe_result in result.probes:
        show_probe(probe_result)
    for text in result.left_out:
        say(f"left out: {text}")
    say(f"took {clock(sum(result.seconds.values()))}; report: {result.report}")


def _show_errors(errors: Mapping[str, "ErrorReport"]) -> None:
    rows = [
        (
            arm,
            percent(report.wer),
            percent_interval(report.wer_interval),
            percent(report.cer),
            percent_interval(report.cer_interval),
        )
        for arm, report in errors.items()
    ]
    first = next(iter(errors.values()))
    count, rule, confidence = len(first.utterances), first.normalizer, 100 * first.confidence
    table(
        f"test: {count} utterances, normaliser {rule}, {confidence:g} % intervals", ("arm", "WER", "", "CER", ""), rows
    )
