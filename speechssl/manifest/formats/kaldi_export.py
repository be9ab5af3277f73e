"""Write Kaldi's data directory; see `kaldi` for the layout."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest.formats.base import (
    ExportResult,
    Headers,
    Recordings,
    WriteOptions,
    combined,
    count_uncarried,
    extra_names,
    floats,
    integers,
    is_span,
    open_headers,
    optional,
    recordings_of,
    shown,
)
from speechssl.manifest.formats.commands import decoding_command
from speechssl.manifest.formats.kaldi import FILES
from speechssl.manifest.formats.lines import has_space, joined, single_spaced, staged, write_lines
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.table import Manifest

_GENDERS = {"m": "m", "male": "m", "f": "f", "female": "f"}
_DECIMALS = 7


@dataclass(frozen=True, kw_only=True)
class Names:
    """What utterances, speakers and recordings are called in Kaldi's files; `left_out` counts what was changed."""

    utterances: pa.Array
    speakers: pa.Array
    recordings: pa.Array
    left_out: dict[str, int]


def write(manifest: Manifest, path: Path, options: WriteOptions) -> ExportResult:
    """Export to the folder `path`.

    `segments` is left away when the headers show that every row is a whole recording. A recording that is no wav of
    one channel gets a command that decodes it with ffmpeg, since Kaldi reads nothing else.

    Raises:
        ManifestError: names that cannot be brought into the order that Kaldi demands, or a recording without header.
    """
    recordings = recordings_of(manifest)
    headers = None
    if options.open_recordings:
        headers = open_headers(recordings, np.ones(len(recordings.paths), dtype=bool), options.progress)
    left_out: dict[str, int] = {}
    words = _words(manifest, left_out)
    spans = headers is None or bool(is_span(manifest, recordings, headers).any())
    spans = spans or len(recordings.paths) < len(manifest)
    # lhotse takes a line of `text` without words amiss where there are no segments
    segmented = spans or (words is not None and bool(pc.any(pc.equal(words, "")).as_py()))
    names = _names(manifest, recordings, segmented=segmented, left_out=left_out)
    columns = _utterance_files(manifest, names, words)
    if segmented:
        columns["segments"] = _segments(manifest, recordings, names)
    with staged() as files:
        for name, values in _recording_files(manifest, recordings, headers).items():
            _write_sorted(files(path / name), names.recordings, values)
        for name, values in columns.items():
            _write_sorted(files(path / name), names.utterances, values)
        for name, (keys, values) in _speaker_files(manifest, names, left_out).items():
            _write_sorted(files(path / name), keys, values)
        for name in FILES:
            files.drop(path / name)
    carried = ["id", "audio_filepath", "offset", "duration", "num_samples", "text", "speaker", "language", "gender"]
    left_out |= count_uncarried(manifest, extra_names(manifest, besides=("gender",)))
    return ExportResult(
        format="kaldi",
        files=files.files,
        num_utterances=len(manifest),
        seconds=manifest.total_seconds,
        carried=tuple(name for name in carried if optional(manifest, name) is not None),
        left_out=left_out,
        notes=("sample rates are read from the recordings",),
    )


def _words(manifest: Manifest, left_out: dict[str, int]) -> pa.Array | None:
    text = optional(manifest, "text")
    if text is None:
        return None
    words, changed = single_spaced(pc.fill_null(combined(text), ""))
    if changed:
        left_out["white space in the text made one"] = changed
    if text.null_count:
        left_out["no text: written as an empty one"] = int(text.null_count)
    return words


def _names(manifest: Manifest, recordings: Recordings, *, segmented: bool, left_out: dict[str, int]) -> Names:
    """Names without white space; every utterance's begins with its speaker's, so that both sort alike."""
    ids = _one_word(combined(manifest.column("id")), "id", left_out)
    given = optional(manifest, "speaker")
    speakers = pa.nulls(len(ids), STRING) if given is None else combined(given)
    unknown = int(speakers.null_count)
    speakers = pc.fill_null(_one_word(speakers, "speaker", left_out), ids)
    if unknown:
        left_out["no speaker: the utterance counts as one"] = unknown
    if not _sorted_alike(ids, speakers):
        named = pc.if_else(pc.equal(ids, speakers), ids, joined(speakers, ids, separator="-"))
        left_out["id: its speaker was put in front"] = pc.sum(pc.not_equal(named, ids)).as_py()
        speakers = pc.if_else(pc.equal(ids, speakers), named, speakers)
        ids = named
        if not _sorted_alike(ids, speakers):
            raise ManifestError(
                "ids and speakers cannot be brought into one order, as Kaldi demands: a speaker's name is the beginning"
                " of another's, or some rows have no speaker; give every row a speaker, with names of one length"
            )
    if pc.count_distinct(ids).as_py() < len(ids):
        raise ManifestError("two ids are the same once white space in them is replaced by '_'; change one of them")
    if segmented:
        called = _one_word(recordings.names(manifest.column("id")), "recording", left_out)
    else:
        rows = np.empty(len(recordings.paths), dtype=np.int64)
        rows[recordings.rows] = np.arange(len(ids))
        called = ids.take(pa.array(rows))
    return Names(utterances=ids, speakers=speakers, recordings=called, left_out=left_out)


def _one_word(values: pa.Array, name: str, left_out: dict[str, int]) -> pa.Array:
    spaced = int(np.count_nonzero(has_space(values)))
    if not spaced:
        return values
    left_out[f"white space in the {name}: '_' instead"] = spaced
    return pc.replace_substring(single_spaced(values)[0], " ", "_")


def _sorted_alike(ids: pa.Array, speakers: pa.Array) -> bool:
    """Whether every id begins with its speaker, and sorting by id sorts by speaker too."""
    low, high = speakers.cast(pa.large_binary()), ids.cast(pa.large_binary())
    above = pc.binary_join_element_wise(low, pa.scalar(b"\xff", pa.large_binary()), pa.scalar(b"", pa.large_binary()))
    begins = pc.and_(pc.less_equal(low, high), pc.less(high, above))  # exactly what has `low` as its beginning
    ordered = speakers.take(pc.sort_indices(ids))
    ascending = pc.less_equal(ordered[:-1], ordered[1:])
    return bool(pc.all(begins).as_py()) and bool(pc.all(ascending, min_count=0).as_py())


def _recording_files(manifest: Manifest, recordings: Recordings, headers: Headers | None) -> dict[str, pa.Array]:
    files = [os.path.abspath(file) for file in recordings.files()]
    bad = [file for file in files if "\n" in file or "\r" in file]
    if bad:
        raise ManifestError(f"{bad[0]!r}: a path in wav.scp cannot hold a line break; rename the recording")
    rates = np.zeros(len(files), dtype=np.int64)
    rates[recordings.rows] = integers(manifest, "sample_rate")
    channels = np.ones(len(files), dtype=np.int64)
    found = {}
    if headers is not None:
        rates, channels = headers.sample_rate, headers.num_channels
        found["reco2dur"] = pa.array(headers.num_samples / rates).cast(STRING)
    values = [
        file
        if file.lower().endswith(".wav") and count == 1
        else f"{decoding_command(file, sample_rate=rate, mono=count > 1)} |"
        for file, count, rate in zip(files, channels.tolist(), rates.tolist(), strict=True)
    ]
    return found | {"wav.scp": pa.array(values, STRING)}


def _utterance_files(manifest: Manifest, names: Names, words: pa.Array | None) -> dict[str, pa.Array]:
    rate = integers(manifest, "sample_rate")
    found = {
        "utt2spk": names.speakers,
        "utt2dur": pa.array(integers(manifest, "num_samples") / rate).cast(STRING),
        "utt2num_samples": combined(manifest.column("num_samples")).cast(STRING),
    }
    if words is not None:
        found["text"] = words
    language = optional(manifest, "language")
    if language is not None:
        found["utt2lang"] = combined(language)
    return found


def _segments(manifest: Manifest, recordings: Recordings, names: Names) -> pa.Array:
    rate = np.asarray(integers(manifest, "sample_rate"), dtype=np.float64)
    first = np.floor(floats(manifest, "offset") * rate + 0.5)
    last = np.asarray(first + integers(manifest, "num_samples"), dtype=np.float64)
    called = names.recordings.take(pa.array(recordings.rows))
    return joined(called, _seconds(first, rate), _seconds(last, rate), separator=" ")


def _seconds(sample: npt.NDArray[np.float64], rate: npt.NDArray[np.float64]) -> pa.Array:
    """Times that name exactly that sample, whether a reader rounds (lhotse) or cuts off (Kaldi, kaldiio)."""
    seconds = np.round(sample / rate, _DECIMALS)
    seconds = np.where(np.floor(seconds * rate) == sample, seconds, np.round((sample + 0.01) / rate, _DECIMALS))
    return pa.array(seconds).cast(STRING)


def _speaker_files(manifest: Manifest, names: Names, left_out: dict[str, int]) -> dict[str, tuple[pa.Array, pa.Array]]:
    order = pc.sort_indices(names.utterances)
    table = pa.table({"speaker": names.speakers.take(order), "utterance": names.utterances.take(order)})
    groups = table.group_by("speaker", use_threads=False).aggregate([("utterance", "list")])
    lists = pc.binary_join(combined(groups["utterance_list"]).cast(pa.list_(STRING)), pa.scalar(" ", STRING))
    found = {"spk2utt": (combined(groups["speaker"]), lists)}
    gender = optional(manifest, "gender")
    if gender is None:
        return found
    values = pc.utf8_lower(combined(gender.cast(STRING)))
    known = pc.index_in(values, value_set=pa.array(list(_GENDERS), STRING))
    letters = pa.array(list(_GENDERS.values()), STRING).take(known)
    pairs = pa.table({"speaker": names.speakers, "gender": letters}).group_by(["speaker", "gender"]).aggregate([])
    pairs = pairs.filter(pc.is_valid(pairs["gender"]))
    if pc.count_distinct(pairs["speaker"]).as_py() < len(pairs):
        counts = pc.value_counts(pairs["speaker"])
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
        raise ManifestError(
            f"speakers with more than one gender: {shown(twice)}; spk2gender holds one each: correct them"
        )
    other = int(letters.null_count) - int(gender.null_count)
    if other:
        left_out["gender that is neither m nor f"] = other
    found["spk2gender"] = (combined(pairs["speaker"]), combined(pairs["gender"]))
    return found


def _write_sorted(path: Path, keys: pa.Array, values: pa.Array) -> None:
    """Lines of key and value in the byte order of the keys; keys without a value are left away."""
    lines = pc.utf8_rtrim(joined(keys, values, separator=" "), " ")
    write_lines(path, pc.drop_null(lines.take(pc.sort_indices(keys))))
