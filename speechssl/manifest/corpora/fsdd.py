"""Free Spoken Digit Dataset: `recordings/{digit}_{speaker}_{take}.wav`; takes 0 to 4 are the official test split."""

import os
import re
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import BuildResult, Recording, build_from_recordings, find_recordings
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.scan import Progress

_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_LAST_TEST_TAKE = 4


def prepare(
    card: CorpusCard, root: Path, *, num_workers: int | None = None, progress: Progress | None = None
) -> BuildResult:
    """Manifest with the columns digit, take and split; `text` is the digit as a word."""
    recordings = []
    skipped = []
    for path in find_recordings(root):
        stem = os.path.splitext(os.path.basename(path))[0]
        match = _NAME.fullmatch(stem)
        if match is None:
            skipped.append((path, "name is not {digit}_{speaker}_{take}"))
            continue
        digit, speaker, take = int(match[1]), match[2], int(match[3])
        recordings.append(
            Recording(
                path=path,
                id=stem,
                text=_WORDS[digit],
                speaker=speaker,
                language="en",
                extra={"digit": digit, "take": take, "split": "test" if take <= _LAST_TEST_TAKE else "train"},
            )
        )
    if not recordings:
        raise ManifestError(f"{root}: holds no recordings named like 7_jackson_32.wav; --root must be {card.title}")
    return build_from_recordings(recordings, root, skipped=skipped, num_workers=num_workers, progress=progress)
