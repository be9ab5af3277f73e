"""FLEURS, as on the Hugging Face hub: `data/{language}/{split}.tsv` and `data/{language}/audio/{split}/*.wav`.

The tables have no header: sentence id, file name, text as published, text for recognition, characters, number of
samples, gender. The hub packs the recordings as `audio/{split}.tar.gz`; they unpack beside it.
"""

from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, descend, find_files, stem
from speechssl.manifest.transcripts import read_lines

_GENDERS = {"MALE": "M", "FEMALE": "F"}
_NUM_FIELDS = 7


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """Every language and split that is there, with the columns split, prompt, raw_text and gender.

    A prompt is read by one to three people, so divide further by prompt. The corpus does not tell who speaks.
    """
    found = Found(root=descend(root, "data"))
    if any((root / f"{split}.tsv").is_file() for split in card.splits):  # one language's folder
        found.root, folders = root.parent, [root.name]
    else:
        folders = sorted(path.parent.name for path in found.root.glob("*/dev.tsv"))
        folders = folders or sorted(path.parent.name for path in found.root.glob("*/train.tsv"))
    if not folders:
        raise ManifestError(
            f"{found.root}: holds no folder such as en_us with train.tsv; --root must be where they lie"
        )
    for folder in folders:
        for split in splits:
            if (found.root / folder / f"{split}.tsv").is_file():
                _add_split(found, folder, split)
            else:
                found.note(f"{folder}/{split}.tsv is not there", split)
    if not found.recordings:
        raise ManifestError(
            f"{found.root}: none of the recordings is there; unpack audio/train.tar.gz and so on beside themselves"
        )
    return found


def _add_split(found: Found, folder: str, split: str) -> None:
    place = f"{folder}/audio/{split}"
    files = {stem(path): path for path in find_files(found.root / place)}
    if not files and (found.root / f"{place}.tar.gz").is_file():
        found.note(f"{place}.tar.gz is not unpacked; `tar xzf {split}.tar.gz` in {folder}/audio", split)
    known = set()
    missing = []
    table = found.root / folder / f"{split}.tsv"
    for number, line in enumerate(read_lines(table), start=1):
        fields = line.split("\t")
        if len(fields) != _NUM_FIELDS:
            raise ManifestError(f"{table}:{number}: {len(fields)} fields instead of {_NUM_FIELDS}")
        name = stem(fields[1])
        if name in known:
            found.leave_out(f"{place}/{fields[1]}", "a second line for the same recording", split)
            continue
        known.add(name)
        if name not in files:
            missing.append(f"{place}/{fields[1]}")
            continue
        found.recordings.append(
            Recording(
                path=f"{place}/{files[name]}",
                id=f"{folder}/{split}/{name}",
                text=fields[3].strip() or None,
                language=folder,
                extra={
                    "split": split,
                    "prompt": fields[0],
                    "raw_text": fields[2].strip(),
                    "gender": _GENDERS.get(fields[6].strip()),
                },
            )
        )
    found.leave_out_texts(folder, missing, split)
    unnamed = [f"{place}/{files[name]}" for name in files.keys() - known]
    found.leave_out_all(folder, unnamed, f"has no line in {split}.tsv", split)
