"""Train an n-gram language model from texts: read, leave out what is tested on, count, smooth, write, measure."""

import gzip
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from speechssl.asr import VOCABULARY_FILE, load_vocabulary
from speechssl.ctc.ngram.arpa import write_arpa
from speechssl.ctc.ngram.counts import build_vocabulary, count_ngrams, number_text
from speechssl.ctc.ngram.kneser_ney import train_model
from speechssl.ctc.ngram.overlap import find_overlaps
from speechssl.ctc.ngram.score import TextScore, score_text
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest
from speechssl.model_directory import resolve_model_directory
from speechssl.progress import Progress
from speechssl.text import WORD_SEPARATOR, NormalizerName, TextPolicy, Vocabulary, normalize, normalizer_version

logger = logging.getLogger(__name__)

MANIFEST_SUFFIXES = {".jsonl", ".json", ".parquet"}
REPORT_SUFFIX = ".json"

Units = Literal["words", "characters", "labels"]


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """What to learn from and how.

    Attributes:
        text: text files, one sentence a line (also .gz), and manifests, whose texts are read.
        output: the ARPA file to write; a report on it goes beside it with .json added.
        order: words of the longest n-grams.
        units: words; characters, with | between words; or labels, the units of the recogniser in `vocabulary`. The
            last two are for the search without a lexicon.
        vocabulary: a recogniser's run, model directory or vocab.json: for the units labels, and wherever its texts
            have a policy of their own (Unicode form, case, punctuation), which is applied after the normaliser.
        normalizer: how texts are normalised: none, lowercase, letters, basic or english; as the recogniser's were.
        column: the manifests' column with the text.
        min_word_count: rarer words are counted as the unknown word.
        min_counts: occurrences that an n-gram needs to be kept, for the orders 1 (always 1), 2 and so on; the last
            holds for higher orders.
        exclude: manifests or text files to be tested on: sentences of them, and lines that hold one of four words or
            more, are left out.
        heldout: a manifest or text file to measure perplexity and unknown words on.
    """

    text: tuple[Path, ...]
    output: Path
    order: int = 3
    units: Units = "words"
    vocabulary: Path | None = None
    normalizer: NormalizerName = "letters"
    column: str = "text"
    min_word_count: int = 1
    min_counts: tuple[int, ...] = ()
    exclude: tuple[Path, ...] = ()
    heldout: Path | None = None

    def __post_init__(self) -> None:
        if not self.text:
            raise ConfigError("text must name at least one text file or manifest, but is empty")
        if not 2 <= self.order <= 10:
            raise ConfigError(f"order must be between 2 and 10, but is {self.order}")
        if self.min_word_count < 1:
            raise ConfigError(f"min_word_count must be at least 1, but is {self.min_word_count}")
        counts = self.min_counts
        if counts and (counts[0] != 1 or list(counts) != sorted(counts) or len(counts) > self.order):
            raise ConfigError(
                f"min_counts must begin with 1, never fall and hold at most {self.order} numbers, but is {list(counts)}"
            )
        if self.units == "labels" and self.vocabulary is None:
            raise ConfigError("the units labels are those of a recogniser: give it as vocabulary")


@dataclass(frozen=True, kw_only=True)
class LanguageModelResult:
    """What was written and how good it is.

    `left_out` counts lines by reason; `overlap` the held-out sentences that are in the training text too.
    """

    output: Path
    num_sentences: int
    num_tokens: int
    num_words: int
    num_ngrams: tuple[int, ...]
    discounts: tuple[tuple[float, float, float], ...]
    discounts_estimated: tuple[bool, ...]
    left_out: Mapping[str, int]
    training: TextScore
    heldout: TextScore | None
    overlap: int


def run(config: LanguageModelConfig, *, progress: Progress | None = None) -> LanguageModelResult:
    """Train and write the model; `progress` is told the source files read and their number.

    Raises:
        ConfigError: a file cannot be read, or nothing is left to learn from.
        ManifestError: a manifest cannot be read, or has no such column.
    """
    left_out: Counter[str] = Counter()
    lines: list[str] = []
    recognizer = None if config.vocabulary is None else _load_vocabulary(config.vocabulary)
    policy = None if recognizer is None else recognizer.policy
    for done, source in enumerate(config.text, start=1):
        lines += _normalized(source, config, policy, left_out)
        if progress is not None:
            progress(done, len(config.text))
    tested = {line for source in config.exclude for line in _normalized(source, config, policy, Counter())}
    if tested:
        overlaps = find_overlaps(lines, tested)
        left_out.update(overlaps.values())
        lines = [line for row, line in enumerate(lines) if row not in overlaps]
    if not lines:
        raise ConfigError(f"no sentence is left to learn from; left out: {dict(left_out) or 'nothing was read'}")
    split = _splitter(config.units, recognizer, left_out)
    sentences = _sentences(lines, split)
    vocabulary = build_vocabulary(sentences, min_count=config.min_word_count)
    text = number_text(sentences, vocabulary)
    counts = count_ngrams(text, order=config.order, vocabulary_size=len(vocabulary))
    model = train_model(counts, vocabulary, min_counts=config.min_counts)
    for order, known in enumerate(model.estimated, start=1):
        if not known:
            logger.warning("the text is too small to estimate the discounts of order %d; fixed ones are used", order)
    write_arpa(model, config.output)
    heldout, overlap = None, 0
    if config.heldout is not None:
        held = list(_normalized(config.heldout, config, policy, Counter()))
        overlap = len({held[row] for row in find_overlaps(held, set(lines), whole=True)})
        if overlap:
            logger.warning(
                "%s: %d of its sentences are in the training text too, so the perplexity is too good; leave them out by"
                " --exclude %s",
                config.heldout,
                overlap,
                config.heldout,
            )
        heldout = score_text(model, number_text(_sentences(held, split), vocabulary))
    result = LanguageModelResult(
        output=config.output,
        num_sentences=text.num_sentences,
        num_tokens=text.num_predicted - text.num_sentences,
        num_words=len(vocabulary) - 3,
        num_ngrams=tuple(len(order.word) for order in model.orders),
        discounts=tuple(tuple(map(float, values)) for values in model.discounts),  # type: ignore[misc]
        discounts_estimated=model.estimated,
        left_out=dict(left_out),
        training=score_text(model, text),
        heldout=heldout,
        overlap=overlap,
    )
    _write_report(config, result)
    return result


def report_path(output: Path) -> Path:
    """Where the report on a model stands."""
    return output.with_name(output.name + REPORT_SUFFIX)


def _normalized(
    source: Path, config: LanguageModelConfig, policy: TextPolicy | None, left_out: Counter[str]
) -> Iterator[str]:
    for line in _lines(source, config.column):
        text = normalize(line or "", config.normalizer)
        text = text if policy is None else policy.apply(text)
        if text:
            yield text
        else:
            left_out["empty"] += 1


def _lines(source: Path, column: str) -> Iterable[str | None]:
    if source.suffix.lower() in MANIFEST_SUFFIXES:
        texts: list[str | None] = Manifest.load(source).column(column).to_pylist()
        return texts
    return _text_lines(source)


def _text_lines(source: Path) -> Iterator[str]:
    try:
        zipped = source.suffix.lower() == ".gz"
        with gzip.open(source, "rt", encoding="utf-8") if zipped else source.open(encoding="utf-8") as file:
            yield from file
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise ConfigError(f"{source}: cannot be read as UTF-8 text: {error}; give a text file or a manifest") from error


def _splitter(units: Units, vocabulary: Vocabulary | None, left_out: Counter[str]) -> Callable[[str], Sequence[str]]:
    """What makes a sentence's units of its text."""
    if units == "words":
        return str.split
    if units == "characters":
        return lambda text: list(text.replace(" ", WORD_SEPARATOR))
    assert vocabulary is not None
    names = vocabulary.unit_names

    def labels(text: str) -> list[str]:
        lacking = vocabulary.unknown_characters(text).total()
        if lacking:
            left_out["characters without a label"] += lacking
        return [names[label] for label in vocabulary.encode(text, skip_unknown=True)]

    return labels


def _load_vocabulary(source: Path) -> Vocabulary:
    return load_vocabulary(source if source.is_file() else resolve_model_directory(source) / VOCABULARY_FILE)


def _sentences(lines: Sequence[str], split: Callable[[str], Sequence[str]]) -> pa.ListArray:
    return pa.array([split(line) for line in lines], pa.list_(pa.string()))


def _write_report(config: LanguageModelConfig, result: LanguageModelResult) -> None:
    content = {
        **{key: value for key, value in asdict(result).items() if key != "output"},
        "unknown_rate": None if result.heldout is None else result.heldout.unknown_rate,
        "order": config.order,
        "units": config.units,
        "normalizer": config.normalizer,
        "normalizer_version": normalizer_version(config.normalizer),
        "min_word_count": config.min_word_count,
        "min_counts": list(config.min_counts),
        "text": [str(path) for path in config.text],
        "exclude": [str(path) for path in config.exclude],
        "heldout_source": None if config.heldout is None else str(config.heldout),
    }
    report_path(config.output).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
