"""Write the manifests of the tiny recipe: what is pre-trained on, and what is kept for testing.

    python recipes/tiny/prepare.py --corpora CORPORA --output data/tiny

CORPORA holds the folders named in `PRETRAINING`, each with `audio/` and `transcripts.tsv`. Nothing that is written to
a `*_dev` or `*_test` manifest is in `pretrain.jsonl`: neither a recording nor, where the corpus is read from prompts, a
prompt's text.
"""

import argparse
from pathlib import Path

import numpy as np

from speechssl.manifest import Manifest, build_manifest, subset_manifest

PRETRAINING = ("librispeech_train100_251spk", "kathleen_en", "ljspeech_part", "kerstin_de", "fsdd", "wakewords_en")
LABEL_MINUTES = (5, 10, 30)
SEED = 1


def prompt_number(prompt: str) -> int:
    """`arctic_b0537` -> 537. The prompts b0536 and b0537 have the same text; halving the number keeps them together."""
    return int(prompt[-4:])


def main() -> None:
    """Build, split and write every manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    parts = {name: build_manifest(arguments.corpora / name).manifest for name in PRETRAINING}

    # read speech, split by prompt so that every reading of a text is on one side: two tenths test, one tenth dev
    kathleen = parts["kathleen_en"]
    place = np.array([prompt_number(prompt) // 2 % 10 for prompt in kathleen.column("prompt").to_pylist()])
    splits = {"test": np.isin(place, (0, 1)), "dev": place == 2, "train": place > 2}
    kathleen_parts = {name: kathleen.filter(mask) for name, mask in splits.items()}
    subsets = subset_manifest(kathleen_parts["train"], seconds=[60 * m for m in LABEL_MINUTES], seed=SEED)

    # digits: the corpus' own test takes; speakers are shared, as its authors intend. A take is 60 clips: ten digits
    # of six speakers
    fsdd = parts["fsdd"]
    take = np.array([int(value) for value in fsdd.column("take").to_pylist()])
    fsdd_parts = {
        "test": fsdd.filter(take < 5),
        "train": fsdd.filter(take >= 5),
        "dev": fsdd.filter((take >= 5) & (take < 8)),
        "train_60clips": fsdd.filter(take == 8),
        "train_120clips": fsdd.filter((take >= 8) & (take < 10)),
        "train_300clips": fsdd.filter((take >= 8) & (take < 13)),
    }

    # a few speakers to watch pre-training by
    speakers = parts["librispeech_train100_251spk"]
    watched = np.arange(len(speakers)) % 16 == 0

    used = {
        **parts,
        "kathleen_en": kathleen_parts["train"],
        "fsdd": fsdd_parts["train"],
        "librispeech_train100_251spk": speakers.filter(~watched),
    }
    columns = ["id", "audio_filepath", "sample_rate", "num_samples", "offset", "duration"]
    plain = [Manifest(manifest.table.select(columns), manifest.folder) for manifest in used.values()]
    manifests = {
        "pretrain": plain[0].concat(*plain[1:]),
        "pretrain_valid": speakers.filter(watched),
        **{f"fsdd_{name}": manifest for name, manifest in fsdd_parts.items()},
        **{f"kathleen_{name}": manifest for name, manifest in kathleen_parts.items()},
        **{f"kathleen_train_{minutes}min": subset for minutes, subset in zip(LABEL_MINUTES, subsets, strict=True)},
    }
    for name, manifest in manifests.items():
        manifest.save(output / f"{name}.jsonl")
        print(f"{name}: {len(manifest)} utterances, {manifest.total_seconds / 3600:.3f} h")


if __name__ == "__main__":
    main()
