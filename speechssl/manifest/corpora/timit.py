"""TIMIT: `{TRAIN,TEST}/DR{1..8}/{speaker}/{sentence}.WAV` (NIST SPHERE) with `.TXT`, `.WRD` and `.PHN`.

Discs have upper-case names, many copies lower-case ones; some lie below `data/`, and some have a RIFF copy beside each
recording (`SA1.WAV.wav`). All of them are read.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, find_files, sphere_fault
from speechssl.manifest.recordings import Recording, Recordings
from speechssl.manifest.transcripts import read_lines

_SENTENCES = {"sa": "dialect", "sx": "compact", "si": "diverse"}


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """All utterances, with the columns split, subset, sentence, sentence_type, dialect_region, gender and phones.

    `subset` is `core-test` for the 24 speakers of the core test set and `dev` for the 50 that Kaldi's recipe takes from
    the rest of TEST; it is null elsewhere, and for the two dialect sentences (SA), which every speaker reads and which
    are left out of training and tests by convention. `phones` are the 61 published labels in order, with spaces.
    """
    base = next((root / name for name in ("", "data", "TIMIT", "timit") if _has_splits(root / name)), None)
    if base is None:
        raise ManifestError(f"{root}: holds no folders TRAIN and TEST; --root must be where TIMIT's folders lie")
    found = Found(root=base)
    speakers = {name: subset for subset in ("core-test", "dev") for name in card.details["speakers"][subset]}
    for folder in sorted(path.name for path in base.iterdir() if path.name.lower() in ("train", "test")):
        _add_split(found, folder, speakers)
    return found


def _has_splits(folder: Path) -> bool:
    return folder.is_dir() and any(path.name.lower() in ("train", "test") for path in folder.iterdir())


def _add_split(found: Found, folder: str, speakers: dict[str, str]) -> None:
    split = folder.lower()
    texts = {os.path.splitext(path)[0].lower(): path for path in find_files(found.root / folder, {".txt"})}
    untold = []
    seen: set[str] = set()
    for path in sorted(find_files(found.root / folder, {".wav", ".flac"}), key=lambda path: (len(path), path)):
        directory, name = os.path.split(path)
        sentence = name.split(".")[0].lower()
        key = f"{directory}/{sentence}".lower()
        parts = key.split("/")
        if len(parts) != 3 or sentence[:2] not in _SENTENCES:
            found.leave_out(f"{folder}/{path}", "name is not DR{1..8}/{speaker}/{sentence}.WAV", split)
            continue
        if key in seen:
            found.leave_out(f"{folder}/{path}", "a second copy of the utterance", split)
            continue
        seen.add(key)
        reason = sphere_fault(found.root / folder / path)
        if reason is not None:
            found.leave_out(f"{folder}/{path}", reason, split)
            texts.pop(key, None)
            continue
        text_path = texts.pop(key, None)
        if text_path is None:
            untold.append(f"{folder}/{path}")
        found.recordings.append(_recording(found, folder, path, text_path, speakers))
    found.recordings = Recordings(sorted(found.recordings, key=lambda recording: recording.path))
    found.note_untold(folder, untold, split)
    found.leave_out_texts(folder, [f"{folder}/{path}" for path in texts.values()], split)


def _recording(found: Found, folder: str, path: str, text_path: str | None, speakers: dict[str, str]) -> Recording:
    directory, name = os.path.split(path)
    sentence = name.split(".")[0].lower()
    region, speaker = directory.lower().split("/")
    phones = _read_labels(found.root / folder / directory, sentence)
    return Recording(
        path=f"{folder}/{path}",
        id=f"{speaker}_{sentence}",
        text=None if text_path is None else _read_text(found.root / folder / text_path),
        speaker=speaker,
        language="en",
        extra={
            "split": folder.lower(),
            "subset": None if sentence.startswith("sa") else speakers.get(speaker),
            "sentence": sentence,
            "sentence_type": _SENTENCES[sentence[:2]],
            "dialect_region": region,
            "gender": speaker[0].upper(),
            "phones": phones,
        },
    )


def _read_text(path: Path) -> str | None:
    """The sentence of a `.TXT`, which begins with its first and last sample."""
    line = " ".join(read_lines(path))
    fields = line.split(maxsplit=2)
    if len(fields) < 3 or not (fields[0].isdigit() and fields[1].isdigit()):
        raise ManifestError(f"{path}:1: must be `first_sample last_sample text`, is {line[:60]!r}")
    return fields[2].strip()


def _read_labels(folder: Path, sentence: str) -> str | None:
    """The labels of a `.PHN` in order; None without the file."""
    for name in (f"{sentence}.phn", f"{sentence.upper()}.PHN"):
        if (folder / name).is_file():
            return " ".join(line.split()[2] for line in read_lines(folder / name) if len(line.split()) == 3)
    return None
