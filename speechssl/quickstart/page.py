"""The quickstart's report page."""

import platform
from pathlib import Path

import pyarrow.compute as pc

from speechssl import __version__
from speechssl.embed import read_embeddings
from speechssl.errors import ConfigError
from speechssl.quickstart.arms import QUICKSTART, SCRATCH, Arm
from speechssl.quickstart.corpus import Parts
from speechssl.quickstart.settings import QuickstartConfig, QuickstartResult, Trial
from speechssl.report import (
    Highlight,
    Section,
    curves_section,
    data_section,
    embeddings_section,
    note,
    paragraph,
    probe_section,
    section,
    table,
    wer_section,
    write_report,
)
from speechssl.run_report import environment, pretraining_sections

_STEP_TITLES = {
    "data": "preparing the audio",
    "pretrain": "pre-training",
    "finetune": "fine-tuning all arms",
    "evaluate": "error rates",
    "probe": "probes",
    "embed": "embeddings",
}


def write_page(
    config: QuickstartConfig,
    result: QuickstartResult,
    parts: Parts,
    *,
    run_directory: Path,
    embedded_with: Arm,
    embeddings: Path,
) -> Path:
    """Write `report.html` with everything the quickstart found."""
    sections = [_overview(result, parts), data_section(parts.everything())]
    if labelled := parts.labelled():
        sections.append(data_section(labelled, title="Transcribed data for fine-tuning"))
    sections.append(curves_section(run_directory, title="Pre-training"))
    sections += pretraining_sections(run_directory, parts.dev)
    if result.errors:
        chosen = {trial.arm: trial for trial in result.trials if trial.chosen}
        sections.append(_sweep(result.trials))
        sections.append(curves_section({arm: trial.folder for arm, trial in chosen.items()}, title="Fine-tuning"))
        baseline = SCRATCH if SCRATCH in result.errors else None
        text = "All arms saw the same labels for the same number of updates; each has its own best learning rate."
        sections.append(wer_section(result.errors, title="Word errors on the test part", baseline=baseline, text=text))
    if result.probes:
        sections.append(probe_section(list(result.probes), title="Probes of frozen encoders"))
    sections.append(_embeddings(embedded_with, embeddings))
    facts = {"speechssl": __version__, "Python": platform.python_version(), **environment(run_directory)}
    subtitle = "The voice prompts" if config.audio is None else f"The recordings in {config.audio}"
    return write_report(
        result.report,
        "speechssl quickstart",
        f"{subtitle}: pre-training, fine-tuning, evaluation, probes and embeddings",
        sections,
        environment=facts,
        highlights=_highlights(result, parts),
    )


def _highlights(result: QuickstartResult, parts: Parts) -> list[Highlight]:
    train = parts.everything()["train"]
    cards = [Highlight(label="audio to pre-train on", value=f"{train.total_seconds / 60:.0f} min")]
    for arm, errors in result.errors.items():
        low, high = errors.wer_interval
        cards.append(
            Highlight(
                label=f"WER, {arm}",
                value=f"{100 * errors.wer:.1f} %",
                note=f"{100 * low:.1f} – {100 * high:.1f} %; CER {100 * errors.cer:.1f} %",
            )
        )
    return cards


def _overview(result: QuickstartResult, parts: Parts) -> Section:
    times = [(_STEP_TITLES[name], f"{seconds / 60:.1f} min") for name, seconds in result.seconds.items()]
    markup = [table(("Step", "Time"), times)]
    markup += [paragraph(text) for text in parts.notes]
    if result.left_out:
        markup.append(note("Left out: " + "; ".join(result.left_out)))
    return section("Overview", *markup)


def _sweep(trials: tuple[Trial, ...]) -> Section:
    rows = [
        (
            trial.arm + (" ✓" if trial.chosen else ""),
            f"{trial.learning_rate:g}",
            None if trial.dev_cer is None else f"{100 * trial.dev_cer:.1f} %",
            None if trial.dev_wer is None else f"{100 * trial.dev_wer:.1f} %",
            trial.failure,
        )
        for trial in trials
    ]
    return section(
        "Learning rates tried",
        paragraph("The rate with the lowest character error rate on the dev part is taken (✓) and alone is tested."),
        table(("Arm", "Peak learning rate", "Dev CER", "Dev WER", "Failed because"), rows),
    )


def _embeddings(arm: Arm, path: Path) -> Section:
    found = read_embeddings(path)
    labels = {
        name: found.table.column(name).to_pylist()
        for name in ("language", "speaker")
        if name in found.table.column_names and pc.count(found.table.column(name)).as_py()
    }
    what = "the encoder pre-trained here" if arm.name == QUICKSTART else f"the {arm.name}"
    try:
        return embeddings_section(found.vectors, labels, source=f"{what}, mean over time, test part")
    except ConfigError as error:
        return section("Embeddings", note(f"No picture: {error}"))
