"""Hypotheses that another tool wrote: JSON Lines, CSV or TSV, NIST's trn and ctm."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest

ID_KEYS = ("id", "utterance_id", "utt_id", "uttid")
TEXT_KEYS = ("hypothesis", "pred_text", "prediction", "hyp", "text")
PATH_KEY = "audio_filepath"


@dataclass(frozen=True, kw_only=True)
class HypothesesFile:
    """`texts` by utterance id, for exactly the utterances of the manifest where the file is `complete`.

    `num_silent` utterances have no line in a ctm, which is how that format says that nothing was recognised;
    `num_outside` words of a ctm lie in no utterance of their recording and were left out.
    """

    texts: Mapping[str, str]
    num_silent: int = 0
    num_outside: int = 0


def read_hypotheses(path: str | Path, manifest: Manifest) -> HypothesesFile:
    """The hypotheses in a file, whose kind follows from its name: `.jsonl`, `.csv`, `.tsv`, `.trn` or `.ctm`.

    JSON Lines and tables name the utterance by `id` (`utterance_id`, `utt_id`, or by `audio_filepath` as in the
    manifest) and what was recognised by `hypothesis`, `pred_text`, `prediction`, `hyp` or `text`: the first that is
    there. A trn has `words (id)` on each line. A ctm has `name channel start seconds word` on each line; the name is
    that of an utterance, or that of a recording without its ending, whose words go to the utterance in which their
    middle lies.

    Raises:
        ManifestError: the file cannot be read, a line is not understood (it is named), or an utterance occurs twice.
    """
    path = Path(path)
    readers: Mapping[str, Callable[[Path, Manifest], HypothesesFile]] = {
        ".jsonl": _read_jsonl,
        ".csv": _read_table,
        ".tsv": _read_table,
        ".trn": _read_trn,
        ".ctm": _read_ctm,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ManifestError(f"{path}: hypotheses must be a file ending in {', '.join(readers)}, but it is not")
    try:
        return reader(path, manifest)
    except FileNotFoundError:
        raise ManifestError(f"{path}: there is no such file of hypotheses") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: is not UTF-8 text: {error}; convert it first") from None


def _read_jsonl(path: Path, manifest: Manifest) -> HypothesesFile:
    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    values = json.loads(line)
                except ValueError as error:
                    raise ManifestError(f"{path}, line {number}: is no JSON: {error}") from None
                if not isinstance(values, dict):
                    raise ManifestError(f"{path}, line {number}: must be a JSON object, but is {line.strip()[:60]}")
                yield number, values

    return _from_rows(path, rows(), manifest)


def _read_table(path: Path, manifest: Manifest) -> HypothesesFile:
    with path.open(encoding="utf-8-sig", newline="") as file:
        is_tsv = path.suffix.lower() == ".tsv"
        reader = csv.DictReader(file, delimiter="\t" if is_tsv else ",", quoting=csv.QUOTE_NONE if is_tsv else 0)
        return _from_rows(path, ((reader.line_num, row) for row in reader), manifest)


def _from_rows(path: Path, rows: Iterator[tuple[int, Mapping[str, Any]]], manifest: Manifest) -> HypothesesFile:
    texts: dict[str, str] = {}
    by_path: dict[str, str] | None = None
    for number, row in rows:
        where = f"{path}, line {number}"
        text_key = next((key for key in TEXT_KEYS if key in row), None)
        if text_key is None:
            raise ManifestError(f"{where}: has no {' or '.join(TEXT_KEYS)}, only {', '.join(map(str, row))}")
        name = next((str(row[key]) for key in ID_KEYS if row.get(key) not in (None, "")), None)
        if name is None and row.get(PATH_KEY):
            by_path = by_path if by_path is not None else _ids_by_path(manifest)
            name = by_path.get(str(row[PATH_KEY])) or by_path.get(Path(str(row[PATH_KEY])).name)
            if name is None:
                raise ManifestError(f"{where}: no single utterance of the manifest has the audio {row[PATH_KEY]}")
        if name is None:
            raise ManifestError(f"{where}: names no utterance; give it as {' or '.join(ID_KEYS)}, or {PATH_KEY}")
        text = row[text_key]
        if text is not None and not isinstance(text, str):
            raise ManifestError(f"{where}: {text_key} must be text, but is {text!r}")
        _put(texts, name, text or "", where)
    return HypothesesFile(texts=texts)


def _ids_by_path(manifest: Manifest) -> dict[str, str]:
    """Utterance by audio path and by file name, where that is one utterance's alone."""
    found: dict[str, str] = {}
    doubled: set[str] = set()
    for utterance in manifest:
        for key in {utterance.audio_filepath, Path(utterance.audio_filepath).name}:
            if key in found:
                doubled.add(key)
            found[key] = utterance.id
    return {key: name for key, name in found.items() if key not in doubled}


def _read_trn(path: Path, manifest: Manifest) -> HypothesesFile:
    texts: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        match = re.fullmatch(r"(.*?)\(([^()]+)\)\s*", line)
        if match is None:
            raise ManifestError(f"{path}, line {number}: must be `words (utterance id)`, but is {line.strip()[:60]!r}")
        if re.search(r"\{.*/.*\}", match[1]):
            raise ManifestError(f"{path}, line {number}: holds alternatives {{a / b}}; write the one recognised")
        _put(texts, match[2].strip(), match[1].strip(), f"{path}, line {number}")
    return HypothesesFile(texts=texts)


def _read_ctm(path: Path, manifest: Manifest) -> HypothesesFile:
    words = _ctm_words(path)
    ids = [str(name) for name in manifest.column("id").to_pylist()]
    unplaced = words.keys() - set(ids)
    num_outside = 0
    if unplaced:
        segments: defaultdict[str, list[tuple[float, float, str]]] = defaultdict(list)
        for utterance in manifest:
            start = utterance.offset
            stem = Path(utterance.audio_filepath).stem
            segments[stem].append((start, start + utterance.duration, utterance.id))
        unknown = sorted(unplaced - segments.keys())
        if unknown:
            raise ManifestError(
                f"{path}: {len(unknown)} names are neither utterances nor recordings of the manifest, the first is"
                f" {unknown[0]!r}; evaluate the hypotheses with the manifest they come from"
            )
        for recording in unplaced:
            for middle, word in words.pop(recording):
                name = next((name for start, end, name in segments[recording] if start <= middle < end), None)
                if name is None:
                    num_outside += 1
                else:
                    words.setdefault(name, []).append((middle, word))
    texts = {name: " ".join(word for _, word in sorted(words.get(name, []), key=lambda pair: pair[0])) for name in ids}
    return HypothesesFile(texts=texts, num_silent=sum(name not in words for name in ids), num_outside=num_outside)


def _ctm_words(path: Path) -> dict[str, list[tuple[float, str]]]:
    """The middle in seconds and the word, by the name in the first column."""
    words: dict[str, list[tuple[float, str]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        fields = line.split()
        try:
            name, _, start, seconds, word = fields[:5]
            if word.startswith("<ALT"):
                raise ManifestError(f"{path}, line {number}: holds alternatives; write the ones that were recognised")
            words.setdefault(name, []).append((float(start) + float(seconds) / 2, word))
        except ValueError:
            raise ManifestError(
                f"{path}, line {number}: must be `name channel start seconds word`, but is {line.strip()[:60]!r}"
            ) from None
    return words


def _put(texts: dict[str, str], name: str, text: str, where: str) -> None:
    if name in texts:
        raise ManifestError(f"{where}: the utterance {name!r} occurs a second time")
    texts[name] = text
