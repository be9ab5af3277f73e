"""Common Voice: `{language}/clips/*.mp3` with one TSV a split; columns client_id, path, sentence, locale and others."""

from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import BuildResult, Recording, build_from_recordings
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.scan import Progress
from speechssl.manifest.transcripts import read_lines

_EXTRA = ("age", "gender", "gender_identity", "accents", "accent")


def prepare(
    card: CorpusCard, root: Path, *, num_workers: int | None = None, progress: Progress | None = None
) -> BuildResult:
    """Manifest of one language or of several below `root`; each clip counts in the first split that names it.

    train, dev and test come first, then what `validated` and `other` have beyond them. Clips that the community
    rejected (`invalidated`) are left out with their number.
    """
    folders = [root] if (root / "clips").is_dir() else sorted(path.parent for path in root.glob("*/clips"))
    if not folders:
        raise ManifestError(f"{root}: holds no folder `clips`; --root must be an unpacked language of Common Voice")
    recordings: list[Recording] = []
    skipped: list[tuple[str, str]] = []
    seen: set[str] = set()
    for folder in folders:
        prefix = "" if folder == root else f"{folder.name}/"
        clips = {path.name for path in (folder / "clips").iterdir()}
        for split in card.splits:
            table = folder / f"{split}.tsv"
            if table.is_file():
                _read_split(table, split, prefix, clips, seen, recordings, skipped)
        rejected = folder / "invalidated.tsv"
        if rejected.is_file():
            skipped += [(f"{prefix}clips/{row['path']}", "rejected by the community") for row in _rows(rejected)]
    if not recordings:
        raise ManifestError(f"{root}: no clip of {', '.join(f'{split}.tsv' for split in card.splits)} is there")
    return build_from_recordings(recordings, root, skipped=skipped, num_workers=num_workers, progress=progress)


def _read_split(
    table: Path,
    split: str,
    prefix: str,
    clips: set[str],
    seen: set[str],
    recordings: list[Recording],
    skipped: list[tuple[str, str]],
) -> None:
    """Append a table's clips to `recordings`, `skipped` and `seen`."""
    language = table.parent.name if prefix else None
    for row in _rows(table):
        name = row["path"] if row["path"].endswith(".mp3") or row["path"] in clips else row["path"] + ".mp3"
        path = f"{prefix}clips/{name}"
        if path in seen:
            continue
        seen.add(path)
        if name not in clips:
            skipped.append((path, "has a text but no recording"))
            continue
        recordings.append(
            Recording(
                path=path,
                id=f"{prefix}{name.rsplit('.', 1)[0]}",
                text=row["sentence"].strip() or None,
                speaker=row["client_id"],
                language=row.get("locale") or language,
                extra={"split": split} | {key: row[key] for key in _EXTRA if row.get(key)},
            )
        )


def _rows(table: Path) -> list[dict[str, str]]:
    """Lines of a Common Voice table; sentences may hold quotation marks, which mean nothing here."""
    lines = read_lines(table)
    if not lines:
        raise ManifestError(f"{table}: is empty; unpack the corpus again")
    header = lines[0].split("\t")
    missing = [name for name in ("client_id", "path", "sentence") if name not in header]
    if missing:
        raise ManifestError(f"{table}:1: the column {', '.join(missing)} is missing; it has {', '.join(header)}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        values = line.split("\t")
        if len(values) != len(header):
            raise ManifestError(f"{table}:{number}: {len(values)} fields, but the header has {len(header)}")
        rows.append(dict(zip(header, values, strict=True)))
    return rows
