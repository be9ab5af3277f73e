"""VCTK: `wav48_silence_trimmed/{speaker}/{speaker}_{number}_mic{1,2}.flac` (0.92), texts in `txt/`.

Older releases have `wav48/{speaker}/{speaker}_{number}.wav` and one microphone.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, descend, find_files, stem
from speechssl.manifest.transcripts import read_lines, read_sidecar

_NAME = re.compile(r"((?:p|s)\d+)_(\d+)(?:_(mic\d))?")


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """Recordings of both microphones, with the columns subset, prompt, gender, age, accent and region.

    `subset` is the microphone, `mic1` or `mic2`. The same sentence comes from both, so choose one of them before
    counting hours or training. Speaker p315's texts were lost by the publisher; those recordings have none.
    """
    root = descend(root, "VCTK-Corpus-0.92", "VCTK-Corpus")
    audio = next((name for name in ("wav48_silence_trimmed", "wav48") if (root / name).is_dir()), None)
    if audio is None:
        raise ManifestError(
            f"{root}: holds neither wav48_silence_trimmed nor wav48; --root must be the unpacked {card.title}"
        )
    found = Found(root=root)
    texts = {stem(path): root / "txt" / path for path in find_files(root / "txt", {".txt"})}
    speakers = _read_speakers(root / "speaker-info.txt")
    spoken = set()
    untold = []
    for path in find_files(root / audio):
        match = _NAME.fullmatch(stem(path))
        if match is None:
            found.leave_out(f"{audio}/{path}", "name is not {speaker}_{number}_mic{1 or 2}")
            continue
        speaker, prompt, microphone = match[1], match[2], match[3]
        name = f"{speaker}_{prompt}"
        text = read_sidecar(texts[name]) if name in texts else None
        spoken.add(name)
        if text is None:
            untold.append(f"{audio}/{path}")
        extra = {"prompt": prompt, "subset": microphone or "mic1"} | speakers.get(speaker, {})
        found.recordings.append(
            Recording(path=f"{audio}/{path}", id=stem(path), text=text, speaker=speaker, language="en", extra=extra)
        )
    found.note_untold(audio, untold)
    found.leave_out_texts("txt", [f"txt/{name.split('_')[0]}/{name}" for name in texts.keys() - spoken])
    if not found.recordings:
        raise ManifestError(f"{root / audio}: holds no recordings named like p225_001_mic1.flac")
    return found


def _read_speakers(path: Path) -> dict[str, dict[str, str | None]]:
    """Facts by speaker from `speaker-info.txt`: ID AGE GENDER ACCENTS REGION, remarks in brackets; empty without it."""
    if not path.is_file():
        return {}
    speakers = {}
    for line in read_lines(path)[1:]:
        fields = line.split("(")[0].split()
        if len(fields) < 4:
            continue
        speaker = fields[0] if fields[0][0] in "ps" else f"p{fields[0]}"
        speakers[speaker] = {
            "gender": fields[2],
            "age": fields[1],
            "accent": fields[3],
            "region": " ".join(fields[4:]) or None,
        }
    return speakers
