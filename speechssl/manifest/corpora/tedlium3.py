"""TED-LIUM 3: talks as NIST SPHERE, `legacy/{train,dev,test}/{sph,stm}` or, for training, `data/{sph,stm}`.

A line of an `.stm` is `talk channel speaker start end <condition,band,gender> text`, times in seconds.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import SPHERE_EXTENSIONS, Found, descend, find_files, sphere_fault, stem
from speechssl.manifest.transcripts import read_lines

_GAP = "ignore_time_segment_in_scoring"
_GENDERS = {"male": "M", "female": "F"}
_MARK = re.compile(r"(?<!\S)(?:<unk>|\{\S*\})(?!\S)")
_ENDING = re.compile(r"(?<=\w) (?='\w)")
_EXTENSIONS = SPHERE_EXTENSIONS | {".wav", ".flac"}


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """The marked stretches of every talk, as spans of its file.

    `text` is what is written without `<unk>` (a word that the publisher's dictionary lacks) and with endings joined
    (`it 's` becomes `it's`); `num_unknown_words` counts the `<unk>`, and `published_text` is the line as it is.
    Stretches marked `ignore_time_segment_in_scoring` have no text and are left out. Ids are those of Kaldi's recipe:
    talk, start and end in hundredths of a second. Columns: split, talk, gender, num_unknown_words, published_text.
    """
    found = Found(root=descend(root, "TEDLIUM_release-3"))
    present = {}
    for split in card.splits:
        folders = [f"legacy/{split}", *(["data"] if split == "train" else [])]
        folder = next((name for name in folders if (found.root / name / "stm").is_dir()), None)
        if folder is not None:
            present[split] = folder
    for split in [split for split in present if split in splits]:
        _add_split(found, present[split], split)
    if not present:
        raise ManifestError(
            f"{found.root}: holds neither legacy/train/stm nor data/stm; --root must be the unpacked {card.title}"
        )
    return found


def _add_split(found: Found, folder: str, split: str) -> None:
    talks = {stem(path): f"{folder}/sph/{path}" for path in find_files(found.root / folder / "sph", _EXTENSIONS)}
    texts = {
        stem(path): found.root / folder / "stm" / path for path in find_files(found.root / folder / "stm", {".stm"})
    }
    found.leave_out_texts(split, [f"{folder}/stm/{name}.stm" for name in texts.keys() - talks.keys()], split)
    found.leave_out_all(split, [talks[name] for name in talks.keys() - texts.keys()], "has no .stm", split)
    counts: Counter[str] = Counter()
    for name in sorted(talks.keys() & texts.keys()):
        reason = sphere_fault(found.root / talks[name])
        if reason is None:
            _add_talk(found, talks[name], texts[name], split, counts)
        else:
            found.leave_out(talks[name], reason, split)
    if counts["gaps"]:
        found.note(f"{split}: {counts['gaps']} stretches marked {_GAP} are left out", split)
    if counts["unknown"]:
        found.note(f"{split}: {counts['unknown']} texts lack words that are not known, see num_unknown_words", split)


def _add_talk(found: Found, talk: str, path: Path, split: str, counts: Counter[str]) -> None:
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        fields = line.split(maxsplit=6)
        try:
            name, speaker, start, end = fields[0], fields[2], float(fields[3]), float(fields[4])
        except (IndexError, ValueError):
            raise ManifestError(
                f"{path}:{number}: must be `talk channel speaker start end <condition> text`, is {line[:60]!r}"
            ) from None
        published = fields[6].strip() if len(fields) > 6 else ""
        if published == _GAP:
            counts["gaps"] += 1
            continue
        num_unknown = published.split().count("<unk>")
        counts["unknown"] += num_unknown > 0
        found.recordings.append(
            Recording(
                path=talk,
                id=f"{name}-{round(start * 100):07d}-{round(end * 100):07d}",
                text=spoken_text(published) or None,
                speaker=speaker,
                language="en",
                offset=start,
                duration=end - start,
                extra={
                    "split": split,
                    "talk": name,
                    "gender": _GENDERS.get(fields[5].strip("<>").split(",")[-1]),
                    "num_unknown_words": num_unknown,
                    "published_text": published,
                },
            )
        )


def spoken_text(published: str) -> str:
    """A published line without `<unk>` and noise marks, and with endings joined to their words."""
    return _ENDING.sub("", " ".join(_MARK.sub("", published).split()))
