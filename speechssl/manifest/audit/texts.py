"""Oddities of texts, found by columns: characters, mark-up, digits, language, speed, empty and rare ones.

Shapes: R rows of one manifest.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.manifest.audit.characters import rare_characters
from speechssl.manifest.audit.language import foreign_rows
from speechssl.manifest.audit.settings import Thresholds
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.table import Manifest

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

PATTERNS: Mapping[str, str] = {
    "control_characters": r"[\x00-\x1f\x7f-\x{9f}\x{ad}\x{200b}-\x{200f}\x{2028}-\x{202e}\x{2060}-\x{2069}"
    r"\x{feff}\x{fffd}]",
    "markup": r"<[^<>]+>|\[[^\[\]]*\]|\{[^{}]*\}|&#?\w+;|https?://|www\.|[*_#]{2,}|\\[nrt]",
    "digits": r"\pN",
    "mixed_scripts": r"[\p{Latin}][\p{Cyrillic}\p{Greek}\p{Armenian}\p{Hebrew}\p{Arabic}]"
    r"|[\p{Cyrillic}\p{Greek}\p{Armenian}\p{Hebrew}\p{Arabic}][\p{Latin}]",
}
"""What RE2 finds by itself."""

# UTF-8 read as Windows-1252 or Latin-1: a lead byte's letter, then what a byte from 0x80 to 0xBF looks like there.
_MOJIBAKE = (
    r"[\x{c2}-\x{f4}][\x{80}-\x{bf}\x{152}\x{153}\x{160}\x{161}\x{178}\x{17d}\x{17e}\x{192}\x{2c6}\x{2dc}"
    r"\x{2013}-\x{2122}\x{20ac}]"
)

_MIN_RATE_ROWS = 50
_MIN_LETTERS = 8
_MIN_DEVIATION = 0.1


@dataclass(frozen=True, kw_only=True)
class TextFinding:
    """Rows of one manifest, in order, and what is odd about each in a few words or a number."""

    kind: str
    rows: Integers
    values: list[str]


def audit_texts(
    manifest: Manifest, thresholds: Thresholds, active_seconds: npt.NDArray[np.float64] | None = None
) -> list[TextFinding]:
    """Everything odd about the column `text`; nothing where there is none.

    Args:
        manifest: the rows.
        thresholds: what is too rare or too quick.
        active_seconds: seconds of speech of every row, NaN where unknown; by default the rows' durations are taken.
    """
    if "text" not in manifest.column_names:
        return []
    texts = pc.fill_null(manifest.column("text").cast(STRING), "").combine_chunks()
    found = [_finding("empty_text", _mask(pc.equal(pc.utf8_trim_whitespace(texts), "")), texts, "")]
    found += [_finding(kind, _matching(texts, pattern), texts, pattern) for kind, pattern in PATTERNS.items()]
    found.append(_finding("not_nfc", _mask(pc.not_equal(texts, pc.utf8_normalize(texts, form="NFC"))), texts, ""))
    found.append(_mojibake(texts))
    rare, values = rare_characters(texts, thresholds.rare_rows)
    found.append(TextFinding(kind="rare_characters", rows=rare, values=values))
    if "language" in manifest.column_names:
        foreign, values = foreign_rows(texts, manifest.column("language"))
        found.append(TextFinding(kind="other_language", rows=foreign, values=values))
    found.append(_speech_rate(manifest, texts, thresholds.speech_rate, active_seconds))
    return [finding for finding in found if len(finding.rows)]


def _finding(kind: str, mask: Mask, texts: pa.Array, pattern: str) -> TextFinding:
    rows = np.flatnonzero(mask)
    if not pattern:
        return TextFinding(kind=kind, rows=rows, values=[""] * len(rows))
    first = pc.extract_regex(texts.take(pa.array(rows)), f"(?P<found>{pattern})").field("found").to_pylist()
    shown = [text if text.isprintable() and text != "\ufffd" else _code_points(text) for text in first]
    return TextFinding(kind=kind, rows=rows, values=shown)


def _code_points(text: str) -> str:
    return " ".join(f"U+{ord(letter):04X}" for letter in text)


def _matching(texts: pa.Array, pattern: str) -> Mask:
    return _mask(pc.match_substring_regex(texts, pattern))


def _mask(values: pa.Array) -> Mask:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)


def _mojibake(texts: pa.Array) -> TextFinding:
    """Texts that become shorter, and other text, when their bytes are read as UTF-8."""
    rows, values = [], []
    for row in np.flatnonzero(_matching(texts, _MOJIBAKE)).tolist():
        repaired = _repair(texts[row].as_py())
        if repaired is not None:
            rows.append(row)
            values.append(repaired)
    return TextFinding(kind="mojibake", rows=np.array(rows, dtype=np.int64), values=values)


def _repair(text: str) -> str | None:
    """What the text was before it was read in the wrong encoding; None where it never was."""
    for encoding in ("cp1252", "latin-1"):
        try:
            repaired = text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        if repaired != text:
            return repaired
    return None


def _speech_rate(
    manifest: Manifest, texts: pa.Array, limit: float, active_seconds: npt.NDArray[np.float64] | None
) -> TextFinding:
    """Rows that are much longer or shorter than their letters tell: a text that is not the recording's.

    Seconds are taken to be a constant and so much a letter, fitted for each language. The distance is in robust
    standard deviations (1.4826 times the median absolute deviation) of the logarithm of actual to expected seconds.
    """
    letters = pc.count_substring_regex(texts, r"[\pL\pN\pM]").to_numpy(zero_copy_only=False).astype(np.float64)
    seconds = manifest.durations if active_seconds is None else active_seconds
    usable = (letters >= _MIN_LETTERS) & (seconds > 0)
    distance = np.zeros(len(manifest))
    for rows in _by_language(manifest):
        here = rows[usable[rows]]
        if len(here) < _MIN_RATE_ROWS:
            continue
        ratio = np.log(seconds[here] / _expected_seconds(letters[here], seconds[here]))
        deviation = 1.4826 * float(np.median(np.abs(ratio - np.median(ratio))))
        distance[here] = (ratio - np.median(ratio)) / max(deviation, _MIN_DEVIATION)
    odd = np.flatnonzero(np.abs(distance) > limit)
    values = [f"{letters[row] / seconds[row]:.1f} letters a second" for row in odd.tolist()]
    return TextFinding(kind="speech_rate", rows=odd, values=values)


def _expected_seconds(letters: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A line through seconds over letters, fitted three times, without the worst tenth of the time before."""
    design = np.stack([np.ones(len(letters)), letters], axis=1)
    expected = letters * np.median(seconds / letters)
    for _ in range(3):
        error = np.abs(np.log(seconds / expected))
        kept = error <= np.percentile(error, 90)
        weight = 1 / expected[kept]
        solution = np.linalg.lstsq(design[kept] * weight[:, None], seconds[kept] * weight, rcond=None)[0]
        expected = np.maximum(design @ solution, 1e-2)
    return expected


def _by_language(manifest: Manifest) -> list[Integers]:
    if "language" not in manifest.column_names:
        return [np.arange(len(manifest))]
    codes = manifest.column("language").combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    return [np.flatnonzero(codes == code) for code in np.unique(codes).tolist()]
