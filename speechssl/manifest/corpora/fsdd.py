"""Free Spoken Digit Dataset: `recordings/{digit}_{speaker}_{take}.wav`; takes 0 to 4 are the official test split."""

import re
from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, find_files, stem

_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LAST_TEST_TAKE = 4


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """Recordings with the columns digit, take and split; `text` is the digit as a word."""
    found = Found(root=root)
    for path in find_files(root):
        name = stem(path)
        match = _NAME.fullmatch(name)
        if match is None:
            found.leave_out(path, "name is not {digit}_{speaker}_{take}")
            continue
        digit, speaker, take = int(match[1]), match[2], int(match[3])
        split = "test" if take <= _LAST_TEST_TAKE else "train"
        found.recordings.append(
            Recording(
                path=path,
                id=name,
                text=_WORDS[digit],
                speaker=speaker,
                language="en",
                extra={"digit": digit, "take": take, "split": split},
            )
        )
    if not found.recordings:
        raise ManifestError(f"{root}: holds no recordings named like 7_jackson_32.wav; --root must be {card.title}")
    return found
