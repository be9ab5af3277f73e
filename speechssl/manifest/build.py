"""Make a manifest from folders of recordings, or from a corpus that has a card."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.audio.recording import locate_span
from speechssl.errors import AudioError, ManifestError
from speechssl.manifest.folder import FolderContents, read_folder, read_folders
from speechssl.manifest.hashing import codes_of, first_rows, hash_values, repeated_hashes
from speechssl.manifest.header_journal import HeaderJournal
from speechssl.manifest.headers import Headers, read_headers
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.recordings import Recording as Recording
from speechssl.manifest.recordings import Recordings
from speechssl.manifest.table import Manifest
from speechssl.progress import Progress

_SHOWN_REASONS = 12


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A manifest, and every recording that is not in it with the reason: `skipped` holds `(path, reason)`.

    Of the headers `num_probed` were read and `num_reused` known from an earlier build of the same output; `num_removed`
    recordings of that build are no longer there.
    """

    manifest: Manifest
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    output: Path | None = None
    num_probed: int = 0
    num_reused: int = 0
    num_removed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Counts for JSON."""
        return {
            "num_utterances": len(self.manifest),
            "hours": self.manifest.total_seconds / 3600,
            "num_with_text": self._num_with_text(),
            "num_skipped": len(self.skipped),
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "headers": {"probed": self.num_probed, "reused": self.num_reused, "removed": self.num_removed},
            "notes": list(self.notes),
            "output": None if self.output is None else str(self.output),
        }

    def summary(self) -> str:
        """A few lines for people: what was found, and what was left out by reason."""
        lines = [
            f"{len(self.manifest)} utterances, {self.manifest.total_seconds / 3600:.2f} hours,"
            f" {self._num_with_text()} with text" + (f" -> {self.output}" if self.output else "")
        ]
        if self.num_reused or self.num_removed:
            lines.append(
                f"headers: {self.num_probed} read, {self.num_reused} known from an earlier build,"
                f" {self.num_removed} of that build are gone"
            )
        by_reason = Counter(_short_reason(reason, path) for path, reason in self.skipped)
        lines += [f"left out {count}: {reason}" for reason, count in by_reason.most_common(_SHOWN_REASONS)]
        return "\n".join([*lines, *self.notes])

    def _num_with_text(self) -> int:
        if "text" not in self.manifest.column_names:
            return 0
        return sum(len(batch) - batch.column(0).null_count for batch in self.manifest.batches(["text"]))


def build_manifest(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    parts: Sequence[str] = (),
    transcripts: str | os.PathLike[str] | None = None,
    language: str | None = None,
    fresh: bool = False,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Build a manifest of folders, of a corpus by its card's name, of tar shards, or of what lies behind a URL.

    In a folder every recording is taken, at any depth. Texts come from `transcripts` (TSV or CSV with a header, or
    `path<TAB>text` lines), else from a `transcripts.tsv` or `.csv` in the folder, else from a `.txt` beside each
    recording. A recording that cannot be opened is left out with its reason; it never ends the build. Ids are the
    paths without their extension; of several folders, the paths from the folder that holds them all.

    With an output, what the headers say is kept beside it (`.NAME.headers`): a build that was interrupted goes on where
    it was, and a later one opens only recordings that are new or have another size or time of change. So it is with
    whole tar shards (`.NAME.shards`).

    Args:
        source: A folder of recordings or of tar shards, a URL of either such as `s3://bucket/shards/`, or the name of a
            card (`list_cards()`); or several folders of recordings.
        output: Where to save the manifest (.jsonl or .parquet); None to only return it.
        root: Where a card's corpus lies.
        parts: Only these splits and label subsets of a card's corpus; all when empty.
        transcripts: A table of texts for a folder.
        language: Language code given to every utterance of a folder that has none of its own.
        fresh: Read all headers again.
        num_workers: Processes that read headers; as many as there are processors when None.
        progress: Called with (recordings done, recordings altogether).

    Raises:
        ManifestError: no such folder or card, no usable recording, or a bad transcript file.
    """
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    if not sources:
        raise ManifestError("a manifest of what? name a folder of recordings or a corpus card")
    journal = None
    if output is not None:
        journal = HeaderJournal(journal_path(output), fresh=fresh)
    try:
        result = _build(sources, root, parts, transcripts, language, journal, num_workers, progress)
    finally:
        if journal is not None:
            journal.close()
    if output is None:
        return result
    return replace(result, manifest=result.manifest.save(output), output=Path(output))


def journal_path(output: str | os.PathLike[str]) -> Path:
    """Where the headers are kept that were read for a manifest."""
    return Path(output).with_name(f".{Path(output).name}.headers")


def _build(
    sources: Sequence[str | os.PathLike[str]],
    root: str | os.PathLike[str] | None,
    parts: Sequence[str],
    transcripts: str | os.PathLike[str] | None,
    language: str | None,
    journal: HeaderJournal | None,
    num_workers: int | None,
    progress: Progress | None,
) -> BuildResult:
    """Find out what kind of source it is."""
    from speechssl.manifest import storage_sources as storage  # imports this module

    source = os.fspath(sources[0])
    if len(sources) > 1:
        common, contents = read_folders([Path(folder) for folder in sources], transcripts, language)
        return _build_from_contents(contents, common, journal, num_workers, progress)
    if storage.is_storage(source):
        shard_journal = None if journal is None else storage.journal_beside(journal)
        try:
            return storage.build_from_storage(
                source, transcripts=transcripts, language=language, journal=shard_journal, num_workers=num_workers,
                progress=progress,
            )  # fmt: skip
        finally:
            if shard_journal is not None:
                shard_journal.close()
    if Path(source).is_dir():
        if parts:
            raise ManifestError(f"{source}: --parts is for corpora that have a card, not for folders")
        contents = read_folder(Path(source), transcripts, language)
        return _build_from_contents(contents, Path(source), journal, num_workers, progress)
    from speechssl.manifest.corpora import card as corpus_card
    from speechssl.manifest.corpora import prepare as corpus

    card = corpus_card.load_card(source)
    if transcripts is not None:
        raise ManifestError(f"{card.name}: the corpus brings its own texts; --transcripts is for folders")
    return corpus.prepare_corpus(card, root, parts=parts, journal=journal, num_workers=num_workers, progress=progress)


def _build_from_contents(
    contents: FolderContents,
    root: Path,
    journal: HeaderJournal | None,
    num_workers: int | None,
    progress: Progress | None,
) -> BuildResult:
    return _build_from_table(
        contents.table,
        root,
        skipped=contents.skipped,
        notes=contents.notes,
        journal=journal,
        num_workers=num_workers,
        progress=progress,
    )


def build_from_recordings(
    recordings: Iterable[Recording],
    root: Path | str,
    *,
    skipped: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    journal: HeaderJournal | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Read the headers of the recordings that a layout found, and make the manifest; ids default to the paths.

    A file is read once, however many spans of it there are, and not at all where the `journal` knows it. A span that
    lies outside of its file is left out. `Recordings` are empty afterwards. `root` is a folder, or the URL that the
    paths follow.

    Raises:
        ManifestError: none of them can be used.
        UnreachableError: storage behind a URL could not be reached.
    """
    table = (recordings if isinstance(recordings, Recordings) else Recordings(recordings)).table()
    return _build_from_table(
        table,
        root,
        skipped=skipped,
        notes=notes,
        journal=journal,
        num_workers=num_workers,
        progress=progress,
    )


def _build_from_table(
    table: pa.Table,
    root: Path | str,
    *,
    skipped: Sequence[tuple[str, str]],
    notes: Sequence[str],
    journal: HeaderJournal | None,
    num_workers: int | None,
    progress: Progress | None,
) -> BuildResult:
    """Headers, then rows; `table` has the column path, and others as `Recording`."""
    table = table.combine_chunks()
    paths = table["path"].combine_chunks()
    codes = codes_of(hash_values(paths))  # number of each row's file
    files = paths.take(pa.array(first_rows(codes)))
    prefix = pa.scalar(os.path.join(root if "://" in str(root) else os.path.abspath(root), ""), STRING)
    headers = read_headers(
        pc.binary_join_element_wise(prefix, files, pa.scalar("", STRING)),
        journal=journal,
        num_workers=num_workers,
        progress=progress,
    )
    lengths, left_out = _lengths(table, codes, headers, root)
    kept = np.flatnonzero(lengths)
    left_out = [*skipped, *left_out]
    if not len(kept):
        reasons = "; ".join(f"{reason}" for _, reason in left_out[:3])
        raise ManifestError(f"{root}: none of {len(left_out)} recordings can be used: {reasons}")
    table = table.take(pa.array(kept)) if len(kept) < len(table) else table
    rates, num_samples = headers.sample_rate[codes[kept]], lengths[kept]
    columns: dict[str, Any] = {
        "id": _ids(table),
        "audio_filepath": table["path"],
        "sample_rate": rates,
        "num_samples": num_samples,
        "offset": table["offset"] if "offset" in table.column_names else np.zeros(len(kept)),
        "duration": num_samples / rates,
    }
    for name in table.column_names:
        optional = name in ("text", "speaker", "language")
        if name != "path" and name not in columns and not (optional and table[name].null_count == len(kept)):
            columns[name] = table[name]
    return BuildResult(
        manifest=Manifest(pa.table(columns), root),
        skipped=tuple(left_out),
        notes=tuple(notes),
        num_probed=headers.num_probed,
        num_reused=headers.num_reused,
        num_removed=headers.num_removed,
    )


def _lengths(
    table: pa.Table, codes: npt.NDArray[np.int32], headers: Headers, root: Path | str
) -> tuple[npt.NDArray[np.int64], list[tuple[str, str]]]:
    """Samples of each row, 0 where it cannot be used, and of those path and reason."""
    lengths = headers.num_samples[codes]
    problems: dict[int, AudioError] = {}
    if headers.problems:
        bad = np.flatnonzero(np.isin(codes, np.fromiter(headers.problems, dtype=np.int64)))
        problems = {row: headers.problems[int(codes[row])] for row in bad.tolist()}
    if "offset" in table.column_names:
        is_span = pc.or_(pc.not_equal(table["offset"], 0), table["duration"].is_valid()).to_numpy()
        for row in np.flatnonzero(is_span & (lengths > 0)).tolist():
            try:
                _, lengths[row] = locate_span(
                    table["path"][row].as_py(),
                    table["offset"][row].as_py(),
                    table["duration"][row].as_py(),
                    num_samples=int(lengths[row]),
                    sample_rate=int(headers.sample_rate[codes[row]]),
                )
            except AudioError as error:
                lengths[row] = 0
                problems[row] = error
    names = table["path"].take(pa.array(sorted(problems), pa.int64())).to_pylist()
    return lengths, [
        (os.path.join(root, name), str(problems[row])) for row, name in zip(sorted(problems), names, strict=True)
    ]


def _ids(table: pa.Table) -> pa.Array:
    """Given ids, else paths without their extension, with it where two would be the same."""
    paths = table["path"].combine_chunks()
    ids = pc.replace_substring_regex(paths, r"([^/])\.[^./]*\z", r"\1")
    if "id" in table.column_names:
        given = table["id"].combine_chunks()
        ids = pc.if_else(pc.fill_null(pc.not_equal(given, ""), False), given, ids)
    hashes = hash_values(ids)
    ids = pc.if_else(pa.array(np.isin(hashes, repeated_hashes(hashes))), paths, ids)
    counts = pc.value_counts(ids.filter(pa.array(np.isin(h := hash_values(ids), repeated_hashes(h)))))
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(repeated):
        raise ManifestError(
            f"ids must be unique, but {len(repeated)} occur more than once, such as {repeated[0].as_py()!r}"
        )
    return ids


def find_in_folder(
    folder: Path, transcripts: str | os.PathLike[str] | None = None, language: str | None = None
) -> tuple[list[Recording], list[tuple[str, str]], list[str]]:
    """`read_folder` as a corpus layout gives it: recordings, what is left out, and lines for the user."""
    contents = read_folder(folder, transcripts, language)
    known = [name for name in ("id", "text", "speaker", "language") if name in contents.table.column_names]
    recordings = []
    for row in contents.table.to_pylist():
        core = {name: row.pop(name) for name in ("path", *known)}
        recordings.append(Recording(**core, extra={name: value for name, value in row.items() if value is not None}))
    return recordings, list(contents.skipped), list(contents.notes)


def _short_reason(reason: str, path: str) -> str:
    """The reason without the file's name, for counting."""
    reason = reason.removeprefix(f"{path}: ")
    return reason.split(":")[0].split("(")[0].split(";")[0].strip()
