"""Manifests of the probes: spoken digits, keywords, LibriSpeech in halves, and two languages."""

import argparse
from dataclasses import replace
from pathlib import Path

from speechssl.manifest import Manifest, build_manifest
from speechssl.types import Utterance


def corpus(corpora: Path, name: str) -> list[Utterance]:
    """Every utterance of a folder of audio with its transcripts.tsv."""
    return list(build_manifest(corpora / name, num_workers=1).manifest)


def column(utterance: Utterance, name: str) -> str:
    """A further column of the transcripts as text."""
    return str(utterance.extra.get(name) or "")


def save(rows: list[Utterance], path: Path) -> None:
    """Write a manifest and say how long it is."""
    Manifest.from_utterances(rows).save(path)
    print(f"{path}: {len(rows)} utterances")


def halves(utterance: Utterance) -> list[Utterance]:
    """Both halves of a recording as utterances of their own."""
    half = utterance.num_samples // 2
    return [
        replace(
            utterance,
            id=f"{utterance.id}-{number}",
            offset=number * half / utterance.sample_rate,
            duration=half / utterance.sample_rate,
            num_samples=half,
        )
        for number in (0, 1)
    ]


def main() -> None:
    """Write all manifests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    root, output = arguments.corpora, arguments.output

    digits = [row for row in corpus(root, "fsdd") if column(row, "take").isdigit()]
    save([row for row in digits if 5 <= int(column(row, "take")) < 15], output / "digits_train.jsonl")
    save([row for row in digits if int(column(row, "take")) < 5], output / "digits_test.jsonl")

    keywords = [row for row in corpus(root, "wakewords_en") if row.extra.get("origin") == "picovoice"]
    save(keywords[::3], output / "keywords.jsonl")

    readers = [half for row in corpus(root, "librispeech_train100_251spk") for half in halves(row)]
    save(readers, output / "readers.jsonl")
    save([row for row in readers if row.id.endswith("-0")], output / "readers_first.jsonl")
    save([row for row in readers if row.id.endswith("-1")], output / "readers_second.jsonl")

    english = [replace(row, language="en") for row in corpus(root, "kathleen_en")[::8]]
    german = [replace(row, language="de") for row in corpus(root, "kerstin_de")[::6]]
    unseen = [replace(row, language="en") for name in ("ljspeech_part", "librispeech_train100_251spk")
              for row in corpus(root, name)[::5]]  # fmt: skip
    save([*english[::2], *german[::2]], output / "languages_train.jsonl")
    save([*english[1::2], *german[1::2]], output / "languages_same_voices.jsonl")
    save([*unseen, *german[1::2]], output / "languages_other_voices.jsonl")


if __name__ == "__main__":
    main()
