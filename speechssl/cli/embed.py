"""`speechssl embed`: embeddings of a manifest as a table of shards."""

import os
from dataclasses import dataclass, fields

from speechssl.cli.options import stage_config
from speechssl.cli.output import log_to_stderr, progress_bar, say, table
from speechssl.embed import EmbedConfig, EmbedResult, run
from speechssl.embed.verify import verify
from speechssl.errors import ConfigError

EXAMPLE = """speechssl embed speechssl-tiny recordings.jsonl --output embeddings/ --layer 3
speechssl embed speechssl-tiny recordings.jsonl --output embeddings/ --layer 3 --verify
speechssl embed speechssl-tiny recordings.jsonl --output frames/ --layers 2 3 --pool none --dtype float16
torchrun --nproc_per_node 4 -m speechssl embed speechssl-tiny recordings.jsonl --output embeddings/"""


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(EmbedConfig):  # noqa: D101  the docstring is that of the configuration, with two more lines
    __doc__ = f"""{(EmbedConfig.__doc__ or "").rstrip()}
        verify: afterwards embed a sample in other ways (batches, order, padding, workers) and print the differences.
        verify_clips: recordings in that sample.
    """

    verify: bool = False
    verify_clips: int = 16

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.verify_clips < 1:
            raise ConfigError(f"verify_clips must be at least 1, but is {self.verify_clips}")


def embed(words: list[str]) -> int:
    """Parse, call, print; 1 where recordings failed or the check did."""
    log_to_stderr()
    options = stage_config(
        "embed",
        EmbedOptions,
        words,
        example=EXAMPLE,
        summary="Embeddings of a manifest. The same command again goes on, and takes up what is new in the manifest.",
        positionals=("checkpoint", "manifest"),
    )
    if options is None:
        return 0
    config = EmbedConfig(**{field.name: getattr(options, field.name) for field in fields(EmbedConfig)})
    with progress_bar("embedding") as progress:
        result = run(config, progress=progress)
    if int(os.environ.get("RANK", "0")) > 0:  # the first of torchrun's ranks speaks for all
        return 1 if result.errors else 0
    _show(result)
    holds = _verify(config, options.verify_clips) if options.verify else True
    return 0 if holds and not result.errors else 1


def _show(result: EmbedResult) -> None:
    how = "nothing new" if result.reused else f"{result.num_computed} computed, {result.num_removed} removed"
    say(f"{result.num_utterances} utterances, {result.num_rows} rows of {result.dimension}: {result.path} ({how})")
    if result.errors:
        say(f"{len(result.errors)} recordings could not be embedded, see {result.errors_path}; the first is")
        say(f"  {result.errors[0][0]}: {result.errors[0][1]}")


def _verify(config: EmbedConfig, num_clips: int) -> bool:
    found = verify(config, num_clips=num_clips)
    rows = [
        (
            comparison.name,
            f"{comparison.difference:.1e}",
            "(measured)" if comparison.tolerance is None else f"{comparison.tolerance:.1e}",
            "" if comparison.tolerance is None else "ok" if comparison.holds else "NOT HELD",
            comparison.worst_id,
        )
        for comparison in found.comparisons
    ]
    title = f"{found.num_clips} recordings, each alone against"
    table(title, ("way", "largest relative difference", "allowed", "", "met in"), rows)
    verdict = "all within" if found.holds else "NOT within"
    say(f"maximum difference {found.max_difference:.1e}, {verdict} what is allowed")
    return found.holds
