"""Connected digits from FSDD's single ones: strings of one to five digits of one speaker, with a speaker held out.

    python recipes/digits/prepare.py --fsdd CORPORA/fsdd --output data/digits

`splits/*.jsonl` beside this file say which recordings, in which order and with which gaps of silence, make up every
string; they are the committed split. This script writes the strings as FLAC and their manifests. `--draw` draws the
lists anew, to the same result.

- test: takes 0 to 4, FSDD's own test takes, of all six speakers, `theo` among them, who is in no other list.
- dev: takes 5 to 7 of the other five.
- train: takes 8 and up of these five. Every recording is used once.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from speechssl import audio
from speechssl.manifest import Manifest, build_manifest
from speechssl.types import Utterance

SPLITS = Path(__file__).parent / "splits"
HELD_OUT = "theo"
TAKES = {"test": range(0, 5), "dev": range(5, 8), "train": range(8, 50)}
MOST_DIGITS = 5
GAP_SECONDS = (0.05, 0.25)
SEED = 1
SAMPLE_RATE = 16_000


def draw(fsdd: Manifest) -> None:
    """Write the lists of `splits/`."""
    random = np.random.default_rng(SEED)
    SPLITS.mkdir(exist_ok=True)
    rows = list(fsdd)
    for split, takes in TAKES.items():
        lines = []
        for speaker in sorted({str(row.speaker) for row in rows}):
            pool = [row for row in rows if row.speaker == speaker and int(str(row.extra["take"])) in takes]
            if split != "test" and speaker == HELD_OUT:
                continue
            order = [pool[index] for index in random.permutation(len(pool))]
            while order:
                size = int(random.integers(1, MOST_DIGITS + 1))
                part, order = order[:size], order[size:]
                gaps = [round(float(gap), 3) for gap in random.uniform(*GAP_SECONDS, len(part) + 1)]
                clips = [Path(row.audio_filepath).stem for row in part]
                text = " ".join(str(row.text) for row in part)
                name = f"{split}-{speaker}-{len(lines):03}"
                lines.append({"id": name, "speaker": speaker, "text": text, "clips": clips, "gap_seconds": gaps})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (SPLITS / f"{split}.jsonl").write_text(text, encoding="utf-8")


def join(split: str, fsdd: Manifest, output: Path) -> Manifest:
    """Write the strings of one list and return their manifest."""
    import soundfile

    paths = {Path(row.audio_filepath).stem: row.audio_filepath for row in fsdd}
    folder = output / "audio" / split
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    for line in (SPLITS / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        silences = [np.zeros(round(gap * SAMPLE_RATE), np.float32) for gap in row["gap_seconds"]]
        parts = [silences[0]]
        for clip, silence in zip(row["clips"], silences[1:], strict=True):
            parts += [audio.read(paths[clip], sample_rate=SAMPLE_RATE), silence]
        waveform = np.concatenate(parts)
        path = folder / f"{row['id']}.flac"
        soundfile.write(path, waveform, SAMPLE_RATE, subtype="PCM_16")
        utterances.append(
            Utterance(
                id=row["id"],
                audio_filepath=str(path.resolve()),
                sample_rate=SAMPLE_RATE,
                offset=0.0,
                duration=len(waveform) / SAMPLE_RATE,
                num_samples=len(waveform),
                text=row["text"],
                speaker=row["speaker"],
                extra={"num_digits": len(row["clips"]), "heard": "no" if row["speaker"] == HELD_OUT else "yes"},
            )
        )
    return Manifest.from_utterances(utterances, folder=output)


def main() -> None:
    """Join and write every split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fsdd", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--draw", action="store_true", help="draw splits/*.jsonl anew first")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    fsdd = build_manifest(arguments.fsdd).manifest
    if arguments.draw:
        draw(fsdd)
    for split in TAKES:
        manifest = join(split, fsdd, arguments.output)
        manifest.save(arguments.output / f"{split}.jsonl")
        print(f"{split}: {len(manifest)} strings, {manifest.total_seconds / 60:.1f} min")


if __name__ == "__main__":
    main()
