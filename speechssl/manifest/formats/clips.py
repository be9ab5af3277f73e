"""Cut spans out of their recordings, for formats that can only name whole files."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl import audio
from speechssl.errors import AudioError, ManifestError
from speechssl.manifest import paths
from speechssl.manifest.formats.base import combined, shown
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.scan import map_in_threads
from speechssl.manifest.table import Manifest
from speechssl.progress import Progress
from speechssl.types import Utterance

_CLIPS_PER_FOLDER = 10000


def cut_clips(
    manifest: Manifest,
    rows: npt.NDArray[np.bool_],
    folder: Path,
    *,
    extension: str = ".flac",
    progress: Progress | None = None,
) -> Manifest:
    """Write the wanted rows as recordings of their own, and name these in the manifest instead.

    A clip is mono, 16 bit, at its recording's rate, and exactly the span that reading the row gives. Its name is
    made of the row's id.

    Raises:
        ManifestError: some rows cannot be read; names the first.
    """
    places = np.flatnonzero(rows)
    wanted = manifest.take(places)
    names = _names(wanted, extension)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(0, len(names), _CLIPS_PER_FOLDER):
        (folder / names[number]).parent.mkdir(exist_ok=True)

    def cut(item: tuple[Utterance, str]) -> tuple[int, int] | AudioError:
        utterance, name = item
        try:
            rate = audio.probe(utterance.audio_filepath).sample_rate
            return _write(folder / name, audio.read_utterance(utterance, rate), rate), rate
        except AudioError as error:
            return error

    items = zip(wanted, names, strict=True)
    results = list(map_in_threads(cut, items, num_items=len(names), progress=progress))
    bad = [str(result) for result in results if isinstance(result, AudioError)]
    if bad:
        raise ManifestError(f"{len(bad)} of {len(names)} clips cannot be cut: {shown(bad)}")
    written = [result for result in results if not isinstance(result, AudioError)]
    num_samples, rate = np.array(written, dtype=np.int64).reshape(-1, 2).T
    return _replace(manifest, places, folder, names, num_samples, rate)


def _replace(
    manifest: Manifest,
    places: npt.NDArray[np.int64],
    folder: Path,
    names: list[str],
    num_samples: npt.NDArray[np.int64],
    rate: npt.NDArray[np.int64],
) -> Manifest:
    """The manifest with clips at `places`."""

    root = Path(manifest.folder) if manifest.folder is not None else Path.cwd()
    clips = pa.chunked_array([pa.array(names, STRING)])
    mask = np.zeros(len(manifest), dtype=bool)
    mask[places] = True
    changed = manifest
    for name, values in (
        ("audio_filepath", combined(paths.rebase(clips, folder, root))),
        ("offset", pa.array(np.zeros(len(places)))),
        ("duration", pa.array(num_samples / rate)),
        ("num_samples", pa.array(num_samples)),
        ("sample_rate", pa.array(rate)),
    ):
        column = combined(manifest.column(name))
        changed = changed.with_column(name, pc.replace_with_mask(column, pa.array(mask), values))
    return changed


def _names(manifest: Manifest, extension: str) -> list[str]:
    """A file's name for every row, all different, without anything that a path or a shell would take apart."""
    taken: set[str] = set()
    names = []
    for number, id in enumerate(manifest.column("id").to_pylist()):
        stem = re.sub(r"[^\w.@+-]+", "_", id, flags=re.ASCII).strip("._-")[:120] or "clip"
        name = stem
        count = 1
        while name.lower() in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.lower())
        names.append(f"{number // _CLIPS_PER_FOLDER:04d}/{name}{extension}")
    return names


def _write(path: Path, waveform: audio.Waveform, sample_rate: int) -> int:
    """Write mono f32 `[S]` as 16-bit samples; full scale is 32768 both ways, so 16-bit sources come back exactly."""
    import soundfile

    samples = np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)
    soundfile.write(path, samples, sample_rate, subtype="PCM_16")
    return len(samples)
