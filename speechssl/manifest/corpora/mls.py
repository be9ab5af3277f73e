"""Multilingual LibriSpeech: `mls_{language}/{split}/audio/{speaker}/{book}/{speaker}_{book}_{number}.flac` or `.opus`.

Each split has `transcripts.txt` (`id<TAB>text`); train has the label subsets as lists of ids,
`limited_supervision/1hr/{0..5}/handles.txt` and `limited_supervision/9hr/handles.txt`. 10 min is the first of the six,
1 h all of them, 10 h those and the nine hours.
"""

from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, find_files, some, stem
from speechssl.manifest.transcripts import read_lines, scan_lines

_CODES = {
    "english": "en",
    "german": "de",
    "dutch": "nl",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "polish": "pl",
}


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """Every language and split that is there, with the columns split, subset, book and gender."""
    names = [f"mls_{language}{kind}" for language in _CODES for kind in ("", "_opus")]
    found = Found(root=root)
    folders = [name for name in names if (root / name).is_dir()]
    for name in [name for name in folders if name.removesuffix("_opus") in folders and name.endswith("_opus")]:
        folders.remove(name)
        found.note(f"{name} is passed: it holds the recordings of {name.removesuffix('_opus')} again")
    if root.name in names and not folders:  # one language's folder
        found.root, folders = root.parent, [root.name]
    if not folders:
        raise ManifestError(f"{root}: holds no folder such as mls_polish; --root must be where the languages lie")
    for folder in folders:
        language = _CODES[folder.split("_")[1]]
        genders = _read_genders(found.root / folder / "metainfo.txt")
        for split in splits:
            if (found.root / folder / split).is_dir():
                _add_split(found, f"{folder}/{split}", split, language, genders)
            else:
                found.note(f"{folder}/{split} is not there", split)
    return found


def _add_split(found: Found, folder: str, split: str, language: str, genders: dict[str, str]) -> None:
    base = found.root / folder
    texts = _read_texts(base / "transcripts.txt")
    subsets = _read_subsets(base / "limited_supervision")
    untold = []
    for path in find_files(base / "audio"):
        name = stem(path)
        parts = name.split("_")
        full = f"{folder}/audio/{path}"
        if len(parts) != 3:
            found.leave_out(full, "name is not {speaker}_{book}_{number}", split)
            continue
        text = texts.pop(name, None)
        if text is None:
            untold.append(full)
        subset = subsets.pop(name, None)
        found.recordings.append(
            Recording(
                path=full,
                id=name,
                text=text,
                speaker=parts[0],
                language=language,
                extra={"split": split, "subset": subset, "book": parts[1], "gender": genders.get(parts[0])},
            )
        )
    found.note_untold(folder, untold, split)
    found.leave_out_texts(folder, [f"{folder}/{name}" for name in texts], split)
    if subsets:
        found.note(f"{folder}/limited_supervision names {len(subsets)} recordings that are not there: {some(subsets)}")


def _read_texts(path: Path) -> dict[str, str]:
    texts = {}
    for number, line in enumerate(scan_lines(path), start=1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        if not tab:
            raise ManifestError(f"{path}:{number}: no tab; lines must be `id<TAB>text`")
        texts[name.strip()] = text.strip()
    return texts


def _read_subsets(folder: Path) -> dict[str, str]:
    """The smallest subset of each utterance that is in one."""
    lists = [(folder / "9hr" / "handles.txt", "10h")]
    lists += [(folder / "1hr" / str(fold) / "handles.txt", "1h" if fold else "10min") for fold in range(6)]
    subsets: dict[str, str] = {}
    for path, subset in lists:
        if path.is_file():
            subsets |= {line.strip(): subset for line in read_lines(path) if line.strip()}
    return subsets


def _read_genders(path: Path) -> dict[str, str]:
    """`F` or `M` by speaker, from lines `speaker | gender | partition | ...`; empty without the file."""
    if not path.is_file():
        return {}
    rows = [[field.strip() for field in line.split("|")] for line in read_lines(path)]
    return {row[0]: row[1] for row in rows if len(row) > 1 and row[0].isdigit()}
