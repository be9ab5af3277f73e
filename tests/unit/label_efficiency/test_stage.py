"""The experiment from manifests to tables: what is refused, what is run once, what comes out."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.cli import main
from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.errors import ConfigError, ManifestError
from speechssl.label_efficiency import LabelEfficiencyConfig, dry_run, run
from speechssl.label_efficiency import stage as stage_module
from speechssl.label_efficiency.stage import label_sets
from speechssl.label_efficiency.trials import all_trials, options
from speechssl.manifest import Manifest
from speechssl.types import Utterance

TINY = {"model_dim": 32, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 64, "position_kernel": 16}
FINETUNE = """
train_manifest: none.jsonl
valid_manifest: none.jsonl
run_directory: none
device: cpu
data: {batch_seconds: 10, num_workers: 0}
training: {max_steps: 2, validate_interval: 2, checkpoint_interval: 2, tensorboard: false, num_threads: 1}
"""


def write_manifest(folder: Path, name: str, texts: list[str]) -> Path:
    """Half a second of noise for every text."""
    utterances = []
    for number, text in enumerate(texts):
        path = folder / f"{name}{number}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(8000), 16000)
        utterances.append(
            Utterance(
                id=path.stem, audio_filepath=str(path), sample_rate=16000, num_samples=8000, duration=0.5, text=text
            )
        )
    Manifest.from_utterances(utterances).save(folder / f"{name}.jsonl")
    return folder / f"{name}.jsonl"


@pytest.fixture
def config(tmp_path: Path) -> LabelEfficiencyConfig:
    (tmp_path / "finetune.yaml").write_text(FINETUNE)
    SpeechEncoder(EncoderConfig(front_end="log_mel", **TINY)).save(tmp_path / "pretrained")
    return LabelEfficiencyConfig(
        finetune=tmp_path / "finetune.yaml",
        encoders=("scratch", f"pre={tmp_path / 'pretrained'}"),
        train_manifest=write_manifest(tmp_path, "train", ["ab", "ba", "bb", "aa"] * 3),
        minutes=(1 / 60, 1 / 20),
        valid_manifest=write_manifest(tmp_path, "valid", ["ab", "b"]),
        test_manifests={"test": str(write_manifest(tmp_path, "test", ["a", "ba", "bab"]))},
        learning_rates=(1e-3, 2e-3),
        own_options={"scratch": {"encoder": TINY}},
        seeds=(1, 2),
        output=tmp_path / "out",
    )


def test_the_whole_experiment_and_again_without_training(
    config: LabelEfficiencyConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, minutes=(1 / 20,), seeds=(1,), learning_rates=(1e-3,))
    result = run(config)
    record = json.loads((config.output / "results.json").read_text())
    points = record["tests"]["test"]["wer"]["points"]
    assert [point["encoder"] for point in points] == ["scratch", "pre"]
    assert {point["labels"] for point in points} == {"0.05min"}
    # the rates are those of the test that `speechssl evaluate` wrote
    folder = config.output / "runs/0.05min/scratch-lr0.001-seed1/test-test"
    assert points[0]["rate"] == pytest.approx(json.loads((folder / "result.json").read_text())["wer"])
    assert record["sweep"][0]["best"]["step"] == 2 and record["sweep"][0]["exit_code"] == 0
    text = (config.output / "results.md").read_text()
    assert "| 0.05min | pre minus scratch | WER |" in text and "chosen" in text

    def refuse(jobs: list[object], **settings: object) -> list[int]:
        assert not jobs, "a run was started again"
        return []

    monkeypatch.setattr(stage_module, "run_jobs", refuse)
    assert run(config).to_dict["tests"] == result.to_dict["tests"]
    words = ["label-efficiency", "--finetune", str(config.finetune), "--encoders", *config.encoders]
    words += ["--train_manifest", str(config.train_manifest), "--minutes", "0.05", "--seeds", "1"]
    words += ["--learning_rates", "0.001", "--valid_manifest", str(config.valid_manifest)]
    for name, value in TINY.items():
        words += [f"--own_options.scratch.encoder.{name}", str(value)]
    words += ["--test_manifests.test", config.test_manifests["test"], "--output", str(config.output)]
    assert main(words) == 0
    assert "| 0.05min | pre |" in capsys.readouterr().out
    page = (config.output / "report.html").read_text()
    assert "What pre-training saved" in page and "<svg" in page
    assert (config.output / "test-wer.png").stat().st_size > 1000


def test_a_decoder_is_tuned_once_for_an_encoder_and_size_and_tests_every_run(
    config: LabelEfficiencyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("ab ba\nba bab\nab bab b\n" * 3)
    assert main(["lm", str(texts), "--order", "2", "--output", str(tmp_path / "words.arpa")]) == 0
    config = replace(
        config,
        encoders=config.encoders[1:],
        own_options={},
        minutes=(1 / 20,),
        learning_rates=(1e-3,),
        decoders={"words": {"beam.language_model": str(tmp_path / "words.arpa"), "beam.beam_size": 4}},
    )
    record = run(config).to_dict
    first, second = (config.output / f"runs/0.05min/pre-lr0.001-seed{seed}" for seed in (1, 2))
    assert (first / "tuned-words/decoder.json").exists() and not (second / "tuned-words").exists()
    weights = json.loads((first / "tuned-words/decoder.json").read_text())["beam"]
    used = json.loads((second / "test-test-words/result.json").read_text())
    assert used["beam"]["lm_weight"] == weights["lm_weight"] == record["decoders"]["words"][0]["lm_weight"]
    points = record["tests"]["test-words"]["wer"]["points"]
    assert points[0]["seed_rates"][1] == json.loads((second / "test-test-words/result.json").read_text())["wer"]
    assert (
        "## test-words" in (text := (config.output / "results.md").read_text()) and "| words | 0.05min | pre |" in text
    )

    def refuse(jobs: list[object], **settings: object) -> list[int]:
        assert not jobs, "something was run again"
        return []

    monkeypatch.setattr(stage_module, "run_jobs", refuse)
    assert run(config).to_dict["tests"] == record["tests"]


@pytest.mark.parametrize(
    ("decoders", "message"),
    [
        ({"words": {"beam.language_model": "nowhere.arpa"}}, "decoders.words: there is no file nowhere.arpa"),
        ({"words": {"beam.width": 5}}, "decoders.words: .*width"),
    ],
)
def test_a_decoder_that_would_fail_after_training_is_refused_before(
    config: LabelEfficiencyConfig, decoders: dict[str, dict[str, object]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(replace(config, decoders=decoders))
    assert not (config.output / "runs").exists()


def test_label_sets_are_nested_and_written(config: LabelEfficiencyConfig) -> None:
    small, large = label_sets(config)
    assert (small.name, small.num_utterances, large.num_utterances) == ("0.0166667min", 2, 6)
    ids = [set(Manifest.load(labels.path).column("id").to_pylist()) for labels in (small, large)]
    assert ids[0] < ids[1]


def test_every_encoder_gets_the_same_candidates_and_only_its_own_options(config: LabelEfficiencyConfig) -> None:
    config = replace(config, own_options={"pre": {"freeze_steps": 1, "mask": {"time_span": 4}}})
    trials = all_trials(config, label_sets(config), config.seeds[:1])
    assert len(trials) == 2 * 2 * 2
    words = {trial.encoder: list(trial.job(config).words) for trial in trials}
    assert words["pre"][-4:] == ["--freeze_steps", "1", "--mask.time_span", "4"]
    assert "--freeze_steps" not in words["scratch"]
    assert words["scratch"][words["scratch"].index("--pretrained") + 1] == "null"


def test_options_become_words() -> None:
    words = options({"a": {"b": True}, "c": None, "d": [1, 2]})
    assert words == ["--a.b", "true", "--c", "null", "--d", "1", "2"]


def test_a_dry_run_runs_every_encoder_and_trains_none(config: LabelEfficiencyConfig) -> None:
    found = dry_run(config)
    assert set(found.costs) == {"scratch", "pre"} and found.max_steps == {"scratch": 2, "pre": 2}
    assert (found.num_sweep_runs, found.num_runs) == (8, 12)
    assert all(cost.seconds > 0 and cost.memory_bytes > 0 for cost in found.costs.values())
    assert found.warnings == ("test test: 1 of 3 texts are in the labels too",)
    assert not (config.output / "runs").exists()


def test_a_dry_run_names_a_missing_recording(config: LabelEfficiencyConfig) -> None:
    (config.finetune.parent / "valid1.wav").unlink()
    with pytest.raises(ManifestError, match="valid.jsonl: 1 problems, the first is valid1: .*valid1.wav"):
        dry_run(config)


def test_a_test_that_was_learnt_from_is_refused(config: LabelEfficiencyConfig) -> None:
    leaking = replace(config, test_manifests={"leak": str(config.train_manifest)})
    with pytest.raises(ManifestError, match="test leak and labels 0.0166667min share 2 recordings, e.g. .*train"):
        run(leaking)


def test_label_sets_that_are_not_nested_are_refused(config: LabelEfficiencyConfig, tmp_path: Path) -> None:
    other = write_manifest(tmp_path, "other", ["ab"] * 4)
    sets = {"small": str(other), "large": str(config.train_manifest)}
    with pytest.raises(ManifestError, match="labels large lack 4 recordings of labels small.*must be nested"):
        run(replace(config, minutes=(), train_manifest=None, label_sets=sets))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoders": ("tiny",)}, "'tiny' must be scratch or NAME=SOURCE"),
        ({"encoders": ("scratch", "scratch")}, "every name may stand once"),
        ({"minutes": ()}, "give either minutes"),
        ({"seeds": (1, 1)}, "seeds: give at least one and none twice"),
        ({"own_learning_rates": {"pre": [1e-4]}}, "1 candidates where the others have 2"),
        ({"own_options": {"other": {}}}, "there is no such encoder; they are scratch, pre"),
        ({"test_manifests": {}}, "give at least one as NAME: MANIFEST"),
        ({"decoders": {"words": "words.arpa"}}, "decoders: 'words' must be a name with options"),
        ({"decoders": {"a": {}}, "test_manifests": {"x": "x", "x-a": "y"}}, "two results would have the same name"),
    ],
)
def test_a_configuration_that_cannot_be_fair_is_refused(
    config: LabelEfficiencyConfig, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(config, **change)
