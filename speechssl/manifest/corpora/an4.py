"""AN4: `wav/{an4_clstk,an4test_clstk}/{speaker}/{utterance}.sph`, lists and texts in `etc/`.

`etc/an4_{train,test}.fileids` has a path a line, `.transcription` lines `<s> TEXT </s> (utterance)`, of the test part
without the marks. The sphere archive is the one to take; conversions to `.wav` and `.flac` are read alike.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import SPHERE_EXTENSIONS, Found, descend, find_files, sphere_fault, stem
from speechssl.manifest.transcripts import read_lines

_LINE = re.compile(r"\s*(?:<s>)?\s*(?P<text>.*?)\s*(?:</s>)?\s*\((?P<name>[^()\s]+)\)\s*")
_EXTENSIONS = SPHERE_EXTENSIONS | {".wav", ".flac"}
_NO_HEADER = (
    "samples without a header (an4_raw); take an4_sphere.tar.gz, or convert them with"
    " `sox -t raw -r 16000 -e signed -b 16 -c 1 -B NAME.raw NAME.wav` (-L for the little-endian archive)"
)


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """Utterances of both parts, with the columns split, gender and prompt (the utterance without its speaker)."""
    found = Found(root=descend(root, "an4"))
    lists = [split for split in card.splits if (found.root / "etc" / f"an4_{split}.fileids").is_file()]
    if not lists:
        raise ManifestError(f"{found.root}: holds no etc/an4_train.fileids; --root must be the unpacked AN4")
    audio = find_files(found.root / "wav", _EXTENSIONS)
    files: dict[str, str] = {}
    for path in audio:  # beside a .sph its conversion to .wav is the same recording
        name = path.rsplit(".", 1)[0]
        if name in files:
            found.leave_out(f"wav/{path}", "a second copy of the recording")
        else:
            files[name] = path
    raw = {path.rsplit(".", 1)[0]: path for path in find_files(found.root / "wav", {".raw"})}
    for split in lists:
        _add_split(found, split, files, raw)
    found.leave_out_all("wav", [f"wav/{path}" for path in files.values()], "no list in etc names it")
    return found


def _add_split(found: Found, split: str, files: dict[str, str], raw: dict[str, str]) -> None:
    """Add the utterances that a list names, and take them out of `files`."""
    texts = _read_texts(found.root / "etc" / f"an4_{split}.transcription")
    missing = []
    untold = []
    for line in read_lines(found.root / "etc" / f"an4_{split}.fileids"):
        key = line.strip()
        if not key:
            continue
        name = stem(key + ".x")
        text = texts.pop(name, None)
        path = files.pop(key, None)
        if path is None:
            if key in raw:
                found.leave_out(f"wav/{raw[key]}", _NO_HEADER, split)
            else:
                missing.append(f"wav/{key}")
            continue
        reason = sphere_fault(found.root / "wav" / path)
        if reason is not None:
            found.leave_out(f"wav/{path}", reason, split)
            continue
        if text is None:
            untold.append(f"wav/{path}")
        speaker = key.split("/")[-2] if "/" in key else name.split("-")[1]
        found.recordings.append(
            Recording(
                path=f"wav/{path}",
                id=name,
                text=text,
                speaker=speaker,
                language="en",
                extra={"split": split, "gender": speaker[0].upper(), "prompt": name.split("-")[0]},
            )
        )
    found.note_untold(split, untold, split)
    found.leave_out_texts(split, missing, split)
    found.leave_out_all(split, texts, f"has a text but is not in an4_{split}.fileids", split)


def _read_texts(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    texts = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ManifestError(f"{path}:{number}: must be `TEXT (utterance)`, is {line[:60]!r}")
        texts[match["name"]] = match["text"]
    return texts
