"""Manifests of LibriSpeech and of Libri-light's labelled subsets, in one folder.

    python recipes/librispeech/prepare.py --librispeech LibriSpeech --librilight librispeech_finetuning \
        --output data/librispeech

LIBRISPEECH is the folder that holds `train-clean-100` and the others, LIBRILIGHT the unpacked archive
`librispeech_finetuning` (without it no 10min, 1h and 10h). Parts that are not there are named at the end, and the
command ends with 1; `--parts` asks for some alone.
"""

import argparse
import sys
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest

TRAIN = ("train-clean-100", "train-clean-360", "train-other-500")
TESTS = ("dev-clean", "dev-other", "test-clean", "test-other")
SUBSETS = ("10min", "1h", "10h")


def main() -> int:
    """Build what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--librispeech", type=Path, required=True)
    parser.add_argument("--librilight", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=[*TRAIN, *TESTS])
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    built: dict[str, Manifest] = {}
    missing = []
    for part in arguments.parts:
        try:
            built[part] = build_manifest("librispeech", root=arguments.librispeech, parts=[part]).manifest
        except ManifestError as error:
            missing.append(f"{part}: {error}")
    for name, manifest in built.items():
        save(manifest, output / f"{name}.jsonl")
    train = [built[name] for name in TRAIN if name in built]
    if train:
        save(train[0].concat(*train[1:]) if len(train) > 1 else train[0], output / "train-960.jsonl")
    if arguments.librilight is not None:
        for name in SUBSETS:  # each holds the smaller ones
            save(
                build_manifest("libri-light", root=arguments.librilight, parts=[name]).manifest,
                output / f"{name}.jsonl",
            )
    for line in missing:
        print(f"missing: {line}", file=sys.stderr)
    return 1 if missing else 0


def save(manifest: Manifest, path: Path) -> None:
    """Write and say so."""
    manifest.save(path)
    print(f"{path}: {len(manifest)} utterances, {manifest.total_seconds / 3600:.2f} h")


if __name__ == "__main__":
    sys.exit(main())
