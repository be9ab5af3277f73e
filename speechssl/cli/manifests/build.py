"""`speechssl manifest build`."""

import json
from dataclasses import dataclass
from pathlib import Path

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import progress_bar, say
from speechssl.manifest import build_manifest


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of `speechssl manifest build`.

    Attributes:
        source: a folder of recordings or of tar shards, a URL of either (s3://bucket/shards/), or the name of a corpus
            card (see `speechssl manifest list`); also several folders of recordings.
        output: the manifest to write, .jsonl or .parquet. What the recordings' headers say is kept beside it, so that
            the next build opens only what is new or has changed.
        root: where the corpus lies; with a card's name only.
        parts: only these splits and label subsets of the corpus, such as dev-clean, or 10min; with a card's name only.
        transcripts: TSV or CSV of texts (path, text, and optionally speaker, language); by default a
            transcripts.tsv in the folder, else a .txt beside each recording.
        language: language code that is written into every row that has none.
        fresh: read all headers again.
        num_workers: processes that read the recordings' headers; as many as there are cores when null.
        json: print the result as JSON.
    """

    source: tuple[str, ...]
    output: Path
    root: Path | None = None
    parts: tuple[str, ...] = ()
    transcripts: Path | None = None
    language: str | None = None
    fresh: bool = False
    num_workers: int | None = None
    json: bool = False


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: BuildOptions | None = parse("build", BuildOptions, words, ("source",))
    if options is None:
        return 0
    with progress_bar("reading headers") as progress:
        result = build_manifest(
            options.source,
            output=options.output,
            root=options.root,
            parts=options.parts,
            transcripts=options.transcripts,
            language=options.language,
            fresh=options.fresh,
            num_workers=options.num_workers,
            progress=progress,
        )
    say(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if options.json else result.summary())
    return 0
