"""`speechssl manifest shard`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import progress_bar, say
from speechssl.manifest import Manifest
from speechssl.manifest.shards import ShardOptions, shard_manifest


@dataclass(frozen=True, kw_only=True)
class ShardCommand:
    """Options of `speechssl manifest shard`.

    Attributes:
        manifest: the manifest whose recordings are packed.
        output: folder of the shards, or a URL such as s3://bucket/shards.
        name: what the shards' names begin with.
        save_manifest_as: the manifest of the shards, .parquet or .jsonl; NAME.parquet in the folder by default, needed
            where the output is a URL.
        audio_format: flac and wav keep every sample, opus is small and lossy, copy takes the files as they are.
        sample_rate: of the stored recordings in Hz; each recording's own when null.
        opus_kilobits: about so many a second with opus, from 6 to 256; the encoder's choice (30 to 40 for speech) when
            null.
        max_megabytes: a shard ends before it would be larger than this.
        max_hours: a shard also ends before it would hold more audio than this.
        order: manifest keeps the order of the rows, shuffled mixes them for readers that go front to back.
        seed: of the shuffling.
        decode_copies: with copy, decode every recording once to find the damaged ones.
        num_workers: threads that encode; as many as there are cores when null.
        json: print the result as JSON.
    """

    manifest: Path
    output: str
    name: str = "shard"
    save_manifest_as: Path | None = None
    audio_format: Literal["flac", "wav", "opus", "copy"] = "flac"
    sample_rate: int | None = None
    opus_kilobits: float | None = None
    max_megabytes: float = 512.0
    max_hours: float | None = None
    order: Literal["manifest", "shuffled"] = "manifest"
    seed: int = 0
    decode_copies: bool = True
    num_workers: int | None = None
    json: bool = False


def run(words: list[str]) -> int:
    """Parse, call, print."""
    command: ShardCommand | None = parse("shard", ShardCommand, words, ("manifest",))
    if command is None:
        return 0
    options = ShardOptions(
        audio_format=command.audio_format,
        sample_rate=command.sample_rate,
        opus_kilobits=command.opus_kilobits,
        max_megabytes=command.max_megabytes,
        max_hours=command.max_hours,
        order=command.order,
        seed=command.seed,
        decode_copies=command.decode_copies,
    )
    with progress_bar("packing") as progress:
        result = shard_manifest(
            Manifest.load(command.manifest),
            command.output,
            options,
            name=command.name,
            manifest_path=command.save_manifest_as,
            num_workers=command.num_workers,
            progress=progress,
        )
    say(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if command.json else result.summary())
    return 0
