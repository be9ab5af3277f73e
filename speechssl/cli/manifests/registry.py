"""The subcommands of `speechssl manifest`: what each is for and how it is called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from speechssl.cli.options import stage_config

Options = TypeVar("Options")


@dataclass(frozen=True)
class Subcommand:
    """`module` of this package has `run(words) -> exit code`; `example` holds command lines that work, one a line."""

    module: str
    summary: str
    example: str


SUBCOMMANDS = {
    "build": Subcommand(
        "build",
        "make a manifest of a folder of audio or of a known corpus",
        "speechssl manifest build recordings/ --output recordings.jsonl\n"
        "speechssl manifest build librispeech --root LibriSpeech/ --output librispeech.parquet",
    ),
    "validate": Subcommand(
        "validate",
        "find everything that is wrong with a manifest and its recordings; exit code 1 if anything is",
        "speechssl manifest validate recordings.jsonl --audio\n"
        "speechssl manifest validate recordings.jsonl --audio --quarantine bad.jsonl --output clean.jsonl",
    ),
    "audit": Subcommand(
        "audit",
        "find recordings, speakers and texts that manifests share, and bad recordings and texts; exit code 1 for leaks",
        "speechssl manifest audit train.jsonl dev.jsonl test.jsonl --html audit.html\n"
        "speechssl manifest audit train.jsonl test.jsonl --allow speaker --json audit.json --output clean/\n"
        "speechssl manifest audit recordings.jsonl --cache audit-cache/ --strict",
    ),
    "stats": Subcommand(
        "stats",
        "hours, speakers, languages and lengths",
        "speechssl manifest stats recordings.jsonl",
    ),
    "split": Subcommand(
        "split",
        "divide without leaks: no speaker, recording or text on two sides",
        "speechssl manifest split recordings.jsonl --output parts/ --parts.train 0.9 --parts.test 0.1"
        " --by speaker text",
    ),
    "subset": Subcommand(
        "subset",
        "nested subsets of given minutes or hours",
        "speechssl manifest subset train.jsonl --output subsets/ --minutes 10 60",
    ),
    "filter": Subcommand(
        "filter",
        "keep the utterances that meet conditions; says how many do not meet which",
        "speechssl manifest filter recordings.jsonl --output short.jsonl --min_seconds 1 --max_seconds 30"
        " --language en de\n"
        "speechssl manifest filter all.parquet --output good.parquet --has_text --where.take 0,1"
        " --where_not.split test",
    ),
    "sample": Subcommand(
        "sample",
        "draw utterances at random, evenly over speakers or languages if so wished",
        "speechssl manifest sample all.parquet --output part.parquet --hours 100 --balance_by language --seed 1",
    ),
    "convert": Subcommand(
        "convert",
        "from and to Parquet, NeMo, fairseq, fairseq2, Kaldi, lhotse, Hugging Face audiofolder, CSV and TSV",
        "speechssl manifest convert recordings.jsonl recordings.parquet\n"
        "speechssl manifest convert recordings.jsonl data/train --target_format kaldi\n"
        "speechssl manifest convert kaldi/data/train recordings.jsonl",
    ),
    "segment": Subcommand(
        "segment",
        "cut long recordings into clips by silence or speech detection, without copying audio",
        "speechssl manifest segment talks.jsonl --output clips.jsonl --min_seconds 2 --max_seconds 15\n"
        "speechssl manifest segment talks.jsonl --output clips.jsonl --method speech --quarantine bad.jsonl",
    ),
    "augment": Subcommand(
        "augment",
        "write augmented utterances to listen to, with the values that were drawn",
        "speechssl manifest augment train.jsonl --output heard/ --augment.speed.probability 1\n"
        "speechssl manifest augment train.jsonl --output heard/ --recipe pretrain.yaml --count 10",
    ),
    "shard": Subcommand(
        "shard",
        "pack recordings into tar shards, on disk or in an object store; goes on where it was interrupted",
        "speechssl manifest shard recordings.jsonl --output shards/ --max_megabytes 512 --audio_format flac\n"
        "speechssl manifest shard recordings.jsonl --output s3://bucket/shards --save_manifest_as shards.parquet",
    ),
    "list": Subcommand(
        "list_cards",
        "the corpora that `build` knows by name",
        "speechssl manifest list\nspeechssl manifest list librispeech",
    ),
}


def parse(name: str, options: type[Options], words: Sequence[str], positionals: Sequence[str]) -> Options | None:
    """The options that `words` give, or None where they asked for help."""
    subcommand = SUBCOMMANDS[name]
    return stage_config(
        f"manifest {name}",
        options,
        words,
        example=subcommand.example,
        summary=subcommand.summary[0].upper() + subcommand.summary[1:] + ".",
        positionals=positionals,
    )
