"""What a layout finds in a corpus' folder, before any recording is opened; and how layouts look for files."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.audio import AUDIO_EXTENSIONS
from speechssl.errors import ManifestError
from speechssl.manifest.recordings import Recordings
from speechssl.manifest.transcripts import read_lines

SPHERE_EXTENSIONS = frozenset({".sph"})
"""NIST SPHERE; the layouts that have such files say so, TIMIT calls them `.WAV`."""


@dataclass(kw_only=True)
class Found:
    """Filled by a layout's `find`: the recordings, what is left out with the reason, and lines for the user.

    The recordings' paths are relative to `root`. What is left out and what is noted may belong to a split; it is told
    only to those who asked for that split.
    """

    root: Path
    recordings: Recordings = field(default_factory=Recordings)
    skipped: list[tuple[str, str, str | None]] = field(default_factory=list)
    notes: list[tuple[str, str | None]] = field(default_factory=list)

    def leave_out(self, path: str, reason: str, split: str | None = None) -> None:
        """Count a path with the reason why it is not in the manifest."""
        self.skipped.append((path, reason, split))

    def leave_out_all(self, part: str, paths: Collection[str], reason: str, split: str | None = None) -> None:
        """Count many paths of a part with the same reason, and name the first of them."""
        for path in sorted(paths):
            self.leave_out(path, reason, split)
        if paths:
            self.note(f"{part}: {len(paths)} left out ({reason}): {some(paths)}", split)

    def leave_out_texts(self, part: str, paths: Collection[str], split: str | None = None) -> None:
        """Count the texts of a part that belong to no recording, and name the first of them."""
        self.leave_out_all(part, paths, "has a text but no recording", split)

    def note(self, text: str, split: str | None = None) -> None:
        """Add a line for the user."""
        self.notes.append((text, split))

    def note_untold(self, part: str, paths: Collection[str], split: str | None = None) -> None:
        """Say how many recordings of a part have no text, and name the first; they stay in the manifest."""
        if paths:
            self.note(f"{part}: {len(paths)} recordings without a text: {some(paths)}", split)


def some(names: Iterable[str], limit: int = 3) -> str:
    """The first few of many names, for a message."""
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")


def find_files(folder: Path, extensions: Collection[str] = AUDIO_EXTENSIONS) -> list[str]:
    """Paths below a folder with one of the extensions (lower case here, any case there), relative with `/`, sorted.

    Hidden files and folders are passed, links followed. Empty where there is no such folder.
    """
    return sorted(_walk(folder, extensions))


def _walk(folder: Path, extensions: Collection[str]) -> Iterator[str]:
    for directory, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        prefix = os.path.relpath(directory, folder).replace(os.sep, "/")
        for name in files:
            if os.path.splitext(name)[1].lower() in extensions and not name.startswith("."):
                yield name if prefix == os.curdir else f"{prefix}/{name}"


def stem(path: str) -> str:
    """The file's name without folders and without its (last) extension."""
    return os.path.splitext(os.path.basename(path))[0]


def descend(root: Path, *names: str) -> Path:
    """The folder that an archive unpacks to, where the user named the folder that holds it: `root/name` or `root`."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def read_id_texts(path: Path) -> dict[str, str]:
    """Texts by id of a file with lines `id TEXT`, as in LibriSpeech's `.trans.txt`.

    Raises:
        ManifestError: unreadable, or a line without a text; names the line.
    """
    texts = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        name, space, text = line.strip().partition(" ")
        if not space:
            raise ManifestError(f"{path}:{number}: no text after {name!r}; lines must be `id TEXT`")
        texts[name] = text.strip()
    return texts


def read_fields(path: Path, *, delimiter: str = "\t", needed: Sequence[str] = ()) -> list[dict[str, str]]:
    """Lines of a table whose first line names the columns; quotation marks mean nothing, values are stripped.

    Raises:
        ManifestError: unreadable, empty, without a needed column, or a line of another length; names the line.
    """
    lines = read_lines(path)
    if not lines:
        raise ManifestError(f"{path}: is empty; unpack the corpus again")
    header = [name.strip() for name in lines[0].split(delimiter)]
    missing = [name for name in needed if name not in header]
    if missing:
        raise ManifestError(f"{path}:1: the column {', '.join(missing)} is missing; it has {', '.join(header)}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        values = [value.strip() for value in line.split(delimiter)]
        if len(values) != len(header):
            raise ManifestError(f"{path}:{number}: {len(values)} fields, but the header has {len(header)}")
        rows.append(dict(zip(header, values, strict=True)))
    return rows


def sphere_fault(path: Path) -> str | None:
    """Why a NIST SPHERE file cannot be used, from its header; None where it can, or is no such file.

    libsndfile reads samples as they are (PCM, mu-law, A-law), and takes a cut-off file for a short one. Samples
    compressed with Shorten, as on some of LDC's older discs, must be unpacked before.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(1024)
            size = file.seek(0, os.SEEK_END)
    except OSError:
        return None  # said better where the recording is opened
    if not header.startswith(b"NIST_1A"):
        return None
    lines = [line.split() for line in header.split(b"end_head", 1)[0].decode("ascii", "replace").splitlines()]
    fields = {words[0]: words[-1] for words in lines if len(words) > 1}
    coding = fields.get("sample_coding", "pcm")
    if "," in coding:  # such as pcm,embedded-shorten-v2.00
        unpack = f"`ffmpeg -i {os.path.basename(path)} -f wav OUT.wav` or sph2pipe"
        return f"compressed NIST SPHERE ({coding}), which cannot be read; unpack it with {unpack}"
    try:
        header_size = int(lines[1][0])
        frame_size = int(fields["sample_n_bytes"]) * int(fields["channel_count"])
        promised, there = int(fields["sample_count"]), (size - header_size) // frame_size
    except (KeyError, ValueError, IndexError, ZeroDivisionError):
        return None
    if there < promised:
        return f"truncated: its header promises {promised} samples but {there} are there; copy the file again"
    return None


def nested_subsets(includes: Mapping[str, Sequence[str]], name: str) -> set[str]:
    """A subset and all that it holds, at any depth."""
    found = {name}
    for part in includes.get(name, ()):
        found |= nested_subsets(includes, part)
    return found
