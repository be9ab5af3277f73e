"""Build manifests of what is not a plain folder of recordings: tar shards, and whatever lies behind a URL."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from speechssl.audio import AUDIO_EXTENSIONS, is_url, remote
from speechssl.errors import ManifestError
from speechssl.manifest.build import BuildResult, Recording, build_from_recordings
from speechssl.manifest.header_journal import HeaderJournal
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.scan import default_num_workers
from speechssl.manifest.shards.index import COMPRESSED_EXTENSIONS, build_from_shards
from speechssl.manifest.shards.journal import ShardJournal
from speechssl.manifest.shards.storage import StoredFile, list_files
from speechssl.manifest.shards.threads import in_order
from speechssl.manifest.table import Manifest
from speechssl.manifest.transcripts import decode_lines, read_transcripts
from speechssl.progress import Progress

_SHARD_EXTENSIONS = (".tar", *COMPRESSED_EXTENSIONS)
_TABLES = ("transcripts.tsv", "transcripts.csv")


def is_storage(source: str) -> bool:
    """Whether a source is a URL, a tar, or a folder of tars: the topmost folder that has tars has no recordings."""
    if is_url(source) or (source.lower().endswith(_SHARD_EXTENSIONS) and os.path.isfile(source)):
        return True
    for _, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = [name.lower() for name in files if not name.startswith(".")]
        if any(os.path.splitext(name)[1] in AUDIO_EXTENSIONS for name in names):
            return False
        if any(name.endswith(_SHARD_EXTENSIONS) for name in names):
            return True
    return False


def journal_beside(headers: HeaderJournal) -> ShardJournal:
    """Where the shards' contents are kept, beside the headers of plain recordings: `.NAME.shards`."""
    return ShardJournal(headers.path.with_suffix(".shards"), fresh=headers.fresh)


def build_from_storage(
    source: str,
    *,
    transcripts: str | os.PathLike[str] | None = None,
    language: str | None = None,
    journal: ShardJournal | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """A manifest of tar shards, or of the recordings below a URL, whose headers alone are fetched.

    Texts come from where `build_manifest` looks for them in a folder: `transcripts`, else a `transcripts.tsv` or `.csv`
    at the URL, else a `.txt` beside each recording. With both shards and recordings, the recordings are taken. What
    is in the shards is kept in the `journal`.

    Raises:
        ManifestError: nothing is there, or nothing of it can be used.
        UnreachableError: storage could not be reached.
    """
    files = list_files(source)
    recordings = [file for file in files if os.path.splitext(file.name)[1].lower() in AUDIO_EXTENSIONS]
    if not recordings:
        if transcripts is not None:
            raise ManifestError(f"{source}: shards bring their own texts; --transcripts is for folders of recordings")
        return build_from_shards(source, language=language, journal=journal, num_workers=num_workers, progress=progress)
    root = source.rstrip("/")
    if [file.name for file in files] == [root.rpartition("/")[2]]:  # the source is a recording itself
        root = root.rpartition("/")[0]
    rows, skipped, notes = _texts(files, recordings, transcripts, num_workers)
    found = []
    for file in recordings:
        row = dict(rows.get(file.name, {}))
        found.append(
            Recording(
                path=file.name,
                id=row.pop("id", None),
                text=row.pop("text", None),
                speaker=row.pop("speaker", None),
                language=row.pop("language", None) or language,
                extra=row,
            )
        )
    built = build_from_recordings(found, root, skipped=skipped, notes=notes, num_workers=num_workers, progress=progress)
    names = built.manifest.column("audio_filepath")
    urls = pc.binary_join_element_wise(pa.scalar(root, STRING), names, pa.scalar("/", STRING))
    manifest = Manifest(built.manifest.with_column("audio_filepath", urls).table)
    return BuildResult(manifest=manifest, skipped=built.skipped, notes=built.notes)


def _texts(
    files: Sequence[StoredFile],
    recordings: Sequence[StoredFile],
    transcripts: str | os.PathLike[str] | None,
    num_workers: int | None,
) -> tuple[dict[str, dict[str, str]], list[tuple[str, str]], list[str]]:
    """Fields by recording, lines of the table that name none, and notes."""
    names = [file.name for file in recordings]
    table = next((file for file in files if file.name in _TABLES), None)
    if transcripts is None and table is None:
        sidecars = {file.name: file.path for file in files if file.name.lower().endswith(".txt")}
        stems = {name: sidecars.get(os.path.splitext(name)[0] + ".txt") for name in names}
        wanted = [(name, path) for name, path in stems.items() if path is not None]
        texts = in_order(_fetch_text, wanted, 4 * (num_workers or default_num_workers()))
        return {name: {"text": text} for name, text in texts if text}, [], []
    with tempfile.TemporaryDirectory() as folder:
        if transcripts is not None:
            path, shown = Path(transcripts), os.fspath(transcripts)
        else:
            assert table is not None
            path, shown = Path(folder) / table.name, table.path
            path.write_bytes(_fetch(table.path))
        matched = read_transcripts(path, names, path.parent)
    skipped = [(shown, reason.replace(str(path), shown)) for reason in matched.unmatched]
    return matched.rows, skipped, [f"texts from {shown}: {len(matched.rows)} of {len(names)} recordings have one"]


def _fetch_text(sidecar: tuple[str, str]) -> tuple[str, str]:
    name, url = sidecar
    return name, " ".join(" ".join(decode_lines(_fetch(url), url)).split())


def _fetch(url: str) -> bytes:
    try:
        return remote.fetch(url)
    except remote.RemoteFault as fault:
        raise remote.remote_error(url, fault) from None
