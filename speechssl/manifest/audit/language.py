"""Rows whose text is not of the language that their column says, by script and by letter trigrams.

The profiles come from the manifest itself: in a collection where most labels are right, a wrong one stands out. A row's
text is scored by naive Bayes over hashed trigrams of letters (Cavnar and Trenkle, "N-Gram-Based Text Categorization",
1994, use their ranks).

Shapes: R rows, L languages.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.manifest.audit.characters import code_points
from speechssl.manifest.hashing import Hashes
from speechssl.manifest.split import normalize_keys

Integers = npt.NDArray[np.int64]

SCRIPTS = {
    "Latin": r"\p{Latin}",
    "Cyrillic": r"\p{Cyrillic}",
    "Greek": r"\p{Greek}",
    "Arabic": r"\p{Arabic}",
    "Hebrew": r"\p{Hebrew}",
    "Devanagari": r"\p{Devanagari}",
    "Bengali": r"\p{Bengali}",
    "Tamil": r"\p{Tamil}",
    "Telugu": r"\p{Telugu}",
    "Thai": r"\p{Thai}",
    "Georgian": r"\p{Georgian}",
    "Armenian": r"\p{Armenian}",
    "Hangul": r"\p{Hangul}",
    "Kana": r"[\p{Hiragana}\p{Katakana}]",
    "Han": r"\p{Han}",
}

MIN_ROWS = 50
"""A language with fewer rows has no profile: its rows are not judged by trigrams, and none is judged to be of it."""

MIN_LETTERS = 15
MARGIN_PER_LETTER = 0.5
"""In nats: how much better another language must fit, a letter."""

OUT_OF_SCRIPT = 0.5
"""A row is of another script than its language when the usual one has less than this share of its letters."""

_BUCKETS = 1 << 15


def foreign_rows(texts: pa.Array, languages: pa.ChunkedArray) -> tuple[Integers, list[str]]:
    """Rows that look like another language than theirs, and why."""
    encoded = languages.combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
    reasons = _out_of_script(texts, codes)
    for row, language in _better_language(texts, codes, len(names)).items():
        reasons.setdefault(row, f"reads like {names[language]}")
    order = sorted(reasons)
    return np.array(order, dtype=np.int64), [reasons[row] for row in order]


def _out_of_script(texts: pa.Array, codes: Integers) -> dict[int, str]:
    """Rows that have few letters of the script that most letters of their language are in."""
    counts = np.stack([_count(texts, pattern) for pattern in SCRIPTS.values()], axis=1)
    letters = counts.sum(axis=1)
    reasons: dict[int, str] = {}
    for language in np.unique(codes[codes >= 0]).tolist():
        rows = np.flatnonzero((codes == language) & (letters >= 3))
        if len(rows) < 2:
            continue
        usual = counts[rows].sum(axis=0) / letters[rows].sum() >= 0.1  # Japanese has two
        share = counts[rows][:, usual].sum(axis=1) / letters[rows]
        for row in rows[share < OUT_OF_SCRIPT].tolist():
            reasons[row] = f"written in {list(SCRIPTS)[int(counts[row].argmax())]}"
    return reasons


def _count(texts: pa.Array, pattern: str) -> Integers:
    return np.asarray(pc.count_substring_regex(texts, pattern).to_numpy(zero_copy_only=False), dtype=np.int64)


def _better_language(texts: pa.Array, codes: Integers, num_languages: int) -> dict[int, int]:
    """Rows that another language's profile fits much better, and that language."""
    sizes = np.bincount(codes[codes >= 0], minlength=num_languages)
    known = np.flatnonzero(sizes >= MIN_ROWS)
    if len(known) < 2:
        return {}
    spelled = normalize_keys(pa.chunked_array([texts])).combine_chunks()
    counts = np.zeros((num_languages, _BUCKETS))
    for buckets, begins, rows in _trigrams(spelled):
        here = codes[rows]
        for language in known.tolist():
            chosen = np.repeat(here == language, np.diff(begins))
            counts[language] += np.bincount(buckets[chosen], minlength=_BUCKETS)
    smooth = counts[known] + 0.5
    log_share = np.log(smooth / smooth.sum(axis=1, keepdims=True)).astype(np.float32)
    better: dict[int, int] = {}
    place = np.full(num_languages + 1, -1)
    place[known] = np.arange(len(known))
    for buckets, begins, rows in _trigrams(spelled):
        length = np.diff(begins)
        scores = np.stack([_sums(share[buckets], begins) for share in log_share], axis=1)
        mine = place[codes[rows]]
        judged = (mine >= 0) & (length >= MIN_LETTERS)
        own = scores[np.arange(len(rows)), np.maximum(mine, 0)]
        margin = (scores.max(axis=1) - own) / np.maximum(length, 1)
        for row in np.flatnonzero(judged & (margin > MARGIN_PER_LETTER)).tolist():
            better[int(rows[row])] = int(known[int(scores[row].argmax())])
    return better


def _trigrams(texts: pa.Array) -> Iterator[tuple[Integers, Integers, Integers]]:
    """Pieces: bucket of the trigram that ends at each letter, where each text's begin, and the texts' rows."""
    for start, codes, begins in code_points(texts):
        padded: Hashes = np.concatenate([np.full(2, 32), codes], dtype=np.uint64, casting="unsafe")
        mixed: Hashes = padded[2:] + padded[1:-1] * np.uint64(0x1F35) + padded[:-2] * np.uint64(0x3D0F1B)
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15)
        mixed >>= np.uint64(49)
        yield mixed.astype(np.int64), begins, np.arange(start, start + len(begins) - 1)


def _sums(values: npt.NDArray[np.float32], begins: Integers) -> npt.NDArray[np.float64]:
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.asarray(total[begins[1:]] - total[begins[:-1]])
