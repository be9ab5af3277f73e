"""Pack the recordings of a manifest into tar shards, so that it can be interrupted at any moment and gone on with."""

import os
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ConfigError, ManifestError
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.scan import default_num_workers
from speechssl.manifest.shards.encode import OPUS_KILOBITS, OPUS_RATES, AudioFormat
from speechssl.manifest.shards.items import Items, Packed, pack
from speechssl.manifest.shards.parts import Parts
from speechssl.manifest.shards.storage import OutputFolder
from speechssl.manifest.shards.threads import in_order
from speechssl.manifest.table import Manifest
from speechssl.progress import Progress


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """How recordings become shards.

    Attributes:
        audio_format: flac and wav keep every sample, opus is small and lossy, copy takes the files as they are.
        sample_rate: of the stored recordings in Hz, the recordings' own when null; not with copy.
        opus_kilobits: about so many a second with opus, from 6 to 256; the encoder's choice when null.
        max_megabytes: a shard ends before it would be larger than this; 10^6 bytes each.
        max_hours: a shard also ends before it would hold more audio than this.
        order: manifest keeps the rows' order, shuffled mixes them, for readers that go through shards front to back.
        seed: of the shuffling.
        decode_copies: with copy, decode every recording once to find the damaged ones.
    """

    audio_format: AudioFormat = "flac"
    sample_rate: int | None = None
    opus_kilobits: float | None = None
    max_megabytes: float = 512.0
    max_hours: float | None = None
    order: Literal["manifest", "shuffled"] = "manifest"
    seed: int = 0
    decode_copies: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        if self.audio_format not in ("flac", "wav", "opus", "copy"):
            raise ConfigError(f"audio_format must be flac, wav, opus or copy, is {self.audio_format!r}")
        if self.order not in ("manifest", "shuffled"):
            raise ConfigError(f"order must be manifest or shuffled, is {self.order!r}")
        if self.max_megabytes <= 0 or (self.max_hours is not None and self.max_hours <= 0):
            raise ConfigError(
                f"max_megabytes and max_hours must be above 0, are {self.max_megabytes} and {self.max_hours}"
            )
        if self.sample_rate is not None and self.sample_rate <= 0:
            raise ConfigError(f"sample_rate must be above 0 Hz, is {self.sample_rate}")
        if self.audio_format == "copy" and self.sample_rate is not None:
            raise ConfigError("audio_format copy keeps each file's sample rate; leave out sample_rate or use flac")
        if self.audio_format == "opus" and self.sample_rate not in (None, *OPUS_RATES):
            raise ConfigError(f"opus knows {', '.join(map(str, OPUS_RATES))} Hz, not {self.sample_rate}")
        low, high = OPUS_KILOBITS
        if self.opus_kilobits is not None and not (self.audio_format == "opus" and low <= self.opus_kilobits <= high):
            raise ConfigError(
                f"opus_kilobits goes with audio_format opus and is {low:g} to {high:g}, but it is"
                f" {self.opus_kilobits:g} with {self.audio_format}"
            )


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """The manifest of the shards, and every row that is not in them: `skipped` holds `(id, reason)`.

    `num_found` shards were there from an interrupted run. `num_clipped` recordings went beyond full scale.
    """

    manifest: Manifest
    manifest_path: Path
    num_shards: int
    num_found: int
    num_recordings: int
    num_bytes: int
    num_clipped: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    quarantine: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Counts for JSON."""
        return {
            "manifest": str(self.manifest_path),
            "num_utterances": len(self.manifest),
            "hours": self.manifest.total_seconds / 3600,
            "num_shards": self.num_shards,
            "num_shards_found": self.num_found,
            "num_recordings": self.num_recordings,
            "num_bytes": self.num_bytes,
            "num_clipped": self.num_clipped,
            "num_skipped": len(self.skipped),
            "quarantine": self.quarantine,
        }

    def summary(self) -> str:
        """A few lines for people."""
        hours = self.manifest.total_seconds / 3600
        lines = [
            f"{len(self.manifest)} utterances, {hours:.2f} hours in {self.num_shards} shards of"
            f" {self.num_bytes / 1e6 / max(1, self.num_shards):.3g} MB on average -> {self.manifest_path}"
        ]
        if self.num_found:
            lines.append(f"{self.num_found} shards were there from an interrupted run")
        if self.num_clipped:
            lines.append(f"clipped {self.num_clipped}: samples beyond full scale")
        reasons = Counter(_short(reason) for _, reason in self.skipped)
        lines += [f"left out {count}: {reason}" for reason, count in reasons.most_common(12)]
        if self.quarantine:
            lines.append(f"what was left out, with its reasons: {self.quarantine}")
        return "\n".join(lines)


def shard_manifest(
    manifest: Manifest,
    output: str | os.PathLike[str],
    options: ShardOptions | None = None,
    *,
    name: str = "shard",
    manifest_path: str | os.PathLike[str] | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> ShardResult:
    """Pack a manifest's recordings into `OUTPUT/NAME-000000.tar` and on, and save a manifest of byte ranges of them.

    A sample is `KEY.flac` (or another format), `KEY.json` with all columns and, where there is one, the text as
    `KEY.txt`. Rows that are spans are cut and encoded; with `copy` a file is stored once, however many rows are spans
    of it, and the rows keep their offsets. Equal inputs and options make equal bytes.

    Every finished shard is noted in `OUTPUT/NAME.parts`: a run that was interrupted, even killed, goes on after its
    last finished shard when it is called again alike, and gives the same bytes; once finished, calling it again only
    makes the manifest anew. A recording that cannot be read is left out with its reason, in `NAME.quarantine.jsonl`; an
    outage of the storage ends the run.

    Args:
        manifest: The rows; their order stays that of the new manifest.
        output: A folder, or a URL such as `s3://bucket/shards` (shards are then written to a temporary folder first).
        options: Format and size.
        name: What the shards' names begin with.
        manifest_path: Where to save the new manifest; `OUTPUT/NAME.parquet` when None, needed where OUTPUT is a URL.
        num_workers: Threads that encode; as many as there are processors when None. Changes no byte.
        progress: Called with (recordings done, recordings altogether).

    Raises:
        ManifestError: nothing can be used, or the output is of another run or cannot be written.
        ConfigError: the options do not fit the recordings, or another process is writing the same shards.
        UnreachableError: storage could not be reached; call again to go on.
    """
    options = options or ShardOptions()
    folder = OutputFolder(output)
    _check(manifest, options, folder, name, manifest_path)
    target = Path(manifest_path) if manifest_path is not None else Path(folder.path(f"{name}.parquet"))
    items = Items(manifest, by_file=options.audio_format == "copy", order=options.order, seed=options.seed)
    folder.create()
    with folder.scratch(name) as scratch:
        parts = Parts(folder, name, scratch, {"fingerprint": manifest.fingerprint(), **asdict(options)})
        if not parts.is_finished:
            _write_shards(items, options, parts, num_workers or default_num_workers(), progress)
        rows = parts.rows()
        if rows.num_rows == 0:
            first = parts.skipped()[0]["reason"]
            raise ManifestError(f"{folder.location}: none of {len(manifest)} rows can be used; the first: {first}")
        made = _point_to_shards(manifest, rows, folder, name).save(target)
        skipped = parts.finish()
    return ShardResult(
        manifest=made,
        manifest_path=target,
        num_shards=parts.num_shards,
        num_found=parts.num_found,
        num_recordings=parts.total("num_recordings"),
        num_bytes=parts.total("num_bytes"),
        num_clipped=parts.total("num_clipped"),
        skipped=tuple((row["id"], row["reason"]) for row in skipped),
        quarantine=folder.path(parts.quarantine_name) if skipped else None,
    )


def _check(
    manifest: Manifest,
    options: ShardOptions,
    folder: OutputFolder,
    name: str,
    manifest_path: str | os.PathLike[str] | None,
) -> None:
    """What can be known to fail before anything is written."""
    if len(manifest) == 0:
        raise ManifestError("the manifest has no rows to be packed")
    if not name or "/" in name or name.startswith("."):
        raise ConfigError(f"name must be a plain file name such as train, is {name!r}")
    if folder.is_remote and manifest_path is None:
        raise ConfigError(f"{folder.location}: say where the manifest of the shards goes (a local file)")
    if options.audio_format == "copy":
        raw = pc.sum(pc.match_substring_regex(manifest.column("audio_filepath"), r"(?i)\.g722\z")).as_py() or 0
        if raw:
            raise ConfigError(
                f"{raw} rows are raw g722, which has no header and cannot be recognised within a tar; use audio_format"
                " flac, which keeps every sample"
            )
    if options.audio_format == "opus" and options.sample_rate is None:
        rates = pc.unique(manifest.column("sample_rate")).to_pylist()
        unfit = [rate for rate in rates if rate not in OPUS_RATES]
        if unfit:
            raise ConfigError(
                f"opus knows {', '.join(map(str, OPUS_RATES))} Hz, but there are recordings at"
                f" {', '.join(map(str, unfit[:5]))} Hz; give a sample_rate"
            )


def _write_shards(
    items: Items, options: ShardOptions, parts: Parts, num_workers: int, progress: Progress | None
) -> None:
    """Encode in threads, write in order, publish behind."""
    max_bytes = options.max_megabytes * 1e6
    max_seconds = float("inf") if options.max_hours is None else options.max_hours * 3600
    work = partial(
        pack,
        items,
        audio_format=options.audio_format,
        sample_rate=options.sample_rate,
        opus_kilobits=options.opus_kilobits,
        decode_copies=options.decode_copies,
    )
    first = parts.next_item
    with parts.writing():
        for number, result in enumerate(in_order(work, range(first, len(items)), num_workers), start=first):
            if isinstance(result, Packed):
                shard = parts.current
                full = shard.num_bytes + result.num_bytes > max_bytes or shard.seconds + result.seconds > max_seconds
                if full and shard.num_recordings:
                    parts.close_shard(next_item=number)
            parts.add(result)
            if progress is not None and (number % 16 == 15 or number + 1 == len(items)):
                progress(number + 1, len(items))
        parts.close_shard(next_item=len(items))


def _point_to_shards(manifest: Manifest, rows: pa.Table, folder: OutputFolder, name: str) -> Manifest:
    """The manifest's rows that are in the shards, in their order, with the stored recordings' place and facts."""
    order = pc.sort_indices(rows["row"])
    rows = rows.take(order)
    location = folder.location if folder.is_remote else os.path.abspath(folder.location)
    numbers = pc.utf8_lpad(rows["shard"].cast(pa.string()), 6, "0").cast(STRING)
    stem, extension, empty = (pa.scalar(part, STRING) for part in (f"{location}/{name}-", ".tar", ""))
    files = pc.binary_join_element_wise(stem, numbers, extension, empty)
    ranges = pc.binary_join_element_wise(
        files, rows["start"].cast(STRING), rows["num_bytes"].cast(STRING), pa.scalar(":", STRING)
    )
    made = manifest.take(rows["row"].combine_chunks())
    made = made.with_column("audio_filepath", ranges)
    for column in ("sample_rate", "num_samples", "offset", "duration"):
        made = made.with_column(column, rows[column])
    return made


def _short(reason: str) -> str:
    return reason.split(": ", 1)[-1].split(":")[0].split("(")[0].split(";")[0].strip()
