"""Word error rate against noise, rooms and the telephone, with and without augmentation in fine-tuning.

    python recipes/robustness/run.py --corpora CORPORA --seeds 1 2 3

One command from the recordings to the figures: it writes the manifests (no noise or room of the training is in the
test), fine-tunes each arm from the shipped encoder, degrades the test clips once for all arms, evaluates, and writes
OUTPUT/results.json, OUTPUT/wer.png and the tables of the README. Finished parts are not repeated.

CORPORA holds `fsdd` and `noise_rir`, each with `audio/` and `transcripts.tsv`.
"""

import argparse
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import soundfile

from speechssl import evaluate
from speechssl.audio import read_utterance
from speechssl.config import from_dict
from speechssl.data.augmentation import AugmentConfig, Augmenter
from speechssl.jobs import Job, run_jobs
from speechssl.manifest import Manifest, build_manifest
from speechssl.scoring import paired_bootstrap
from speechssl.training.records import read_metrics
from speechssl.types import ErrorReport

RATE = 16_000
SNRS = (20, 15, 10, 5, 0, -5)
TRAINING_ROOMS, TEST_ROOMS = ("rir1", "rir2"), ("rir3", "rir4")
SEED = 7

ARMS: dict[str, list[str]] = {
    "clean": [],
    "augmented": [
        *("--data.augment.speed.probability", "0.5"),
        *("--data.augment.reverberation.probability", "0.3"),
        *("--data.augment.reverberation.manifest", "{data}/rooms_train.jsonl"),
        *("--data.augment.noise.probability", "0.5"),
        *("--data.augment.noise.manifest", "{data}/noises_train.jsonl"),
        *("--data.augment.noise.snr_db", "[0, 20]"),
        *("--data.augment.band_limit.probability", "0.2"),
        *("--data.augment.codec.probability", "0.2"),
        *("--data.augment.codec.names", "[mulaw, alaw, gsm]"),
    ],
}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What is done to every test clip."""

    name: str
    group: str
    effects: Mapping[str, Mapping[str, Any]]


def conditions(data: Path) -> list[Condition]:
    """All test conditions; the draws follow from the clip's id, so each arm hears the same clips."""
    noise = {"probability": 1.0, "manifest": str(data / "noises_test.jsonl")}
    room = {"probability": 1.0, "manifest": str(data / "rooms_test.jsonl")}
    band = {"probability": 1.0, "low_hz": [300, 300], "high_hz": [3400, 3400]}
    found = [Condition(name="clean", group="clean", effects={})]
    found += [
        Condition(name=f"noise {snr} dB", group="noise", effects={"noise": {**noise, "snr_db": [snr, snr]}})
        for snr in SNRS
    ]
    found += [
        Condition(name="room", group="room", effects={"reverberation": room}),
        Condition(
            name="room, noise 10 dB",
            group="room",
            effects={"reverberation": room, "noise": {**noise, "snr_db": [10, 10]}},
        ),
        Condition(
            name="8 kHz band", group="telephone", effects={"codec": {"probability": 1.0, "names": ["narrowband"]}}
        ),
        Condition(name="300-3400 Hz", group="telephone", effects={"band_limit": band}),
        Condition(
            name="telephone, mu-law",
            group="telephone",
            effects={"band_limit": band, "codec": {"probability": 1.0, "names": ["mulaw"]}},
        ),
        Condition(
            name="telephone, GSM",
            group="telephone",
            effects={"band_limit": band, "codec": {"probability": 1.0, "names": ["gsm"]}},
        ),
    ]
    return found


def write_manifests(corpora: Path, data: Path) -> None:
    """Speech as in recipes/tiny; noises split by kind, rooms by name."""
    data.mkdir(parents=True, exist_ok=True)
    speech = build_manifest(corpora / "fsdd").manifest
    labelled = np.array([value is not None for value in speech.column("take").to_pylist()])
    if not labelled.all():
        print(f"left out: {(~labelled).sum()} recordings that transcripts.tsv does not list")
    speech = speech.filter(labelled)
    take = np.array([int(value) for value in speech.column("take").to_pylist()])
    speech.filter(take >= 8).save(data / "train.jsonl")
    speech.filter((take >= 5) & (take < 8)).save(data / "dev.jsonl")
    speech.filter(take < 5).save(data / "test.jsonl")
    sounds = build_manifest(corpora / "noise_rir").manifest
    kinds = sounds.column("kind").to_pylist()
    rows = [(utterance, kind) for utterance, kind in zip(sounds, kinds, strict=True)]
    # every second kind of sound, of one source, so that two takes of one sound are on one side
    categories = [sound_kind(utterance.id, utterance.extra["category"]) for utterance, _ in rows]
    place = {category: number % 2 for number, category in enumerate(sorted(set(categories)))}
    side = np.array([place[category] for category in categories])
    is_noise = np.array([kind == "noise" for kind in kinds])
    for name, number in (("train", 0), ("test", 1)):
        sounds.filter(is_noise & (side == number)).save(data / f"noises_{name}.jsonl")
    names = [Path(utterance.audio_filepath).stem for utterance, _ in rows]
    for name, rooms in (("train", TRAINING_ROOMS), ("test", TEST_ROOMS)):
        sounds.filter(np.isin(names, rooms)).save(data / f"rooms_{name}.jsonl")


def sound_kind(utterance_id: str, category: str) -> str:
    """`lincity fire`: the source and the first word of the category, without numbers."""
    source = Path(utterance_id).parent.name
    word = "".join(letter if letter.isalpha() else " " for letter in category).split()
    return f"{source} {word[0].lower() if word else category}"


def degrade(condition: Condition, data: Path) -> Path:
    """Write the test clips as they sound in a condition, with what was done to each; the manifest's path."""
    folder = data / "test" / condition.name.replace(" ", "_").replace(",", "")
    path = folder / "test.jsonl"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    augmenter = Augmenter(from_dict(AugmentConfig, condition.effects), sample_rate=RATE, seed=SEED)
    lines, done = [], {}
    for utterance in Manifest.load(data / "test.jsonl"):
        waveform = read_utterance(utterance, RATE)
        augmented = augmenter.apply(waveform, utterance_id=utterance.id, epoch=0)
        file = f"{utterance.id.replace('/', '_')}.wav"
        # 32-bit floats: nothing is clipped or rounded where noise goes beyond full scale
        soundfile.write(folder / file, augmented.waveform, RATE, subtype="FLOAT")
        size = len(augmented.waveform)
        line = {"id": utterance.id, "audio_filepath": file, "sample_rate": RATE, "num_samples": size, "offset": 0}
        lines.append({**line, "duration": size / RATE, "text": utterance.text, "speaker": utterance.speaker})
        done[utterance.id] = augmented.to_dict()
    skipped = [name for name, effects in done.items() if any("skipped" in values for values in effects.values())]
    if skipped:
        raise SystemExit(f"{condition.name}: an effect could not be had for {len(skipped)} clips, e.g. {skipped[0]}")
    (folder / "effects.json").write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def train(arms: list[str], seeds: list[int], arguments: argparse.Namespace) -> dict[tuple[str, int], Path]:
    """Fine-tune what is not finished; the run of each arm and seed."""
    runs = {(arm, seed): arguments.output / f"{arm}-seed{seed}" for arm in arms for seed in seeds}
    jobs = []
    for (arm, seed), folder in runs.items():
        if any("valid_cer" in line and line["step"] == arguments.updates for line in read_metrics(folder)):
            continue
        words = ["finetune", "--no_report", "--config", str(arguments.config), "--run_directory", str(folder)]
        words += ["--train_manifest", str(arguments.data / "train.jsonl"), "--training.seed", str(seed)]
        words += ["--valid_manifest", str(arguments.data / "dev.jsonl")]
        words += ["--training.max_steps", str(arguments.updates)]
        words += [word.format(data=arguments.data) for word in ARMS[arm]]
        jobs.append(Job(name=folder.name, words=words, log=folder.with_suffix(".log"), status=lambda: "training"))
    run_jobs(jobs, num_parallel=arguments.jobs, report_seconds=120)
    return runs


def main() -> None:
    """Prepare, train, degrade, evaluate, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("recipes/robustness/finetune.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data/robustness"))
    parser.add_argument("--output", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--updates", type=int, default=800)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("speechssl.evaluate").setLevel(logging.ERROR)
    if not (arguments.data / "rooms_test.jsonl").exists():
        write_manifests(arguments.corpora, arguments.data)
    found = conditions(arguments.data)
    tests = {condition.name: degrade(condition, arguments.data) for condition in found}
    arguments.output.mkdir(parents=True, exist_ok=True)
    runs = train(list(ARMS), arguments.seeds, arguments)
    rows = []
    for condition in found:
        reports = {key: test(folder, condition, tests[condition.name]) for key, folder in runs.items()}
        rows.append(row_of(condition, reports, arguments.seeds))
        logging.info("%s: done", condition.name)
    results = {"seeds": arguments.seeds, "updates": arguments.updates, "noises": count(arguments.data), "rows": rows}
    (arguments.output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print_table(rows)
    plot(rows, arguments.output / "wer.png")


def test(run: Path, condition: Condition, manifest: Path) -> ErrorReport:
    """Error rates of a run in a condition, written beside the run."""
    output = run / "test" / condition.name.replace(" ", "_").replace(",", "")
    config = evaluate.EvaluateConfig(checkpoint=str(run), manifest=manifest, output=output, device="cpu")
    return evaluate.run(config).report


def row_of(condition: Condition, reports: Mapping[tuple[str, int], ErrorReport], seeds: list[int]) -> dict[str, Any]:
    """The figures of a condition."""
    row: dict[str, Any] = {"condition": condition.name, "group": condition.group, "arms": {}, "differences": []}
    for arm in ARMS:
        own = [reports[arm, seed] for seed in seeds]
        row["arms"][arm] = {
            "wer": [report.wer for report in own],
            "wer_interval": [report.wer_interval for report in own],
            "cer": [report.cer for report in own],
            "cer_interval": [report.cer_interval for report in own],
            "num_utterances": len(own[0].utterances),
            "interval_over": own[0].interval_over,
        }
    for seed in seeds:
        change = paired_bootstrap(reports["clean", seed], reports["augmented", seed])
        row["differences"].append({"seed": seed, **vars(change)})
    return row


def count(data: Path) -> dict[str, int]:
    """How many noises and rooms are on each side; none is on both."""
    parts = {path.stem: Manifest.load(path) for path in sorted(data.glob("*s_t*.jsonl"))}
    for kind in ("noises", "rooms"):
        files = [set(parts[f"{kind}_{side}"].column("audio_filepath").to_pylist()) for side in ("train", "test")]
        assert not files[0] & files[1], f"{kind} of the training are in the test"
    return {name: len(manifest) for name, manifest in parts.items()}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Means over seeds, the range of the seeds' intervals, and the paired differences."""
    print("| condition | " + " | ".join(f"{arm}: WER (95 %)" for arm in ARMS) + " | augmented minus clean (95 %) |")
    print("|---|" + "---|" * (len(ARMS) + 1))
    for row in rows:
        cells = [show(row["arms"][arm]["wer"], row["arms"][arm]["wer_interval"]) for arm in ARMS]
        changes = row["differences"]
        cells.append(show([c["wer_difference"] for c in changes], [c["wer_interval"] for c in changes], sign="+"))
        print(f"| {row['condition']} | {' | '.join(cells)} |")


def show(values: list[float], intervals: list[tuple[float, float]], *, sign: str = "") -> str:
    """`12.3 % (10.0 to 14.1)`: the mean over seeds, and the lowest and highest end of the seeds' intervals."""
    low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    return f"{100 * mean(values):{sign}.1f} % ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """WER against the ratio of speech to noise, and the other conditions as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 4), layout="constrained")
    noisy = [row for row in rows if row["group"] in ("clean", "noise")]
    others = [row for row in rows if row["group"] not in ("clean", "noise")]
    for number, arm in enumerate(ARMS):
        for axes, part, offset in ((left, noisy, 0.0), (right, others, 0.4 * number - 0.2)):
            wer = np.array([100 * mean(row["arms"][arm]["wer"]) for row in part])
            low = [100 * min(low for low, _ in row["arms"][arm]["wer_interval"]) for row in part]
            high = [100 * max(high for _, high in row["arms"][arm]["wer_interval"]) for row in part]
            places = np.arange(len(part)) + offset
            if axes is left:
                line = axes.plot(places, wer, marker="o", label=f"fine-tuned {arm}")[0]
                axes.fill_between(places, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
            else:
                axes.bar(places, wer, width=0.38, yerr=[wer - low, high - wer], capsize=2, label=f"fine-tuned {arm}")
    for axes, part in ((left, noisy), (right, others)):
        names = [row["condition"].removeprefix("noise ") for row in part]
        axes.set_xticks(range(len(part)), names, rotation=0 if axes is left else 20)
        axes.set_ylim(0, 105)
        axes.set_ylabel("WER, %")
    left.set_xlabel("speech to noise")
    left.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
