"""VoxCeleb: `wav/id10001/{video}/{number}.wav` (VoxCeleb1) and `aac/id00012/{video}/{number}.m4a` (VoxCeleb2).

The archives of the development and the test part may be unpacked into one folder or several: only the end of the path
counts. Lists that may lie beside: `vox1_meta.csv`, `vox2_meta.csv`, `iden_split.txt`, `veri_test.txt`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.build import Recording
from speechssl.manifest.corpora.card import CorpusCard
from speechssl.manifest.corpora.found import Found, find_files, some
from speechssl.manifest.transcripts import read_lines

_PATH = re.compile(r"(?:.*/)?(?P<key>(?P<speaker>id(?P<release>[01])\d{4})/(?P<video>[^/]+)/\d+)\.\w+")
_VERIFICATION_SPEAKERS = range(10270, 10310)  # the test part of VoxCeleb1, whose names begin with E
_IDENTIFICATION = {"1": "train", "2": "validation", "3": "test"}


def find(card: CorpusCard, root: Path, splits: Sequence[str]) -> Found:
    """All recordings, with the columns split, video, gender, nationality and identification_split. There are no texts.

    `split` is the publisher's division by speakers, `voxceleb1-dev` and so on. For VoxCeleb2 it comes from a folder
    `dev` or `test` in the path, else from `vox2_meta.csv`, and is null where neither tells. `identification_split` is
    that of `iden_split.txt`, by videos. Pairs for verification stay in `veri_test.txt`; what they name is looked for.
    """
    found = Found(root=root)
    facts = _read_facts(root)
    identification = _read_pairs(root / "iden_split.txt")
    keys = set()
    for path in find_files(root, {".wav", ".m4a", ".flac"}):
        match = _PATH.fullmatch(path)
        if match is None:
            found.leave_out(path, "path does not end in {speaker}/{video}/{number}")
            continue
        if match["key"] in keys:
            found.leave_out(path, "a second copy of the recording")
            continue
        keys.add(match["key"])
        speaker = match["speaker"]
        known = facts.get(speaker, {})
        found.recordings.append(
            Recording(
                path=path,
                id=match["key"].replace("/", "-"),
                speaker=speaker,
                extra={
                    "split": _split(path, speaker, known.get("set")),
                    "video": match["video"],
                    "gender": (known.get("gender") or "").upper() or None,
                    "nationality": known.get("nationality"),
                    "identification_split": identification.get(match["key"]),
                },
            )
        )
    if not found.recordings:
        raise ManifestError(f"{root}: holds no recordings named like id10001/1zcIwhmdeo4/00001.wav, at any depth")
    found.leave_out_all("iden_split.txt", identification.keys() - keys, "named in iden_split.txt but not there")
    trials = _read_trials(root / "veri_test.txt")
    found.leave_out_all("veri_test.txt", trials - keys, "named in veri_test.txt but not there")
    unknown = [recording.path for recording in found.recordings if recording.extra["split"] is None]
    if unknown:
        found.note(f"{len(unknown)} recordings of VoxCeleb2 have no split, for want of vox2_meta.csv: {some(unknown)}")
    return found


def _split(path: str, speaker: str, told: str | None) -> str | None:
    if speaker.startswith("id1"):
        return "voxceleb1-test" if int(speaker[2:]) in _VERIFICATION_SPEAKERS else "voxceleb1-dev"
    folder = next((part for part in path.split("/") if part in ("dev", "test")), told)
    return f"voxceleb2-{folder}" if folder in ("dev", "test") else None


def _read_facts(root: Path) -> dict[str, dict[str, str]]:
    """What `vox1_meta.csv` (tabs) and `vox2_meta.csv` (commas) tell of each speaker; keys gender, nationality, set."""
    facts = {}
    for name in ("vox1_meta.csv", "vox2_meta.csv"):
        if not (root / name).is_file():
            continue
        lines = read_lines(root / name)
        delimiter = "\t" if "\t" in lines[0] else ","
        header = [field.strip().lower() for field in lines[0].split(delimiter)]
        for line in lines[1:]:
            values = [field.strip() for field in line.split(delimiter)]
            row = dict(zip(header, values, strict=False))
            facts[values[0]] = {key: row[key] for key in ("gender", "nationality", "set") if row.get(key)}
    return facts


def _read_pairs(path: Path) -> dict[str, str]:
    """The identification split by recording, from lines `1 id10006/nLEBBc9oIFs/00003.wav`; empty without the file."""
    if not path.is_file():
        return {}
    split = {}
    for number, line in enumerate(read_lines(path), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[0] not in _IDENTIFICATION:
            raise ManifestError(f"{path}:{number}: must be `1 speaker/video/number.wav`, is {line[:60]!r}")
        split[fields[1].rsplit(".", 1)[0]] = _IDENTIFICATION[fields[0]]
    return split


def _read_trials(path: Path) -> set[str]:
    """The recordings that the pairs for verification name, from lines `1 id10270/a/00001.wav id10270/b/00008.wav`."""
    if not path.is_file():
        return set()
    return {name.rsplit(".", 1)[0] for line in read_lines(path) for name in line.split()[1:]}
