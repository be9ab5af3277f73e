"""Common Voice: `{language}/clips/*.mp3` with one TSV a split; columns client_id, path, sentence, locale and others."""

from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, read_fields

_EXTRA = ("age", "gender", "gender_identity", "accents", "accent", "variant")
_NEEDED = ("client_id", "path", "sentence")


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """One language or several below `root`; each clip counts in the first split that names it.

    train, dev and test come first, then what `validated` and `other` have beyond them. Clips that the community
    rejected (`invalidated`) are left out with their number, and so are clips that no table names.
    """
    folders = [root] if (root / "clips").is_dir() else sorted(path.parent for path in root.glob("*/clips"))
    if not folders:
        raise ManifestError(f"{root}: holds no folder `clips`; --root must be an unpacked language of Common Voice")
    found = Found(root=root)
    for folder in folders:
        prefix = "" if folder == root else f"{folder.name}/"
        clips = {path.name for path in (folder / "clips").iterdir() if not path.name.startswith(".")}
        seen: set[str] = set()
        for split in card.splits:
            table = folder / f"{split}.tsv"
            if table.is_file():
                _read_split(found, table, split, prefix, clips, seen)
            else:
                found.note(f"{prefix}{split}.tsv is not there", split)
        rejected = folder / "invalidated.tsv"
        if rejected.is_file():
            for row in read_fields(rejected, needed=_NEEDED):
                seen.add(row["path"])
                found.leave_out(f"{prefix}clips/{row['path']}", "rejected by the community")
        found.leave_out_all(f"{prefix}clips", [f"{prefix}clips/{name}" for name in clips - seen], "no table names it")
    if not found.recordings:
        raise ManifestError(f"{root}: no clip of {', '.join(f'{split}.tsv' for split in card.splits)} is there")
    return found


def _read_split(found: Found, table: Path, split: str, prefix: str, clips: set[str], seen: set[str]) -> None:
    """Add a table's clips that are not `seen` yet."""
    language = table.parent.name if prefix else None
    missing = []
    for row in read_fields(table, needed=_NEEDED):
        name = row["path"] if row["path"].endswith(".mp3") or row["path"] in clips else row["path"] + ".mp3"
        if name in seen:
            continue
        seen.add(name)
        path = f"{prefix}clips/{name}"
        if name not in clips:
            missing.append(path)
            continue
        found.recordings.append(
            Recording(
                path=path,
                id=f"{prefix}{name.rsplit('.', 1)[0]}",
                text=row["sentence"] or None,
                speaker=row["client_id"],
                language=row.get("locale") or language,
                extra={"split": split} | {key: row[key] for key in _EXTRA if row.get(key)},
            )
        )
    found.leave_out_texts(f"{prefix}{split}", missing, split)
