"""What every manifest is checked for when it is loaded, in one pass over a few columns."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from speechssl.errors import ManifestError
from speechssl.manifest.hashing import Hashes, hash_values, repeated_rows, repeated_values
from speechssl.manifest.scan import map_ahead
from speechssl.manifest.storage import Storage

CHECKED_COLUMNS = ("id", "audio_filepath", "sample_rate", "num_samples", "offset", "duration")

_POSSIBLE = (("duration", True), ("offset", False), ("sample_rate", True))  # finite, and above 0 or at least 0


class Checks:
    """Watches batches go by and keeps what `finish` needs; `validate` tells everything with line numbers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows = 0
        self.lacks_values = False
        self._num_without_path = 0
        self._hashes: list[Hashes] = []
        self._num_bad = dict.fromkeys((name for name, _ in _POSSIBLE), 0)
        self._first_bad: dict[str, str] = {}

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches as they come; they must have the checked columns."""
        for batch, hashes in map_ahead(_with_hashes, batches):
            self._hashes.append(hashes)
            self._see_values(batch)
            self.num_rows += batch.num_rows
            yield batch

    def finish(self, rows: Storage) -> None:
        """Judge; `rows` are those seen.

        Raises:
            ManifestError: no row at all, repeated ids, or impossible numbers.
        """
        if self.num_rows == 0:
            raise ManifestError(f"{self.path}: holds no utterance; build it again with `speechssl manifest build`")
        if self._num_without_path:
            raise ManifestError(
                f"{self.path}: {self._num_without_path} rows have no audio_filepath; run `speechssl manifest validate"
                " --quarantine` to set them aside"
            )
        check_ids(rows, self._hashes, str(self.path))
        for name, _ in _POSSIBLE:
            if self._num_bad[name]:
                raise ManifestError(
                    f"{self.path}: {self._num_bad[name]} rows have an impossible {name}, the first is"
                    f" {self._first_bad[name]}; run `speechssl manifest validate --quarantine` to set them aside"
                )

    def _see_values(self, batch: pa.RecordBatch) -> None:
        self._num_without_path += batch["audio_filepath"].null_count
        self.lacks_values |= any(batch[name].null_count for name in CHECKED_COLUMNS)
        for name, above in _POSSIBLE:
            values = batch[name].fill_null(0).to_numpy(zero_copy_only=False)
            self.lacks_values |= bool(np.isnan(values).any())
            bad = np.flatnonzero(~(np.isfinite(values) & ((values > 0) if above else (values >= 0))))
            if len(bad) and not self._num_bad[name]:
                row = int(bad[0])
                self._first_bad[name] = f"row {self.num_rows + row + 1}, {batch['id'][row].as_py()!r}: {values[row]}"
            self._num_bad[name] += len(bad)


def _with_hashes(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Hashes]:
    return batch, hash_values(batch["id"])


def check_ids(rows: Storage, hashes: list[Hashes], where: str) -> None:
    """Raise a ManifestError that names ids which occur more than once; strings of equal hashes are compared.

    `hashes` are those of the ids in parts, the list is emptied.
    """
    suspects = repeated_rows(hashes)
    if not len(suspects):
        return
    repeated = repeated_values(rows.read(["id"], suspects)["id"])
    if not len(repeated):
        return
    names = ", ".join(repr(value) for value in repeated[:3].to_pylist())
    raise ManifestError(
        f"{where}: ids must be unique, but {len(repeated)} occur more than once: {names}"
        f"{', ...' if len(repeated) > 3 else ''}; `speechssl manifest validate` lists the lines"
    )
