"""Pack the audio of the recipe into a few tar shards, small enough to be copied to a GPU machine with the repository.

    python recipes/tiny/prepare.py --corpora CORPORA --output data/tiny
    python recipes/read_speech_gpu/prepare.py --output data/read-speech-gpu

Writes OUTPUT/{others,kathleen_train,kathleen_dev,kathleen_test,pretrain_valid}.parquet and their shards: Opus, mono,
16 kHz. `others` is what the encoder is pre-trained on besides the reader of `kathleen_train`. Their paths are relative,
so the folder can be moved as a whole. Finished shards are not made again.
"""

import argparse
from pathlib import Path

import pyarrow as pa

from speechssl.cli.output import progress_bar
from speechssl.manifest import Manifest
from speechssl.manifest.shards import ShardOptions, shard_manifest

LABELLED = ("kathleen_train", "kathleen_dev", "kathleen_test")


def main() -> None:
    """Take the reader out of what is pre-trained on, then pack every part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", type=Path, default=Path("data/tiny"), help="what recipes/tiny/prepare.py wrote")
    parser.add_argument("--output", type=Path, default=Path("data/read-speech-gpu"))
    parser.add_argument("--kilobits", type=float, default=24, help="of Opus a second; 14 makes everything a third less")
    parser.add_argument("--without", nargs="*", default=[], help="corpora to leave out, by a part of their path")
    arguments = parser.parse_args()
    parts = {name: Manifest.load(arguments.tiny / f"{name}.jsonl") for name in (*LABELLED, "pretrain_valid")}
    everything = Manifest.load(arguments.tiny / "pretrain.jsonl")
    read = set(parts["kathleen_train"].column("audio_filepath").to_pylist())
    paths = everything.column("audio_filepath").to_pylist()
    parts["others"] = everything.filter(
        pa.array([path not in read and not any(name in path for name in arguments.without) for path in paths])
    )
    options = ShardOptions(audio_format="opus", sample_rate=16_000, opus_kilobits=arguments.kilobits)
    num_bytes = 0
    for name, manifest in parts.items():
        with progress_bar(name) as progress:
            result = shard_manifest(manifest, str(arguments.output), options, name=name, progress=progress)
        print(f"{name}: {result.summary()}")
        num_bytes += result.num_bytes
    print(f"{num_bytes / 1e6:.1f} MB in {arguments.output}")


if __name__ == "__main__":
    main()
