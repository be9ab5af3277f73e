"""The page of an evaluation: rates, groups, confusions, and the utterances word by word, to sort and to listen to."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from speechssl import audio
from speechssl.errors import AudioError
from speechssl.manifest import Manifest
from speechssl.report.page import Cell, Highlight, Section, escape, paragraph, section, table, write_report
from speechssl.report.player import SAMPLE_RATE, player
from speechssl.report.sorting import SCRIPT
from speechssl.report.word_errors import KINDS, aligned, interval_text, percent
from speechssl.scoring import Breakdown, GroupErrors, count_confusions
from speechssl.types import ErrorReport, UtteranceErrors

MAX_UTTERANCES = 400
"""The worst are shown in full; utterances.csv has all."""
MAX_PLAYED_SECONDS = 20.0
"""Longer recordings are not put into the page."""
AUDIO_BYTES = 1_500_000
"""Recordings are put in, the worst utterances' first, until the page holds so much audio."""
NUM_CONFUSIONS = 25
MAX_GROUPS = 60

SORT_KEYS = {"errors": "errors", "rate": "WER", "charErrors": "character errors", "words": "words", "place": "order"}


def write_evaluation_page(
    path: str | Path,
    report: ErrorReport,
    *,
    title: str,
    subtitle: str,
    breakdowns: Sequence[Breakdown] = (),
    manifest: Manifest | None = None,
    facts: Mapping[str, object] | None = None,
) -> Path:
    """Write the page as one HTML file that needs nothing else.

    Recordings come from `manifest`, where it is given: whole, as long as they are short and the page stays small; one
    that cannot be read is left out, and the page says how many. `facts` are shown folded away.
    """
    sections = [
        _rates_section(report),
        *breakdown_sections(breakdowns),
        confusions_section(report),
        _utterances_section(report, manifest),
    ]
    highlights = [
        Highlight(label="WER", value=percent(report.wer), note=interval_text(report.wer_interval)),
        Highlight(label="CER", value=percent(report.cer), note=interval_text(report.cer_interval)),
        Highlight(
            label="Utterances without an error",
            value=percent(sum(not one.word_errors for one in report.utterances) / len(report.utterances)),
            note=f"of {len(report.utterances):,}",
        ),
    ]
    return write_report(
        path, title, subtitle, sections, environment=facts, highlights=highlights, script=SCRIPT
    )  # fmt: skip


def how_measured(report: ErrorReport) -> str:
    """What a rate means nothing without: normaliser, alignment, interval."""
    version = f" ({report.normalizer_version})" if report.normalizer_version else ""
    weights = "fewest errors" if report.alignment == "levenshtein" else "the weights of sclite"
    return (
        f"{len(report.utterances):,} utterances, normaliser “{report.normalizer}”{version}, aligned by {weights};"
        f" intervals at {100 * report.confidence:g} % by bootstrap over {report.interval_over}."
    )


def _rates_section(report: ErrorReport) -> Section:
    num_words = sum(one.num_words for one in report.utterances)
    num_chars = sum(one.num_chars for one in report.utterances)
    rows: list[list[Cell]] = [
        ["words", percent(report.wer, 2), interval_text(report.wer_interval), num_words, report.substitutions,
         report.deletions, report.insertions],
        ["characters", percent(report.cer, 2), interval_text(report.cer_interval), num_chars, None, None, None],
    ]  # fmt: skip
    headers = ["", "error rate", "interval", "in the references", "wrong", "missing", "extra"]
    return section("Error rates", table(headers, rows, caption=how_measured(report)))


def breakdown_sections(breakdowns: Iterable[Breakdown]) -> list[Section]:
    """One section with a table for each column, or none."""
    parts = [_breakdown_table(one) for one in breakdowns]
    return [section("Groups", *parts)] if parts else []


def _breakdown_table(breakdown: Breakdown) -> str:
    headers = ["group", "WER", "interval", "CER", "utterances", "words", "wrong", "missing", "extra"]
    rows = [_group_row(group) for group in breakdown.groups[:MAX_GROUPS]]
    left = len(breakdown.groups) - len(rows)
    more = f" {left} smaller groups are in breakdown.csv." if left > 0 else ""
    caption = f"By {breakdown.column}; a click on a header sorts.{more}"
    return f"<h3>{escape(breakdown.column)}</h3>" + table(headers, rows, caption=caption, sortable=True)


def _group_row(group: GroupErrors) -> list[Cell]:
    return [
        group.name,
        None if group.wer is None else percent(group.wer),
        None if group.wer_interval is None else interval_text(group.wer_interval),
        None if group.cer is None else percent(group.cer),
        group.num_utterances,
        group.num_words,
        group.substitutions,
        group.deletions,
        group.insertions,
    ]


def confusions_section(report: ErrorReport) -> Section:
    """The most frequent wrong, missing and extra words."""
    found = count_confusions(report)
    if not (found.substitutions or found.deletions or found.insertions):
        return section("Confusions", paragraph("No word was wrong."))
    wrong: list[list[Cell]] = [
        [said, heard, count, found.num_said[said]]
        for (said, heard), count in islice(found.substitutions.items(), NUM_CONFUSIONS)
    ]
    missing: list[list[Cell]] = [
        [word, count, found.num_said[word]] for word, count in islice(found.deletions.items(), NUM_CONFUSIONS)
    ]
    extra: list[list[Cell]] = [[word, count] for word, count in islice(found.insertions.items(), NUM_CONFUSIONS)]
    caption = f"The most frequent {NUM_CONFUSIONS} of each kind; confusions.csv has all."
    return section(
        "Confusions",
        '<div class="panels">',
        table(["said", "heard", "times", "said in all"], wrong, caption=caption, sortable=True),
        table(["missing", "times", "said in all"], missing, sortable=True),
        table(["extra", "times"], extra, sortable=True),
        "</div>",
    )


def _utterances_section(report: ErrorReport, manifest: Manifest | None) -> Section:
    order = sorted(range(len(report.utterances)), key=lambda place: (-report.utterances[place].word_errors, place))
    shown = order[:MAX_UTTERANCES]
    players, num_unreadable = _players([report.utterances[place] for place in shown], manifest)
    cards = "".join(_card(report.utterances[place], place, players) for place in shown)
    left = len(order) - len(shown)
    text = f"The {len(shown)} with the most errors; the other {left} are in utterances.csv." if left else ""
    if num_unreadable:
        text = f"{text} {num_unreadable} recordings cannot be read and have no sound.".strip()
    key = "".join(f'<span class="word {kind}"><span>{name}</span></span>' for kind, name in KINDS.items())
    buttons = "".join(f'<button type="button" value="{key}">{label}</button>' for key, label in SORT_KEYS.items())
    return section(
        "Utterances",
        paragraph(text) if text else "",
        f'<p class="key words">Reference above, hypothesis below: {key}</p>',
        f'<div class="cards"><p class="sort-by">Sort by {buttons}</p>{cards}</div>',
    )


def _card(one: UtteranceErrors, place: int, players: Mapping[str, str]) -> str:
    rate = one.word_errors / one.num_words if one.num_words else float(one.word_errors > 0)
    speaker = f", {escape(one.speaker)}" if one.speaker else ""
    return (
        f'<div class="utterance" data-errors="{one.word_errors}" data-rate="{rate:.4f}" data-words="{one.num_words}"'
        f' data-char-errors="{one.char_errors}" data-place="{place}"><h4>{escape(one.id)}{speaker}:'
        f" {one.word_errors} errors in {one.num_words} words, {one.char_errors} in {one.num_chars} characters</h4>"
        f"{players.get(one.id, '')}{aligned(one.alignment)}</div>"
    )


def _players(utterances: Sequence[UtteranceErrors], manifest: Manifest | None) -> tuple[dict[str, str], int]:
    """Players by id as far as there is room, and how many recordings could not be read."""
    if manifest is None:
        return {}, 0
    rows = {str(name): row for row, name in enumerate(manifest.column("id").to_pylist())}
    found: dict[str, str] = {}
    left, num_unreadable = AUDIO_BYTES, 0
    for one in utterances:
        if left <= 0:
            break
        utterance = manifest[rows[one.id]]
        if utterance.duration > MAX_PLAYED_SECONDS:
            continue
        try:
            waveform = audio.read_utterance(utterance, SAMPLE_RATE)
        except AudioError:
            num_unreadable += 1
            continue
        markup = player(
            waveform, sample_rate=SAMPLE_RATE, label=f"recording of {one.id}", max_seconds=MAX_PLAYED_SECONDS
        ).html
        left -= len(markup)
        found[one.id] = markup
    return found, num_unreadable
