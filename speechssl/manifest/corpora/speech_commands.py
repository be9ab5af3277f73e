"""Speech Commands: `{word}/{hash}_nohash_{number}.wav`; `validation_list.txt` and `testing_list.txt` name theirs."""

import re
from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, descend, find_files
from speechssl.manifest.transcripts import read_lines

_NAME = re.compile(r"(?P<word>[a-z]+)/(?P<speaker>[0-9a-f]+)_nohash_(?P<take>\d+)\.wav")
_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
_NOISE = "_background_noise_"


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """All words, with the columns split and take; `text` is the word, `speaker` the hash of who said it.

    What neither list names is for training. The recordings of background noise are no speech and are left out.
    """
    found = Found(root=descend(root, "speech_commands_v0.02", "SpeechCommands/speech_commands_v0.02"))
    named: dict[str, str] = {}
    for split, name in _LISTS.items():
        if (found.root / name).is_file():
            named |= {line.strip(): split for line in read_lines(found.root / name) if line.strip()}
        else:
            found.note(f"{name} is not there, so that the split {split} is in train")
    for path in find_files(found.root, {".wav"}):
        match = _NAME.fullmatch(path)
        split = named.pop(path, "train")
        if path.startswith(f"{_NOISE}/"):
            found.leave_out(path, "background noise, not speech")
        elif match is None:
            found.leave_out(path, "name is not {word}/{hash}_nohash_{number}.wav", split)
        else:
            found.recordings.append(
                Recording(
                    path=path,
                    id=path.removesuffix(".wav"),
                    text=match["word"],
                    speaker=match["speaker"],
                    language="en",
                    extra={"split": split, "take": int(match["take"])},
                )
            )
    for split, name in _LISTS.items():
        missing = [path for path, other in named.items() if other == split]
        found.leave_out_all(split, missing, f"named in {name} but not there", split)
    if not found.recordings:
        raise ManifestError(
            f"{found.root}: holds no recordings named like right/94de6a6a_nohash_4.wav; --root must be the unpacked"
            f" {card.title}"
        )
    return found
