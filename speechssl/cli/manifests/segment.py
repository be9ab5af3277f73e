"""`speechssl manifest segment`."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import progress_bar, say
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest
from speechssl.manifest.segmentation import SegmentConfig, segment_manifest


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(SegmentConfig):
    """Options of `speechssl manifest segment`.

    Attributes:
        manifest: the manifest of long recordings.
        output: the manifest of clips to write.
        method: "silence" keeps what is louder than a threshold (librosa), "speech" what silero-vad takes for speech.
        min_seconds: shorter clips are left out; at most half of max_seconds.
        max_seconds: longer speech is cut at its longest pause, without one at its quietest place.
        padding_seconds: kept before and after what was found, as far as the next find leaves room.
        max_pause_seconds: a clip goes on over pauses up to this long.
        top_db: with "silence": what is quieter than the recording's loud level by more decibels is silence.
        threshold: with "speech": probability from which a window of 32 ms begins speech.
        drop_text: cut labelled rows too; their clips have no text.
        quarantine: write the rows that cannot be read here, each with its problem.
        num_workers: threads; as many as there are cores when null.
        json: print the result as JSON.
    """

    manifest: Path
    output: Path
    quarantine: Path | None = None
    num_workers: int | None = None
    json: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.manifest.resolve() == self.output.resolve():
            raise ConfigError("output must not be the manifest itself; the clips need a manifest of their own")
        for path in (self.output, self.quarantine):
            if path is not None and path.suffix.lower() not in (".jsonl", ".json", ".parquet"):
                raise ConfigError(f"{path}: a manifest's name must end in .jsonl, .json or .parquet")


def run(words: list[str]) -> int:
    """Parse, call, print. What is finished is noted in OUTPUT.journal, and the same command goes on from there."""
    options: SegmentOptions | None = parse("segment", SegmentOptions, words, ("manifest",))
    if options is None:
        return 0
    config = SegmentConfig(**{field.name: getattr(options, field.name) for field in fields(SegmentConfig)})
    journal = options.output.with_name(options.output.name + ".journal")
    with progress_bar("hearing (s)") as progress:
        result = segment_manifest(
            Manifest.load(options.manifest),
            config,
            journal=journal,
            num_workers=options.num_workers,
            progress=progress,
        )
    result.manifest.save(options.output)
    if options.quarantine is not None and len(result.unreadable):
        result.unreadable.save(options.quarantine)
    journal.unlink(missing_ok=True)
    say(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if options.json else result.summary())
    if not options.json:
        say(f"-> {options.output}")
    return 0
