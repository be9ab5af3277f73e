"""Make a manifest from a folder of recordings or from a corpus that has a card."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from speechssl.audio import AUDIO_EXTENSIONS, AudioInfo
from speechssl.audio.recording import UnreachableError, locate_span
from speechssl.errors import AudioError, ManifestError
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.scan import Progress, map_in_threads, try_probe
from speechssl.manifest.table import Manifest
from speechssl.manifest.transcripts import find_table, read_sidecar, read_transcripts


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """A manifest, and every recording that is not in it with the reason: `skipped` holds `(path, reason)`."""

    manifest: Manifest
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    output: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Counts for JSON."""
        texts = self.manifest.table["text"] if "text" in self.manifest.table.column_names else None
        return {
            "num_utterances": len(self.manifest),
            "hours": self.manifest.total_seconds / 3600,
            "num_with_text": 0 if texts is None else len(texts) - texts.null_count,
            "num_skipped": len(self.skipped),
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "notes": list(self.notes),
            "output": None if self.output is None else str(self.output),
        }

    def summary(self) -> str:
        """A few lines for people: what was found, and what was left out by reason."""
        counts = self.to_dict()
        lines = [
            f"{counts['num_utterances']} utterances, {counts['hours']:.2f} hours, {counts['num_with_text']} with text"
            + (f" -> {self.output}" if self.output else "")
        ]
        by_reason = Counter(_short_reason(reason, path) for path, reason in self.skipped)
        lines += [f"left out {count}: {reason}" for reason, count in by_reason.most_common(12)]
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A file that a corpus layout found, before its header is read; `path` is relative to the corpus root.

    `offset` and `duration` (seconds) choose a span of it, of which there may be many; by default the whole file. A span
    needs an `id` of its own.
    """

    path: str
    id: str | None = None
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    offset: float = 0.0
    duration: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def build_manifest(
    source: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    parts: Sequence[str] = (),
    transcripts: str | os.PathLike[str] | None = None,
    language: str | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Build a manifest of a folder, of a corpus by its card's name, of tar shards, or of what lies behind a URL.

    In a folder every recording is taken, at any depth. Texts come from `transcripts` (TSV or CSV with a header, or
    `path<TAB>text` lines), else from a `transcripts.tsv` or `.csv` in the folder, else from a `.txt` beside each
    recording. A recording that cannot be opened is left out with its reason; it never ends the build.

    Args:
        source: A folder of recordings or of tar shards, a URL of either such as `s3://bucket/shards/`, or the name of a
            card (`list_cards()`).
        output: Where to save the manifest (.jsonl or .parquet); None to only return it.
        root: Where a card's corpus lies.
        parts: Only these splits and label subsets of a card's corpus; all when empty.
        transcripts: A table of texts for a folder.
        language: Language code given to every utterance of a folder that has none of its own.
        num_workers: Threads that read headers; as many as there are processors when None.
        progress: Called with (recordings done, recordings altogether).

    Raises:
        ManifestError: no such folder or card, no usable recording, or a bad transcript file.
    """
    from speechssl.manifest import storage_sources as storage  # imports this module

    folder = Path(source)
    if storage.is_storage(os.fspath(source)):
        result = storage.build_from_storage(
            os.fspath(source), transcripts=transcripts, language=language, num_workers=num_workers, progress=progress
        )
    elif folder.is_dir():
        if parts:
            raise ManifestError(f"{folder}: --parts is for corpora that have a card, not for folders")
        recordings, skipped, notes = find_in_folder(folder, transcripts, language)
        result = build_from_recordings(
            recordings, folder, skipped=skipped, notes=notes, num_workers=num_workers, progress=progress
        )
    else:
        from speechssl.manifest.corpora import card as corpus_card
        from speechssl.manifest.corpora import prepare as corpus

        card = corpus_card.load_card(os.fspath(source))
        if transcripts is not None:
            raise ManifestError(f"{card.name}: the corpus brings its own texts; --transcripts is for folders")
        result = corpus.prepare_corpus(card, root, parts=parts, num_workers=num_workers, progress=progress)
    if output is None:
        return result
    saved = result.manifest.save(output)
    return BuildResult(manifest=saved, skipped=result.skipped, notes=result.notes, output=Path(output))


def build_from_recordings(
    recordings: Sequence[Recording],
    root: Path | str,
    *,
    skipped: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Read the headers of the recordings that a layout found, and make the manifest; ids default to the paths.

    A file is read once, however many spans of it there are. A span that lies outside of its file is left out. `root` is
    a folder, or the URL that the paths follow.

    Raises:
        ManifestError: none of them can be used.
        UnreachableError: storage behind a URL could not be reached.
    """
    paths = list(dict.fromkeys(recording.path for recording in recordings))
    files = (os.path.join(root, path) for path in paths)
    headers = map_in_threads(try_probe, files, num_items=len(paths), num_workers=num_workers, progress=progress)
    infos = dict(zip(paths, headers, strict=True))
    left_out = list(skipped)
    kept = []
    good = []
    lengths = []
    for recording in recordings:
        info = infos[recording.path]
        try:
            if not isinstance(info, AudioInfo):
                raise info
            length = _span_length(recording, info)
        except UnreachableError:
            raise
        except AudioError as error:
            left_out.append((os.path.join(root, recording.path), str(error)))
            continue
        kept.append(recording)
        good.append(info)
        lengths.append(length)
    if not kept:
        reasons = "; ".join(f"{reason}" for _, reason in left_out[:3])
        raise ManifestError(f"{root}: none of {len(left_out)} recordings can be used: {reasons}")
    rates = np.array([info.sample_rate for info in good], dtype=np.int64)
    num_samples = np.array(lengths, dtype=np.int64)
    columns: dict[str, Any] = {
        "id": pa.array(_ids(kept), STRING),
        "audio_filepath": pa.array([recording.path for recording in kept], STRING),
        "sample_rate": rates,
        "num_samples": num_samples,
        "offset": np.array([recording.offset for recording in kept], dtype=np.float64),
        "duration": num_samples / rates,
    }
    for name in ("text", "speaker", "language"):
        values = pa.array([getattr(recording, name) for recording in kept], STRING)
        if values.null_count < len(kept):
            columns[name] = values
    for name in dict.fromkeys(name for recording in kept for name in recording.extra):
        columns.setdefault(name, pa.array([recording.extra.get(name) for recording in kept]))
    return BuildResult(manifest=Manifest(pa.table(columns), root), skipped=tuple(left_out), notes=tuple(notes))


def _span_length(recording: Recording, info: AudioInfo) -> int:
    """Number of samples of a recording's span; raises `AudioError` when it lies outside of the file."""
    _, length = locate_span(
        recording.path,
        recording.offset,
        recording.duration,
        num_samples=info.num_samples,
        sample_rate=info.sample_rate,
    )
    return length


def find_recordings(folder: Path) -> list[str]:
    """Paths of all recordings below a folder, relative to it with `/`, sorted; hidden files and folders are passed."""
    return sorted(_walk(folder))


def _walk(folder: Path) -> Iterator[str]:
    for directory, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(directory, folder)
        for name in files:
            if os.path.splitext(name)[1].lower() in AUDIO_EXTENSIONS and not name.startswith("."):
                yield name if relative == os.curdir else f"{relative}/{name}".replace(os.sep, "/")


def find_in_folder(
    folder: Path, transcripts: str | os.PathLike[str] | None = None, language: str | None = None
) -> tuple[list[Recording], list[tuple[str, str]], list[str]]:
    """All recordings of a folder with their texts, what is left out as `(path, reason)`, and lines for the user.

    Raises:
        ManifestError: the folder holds no recordings, or a bad transcript file.
    """
    names = find_recordings(folder)
    if not names:
        known = ", ".join(sorted(extension[1:] for extension in AUDIO_EXTENSIONS))
        raise ManifestError(f"{folder}: holds no recordings (looked at any depth for {known}); name another folder")
    table = Path(transcripts) if transcripts is not None else find_table(folder)
    skipped: list[tuple[str, str]] = []
    notes = []
    if table is not None:
        texts = read_transcripts(table, names, folder)
        rows = texts.rows
        skipped += [(str(table), reason) for reason in texts.unmatched]
        notes.append(f"texts from {table}: {len(rows)} of {len(names)} recordings have one")
    else:
        rows = {}
        for name in names:
            text = read_sidecar(folder / name)
            if text is not None:
                rows[name] = {"text": text}
    recordings = []
    for name in names:
        row = dict(rows.get(name, {}))
        recordings.append(
            Recording(
                path=name,
                id=row.pop("id", None),
                text=row.pop("text", None),
                speaker=row.pop("speaker", None),
                language=row.pop("language", None) or language,
                extra=row,
            )
        )
    return recordings, skipped, notes


def _ids(recordings: Sequence[Recording]) -> list[str]:
    """Given ids, else paths without their extension, with it where two would be the same."""
    ids = [recording.id or os.path.splitext(recording.path)[0] for recording in recordings]
    counts = Counter(ids)
    ids = [recording.path if counts[id] > 1 else id for id, recording in zip(ids, recordings, strict=True)]
    if len(set(ids)) < len(ids):
        repeated = [id for id, count in Counter(ids).items() if count > 1]
        raise ManifestError(f"ids must be unique, but {len(repeated)} occur more than once, such as {repeated[0]!r}")
    return ids


def _short_reason(reason: str, path: str) -> str:
    """The reason without the file's name, for counting."""
    reason = reason.removeprefix(f"{path}: ")
    return reason.split(":")[0].split("(")[0].split(";")[0].strip()
