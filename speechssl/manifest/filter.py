"""Keep the rows of a manifest that meet all of some conditions, and say how many were left out by which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.table import Manifest

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class FilterResult:
    """The rows that are kept, and the number of the others by reason: each counts under the first that it fails."""

    manifest: Manifest
    left_out: Mapping[str, int]

    def summary(self) -> str:
        """What was kept and what was not, one reason a line."""
        count = len(self.manifest) + sum(self.left_out.values())
        lines = [f"{len(self.manifest)} of {count} utterances kept, {self.manifest.total_seconds / 3600:.2f} hours"]
        return "\n".join([*lines, *(f"left out {number}: {reason}" for reason, number in self.left_out.items())])


def filter_manifest(
    manifest: Manifest,
    *,
    min_seconds: float | None = None,
    max_seconds: float | None = None,
    has_text: bool | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
    where_not: Mapping[str, Sequence[str]] | None = None,
) -> FilterResult:
    """The rows that meet every condition, in their order.

    Args:
        manifest: What to choose from.
        min_seconds: Shorter rows are left out.
        max_seconds: Longer rows are left out.
        has_text: True keeps only rows with a text that is not empty, False only rows without one.
        where: By column, the values to keep; numbers and truth values are compared as they are written (`3`, `true`).
            A row that has no value in the column is left out.
        where_not: By column, the values to leave out; a row that has none stays.

    Raises:
        ManifestError: a column that there is not, values that occur in no row, limits that exclude each other, or no
            row that meets the conditions.
    """
    if min_seconds is not None and max_seconds is not None and min_seconds > max_seconds:
        raise ManifestError(f"nothing is at least {min_seconds:g} s and at most {max_seconds:g} s long")
    kept = np.ones(len(manifest), dtype=bool)
    left_out: dict[str, int] = {}

    def leave_out(reason: str, bad: Mask) -> None:
        bad &= kept
        if bad.any():
            left_out[reason] = int(np.count_nonzero(bad))
            kept[bad] = False

    if min_seconds is not None:
        leave_out(f"shorter than {min_seconds:g} s", manifest.durations < min_seconds)
    if max_seconds is not None:
        leave_out(f"longer than {max_seconds:g} s", manifest.durations > max_seconds)
    if has_text is not None:
        told = _has_text(manifest)
        leave_out("no text" if has_text else "has a text", ~told if has_text else told)
    for column, values in (where or {}).items():
        leave_out(f"{column} is not {' or '.join(values)}", ~_has_value(manifest, column, values))
    for column, values in (where_not or {}).items():
        leave_out(f"{column} is {' or '.join(values)}", _has_value(manifest, column, values))
    if not kept.any():
        reasons = "; ".join(f"{number} rows: {reason}" for reason, number in left_out.items())
        raise ManifestError(f"no utterance meets the conditions ({reasons}); ask for less")
    return FilterResult(manifest=manifest.filter(kept), left_out=left_out)


def _has_text(manifest: Manifest) -> Mask:
    if "text" not in manifest.column_names:
        return np.zeros(len(manifest), dtype=bool)
    parts = []
    for batch in manifest.batches(["text"]):
        told = pc.greater(pc.binary_length(pc.utf8_trim_whitespace(batch.column(0))), 0)
        parts.append(pc.fill_null(told, False).to_numpy(zero_copy_only=False))
    return np.concatenate(parts)


def _has_value(manifest: Manifest, column: str, values: Sequence[str]) -> Mask:
    """Whether each row has one of the values in a column."""
    wanted = pa.array(list(values), STRING)
    found = np.zeros(len(values), dtype=bool)
    parts = []
    for batch in manifest.batches([column]):
        try:
            written = batch.column(0).cast(STRING)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            raise ManifestError(
                f"column {column} holds {batch.column(0).type} and cannot be compared with values; name another"
            ) from None
        places = pc.index_in(written, value_set=wanted)
        found[places.drop_null().to_numpy(zero_copy_only=False)] = True
        parts.append(places.is_valid().to_numpy(zero_copy_only=False))
    absent = [value for value, is_there in zip(values, found, strict=True) if not is_there]
    if absent:
        raise ManifestError(
            f"column {column} is nowhere {' or '.join(repr(value) for value in absent)}; it is such as"
            f" {', '.join(repr(value) for value in _examples(manifest, column))}"
        )
    return np.concatenate(parts)


def _examples(manifest: Manifest, column: str, count: int = 5) -> list[str]:
    """Some values of a column."""
    batch = next(iter(manifest.batches([column])))
    return [str(value) for value in batch.column(0).drop_null().unique()[:count].to_pylist()]
