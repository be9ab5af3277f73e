"""Write the manifests of the recipe with two readers, after those of the tiny recipe.

    python recipes/two_readers/prepare.py --corpora CORPORA --tiny data/tiny --output data/two-readers

LJ Speech is read from a book, so its parts are stretches of the book: the end is tested on, what comes before it is
dev. The clips of dev and test are taken out of what is pre-trained on.
"""

import argparse
from pathlib import Path

import numpy as np

from speechssl.manifest import Manifest, build_manifest

DEV, TEST = "LJ002-0105", "LJ002-0140"  # the first clips of these parts


def main() -> None:
    """Split the second reader, join the readers, and leave dev and test out of the pre-training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--tiny", type=Path, required=True, help="what recipes/tiny/prepare.py has written")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)

    ljspeech = build_manifest(arguments.corpora / "ljspeech_part").manifest
    clips = np.array([Path(path).stem for path in ljspeech.column("audio_filepath").to_pylist()])
    splits = {"train": clips < DEV, "dev": (DEV <= clips) & (clips < TEST), "test": clips >= TEST}
    ljspeech_parts = {name: ljspeech.filter(mask) for name, mask in splits.items()}
    kathleen_parts = {name: Manifest.load(arguments.tiny / f"kathleen_{name}.jsonl") for name in splits}

    pretrain = Manifest.load(arguments.tiny / "pretrain.jsonl")
    kept_back = set(clips[~splits["train"]])
    is_kept_back = [Path(path).stem in kept_back for path in pretrain.column("audio_filepath").to_pylist()]
    if sum(is_kept_back) != len(kept_back):
        raise SystemExit(f"{arguments.tiny}: has {sum(is_kept_back)} of the {len(kept_back)} clips of dev and test")
    columns = ["id", "audio_filepath", "sample_rate", "num_samples", "offset", "duration", "text", "speaker"]
    labelled = {
        name: [
            Manifest(part.table.select(columns), part.folder) for part in (kathleen_parts[name], ljspeech_parts[name])
        ]
        for name in splits
    }
    manifests = {
        "pretrain": pretrain.filter(~np.array(is_kept_back)),
        "train": labelled["train"][0].concat(labelled["train"][1]),
        "dev": labelled["dev"][0].concat(labelled["dev"][1]),
        "kathleen_test": labelled["test"][0],
        "ljspeech_test": labelled["test"][1],
        "test": labelled["test"][0].concat(labelled["test"][1]),
    }
    for name, manifest in manifests.items():
        manifest.save(output / f"{name}.jsonl")
        print(f"{name}: {len(manifest)} utterances, {manifest.total_seconds / 60:.1f} min")


if __name__ == "__main__":
    main()
