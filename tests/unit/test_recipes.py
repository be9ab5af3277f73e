"""The recipes: their files are read, name only what exists, and a miniature corpus passes their dry runs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl import finetune, pretrain
from speechssl.cli import main
from speechssl.config import load_config
from speechssl.errors import ManifestError
from speechssl.evaluate import EvaluateConfig
from speechssl.finetune import FinetuneConfig
from speechssl.label_efficiency import LabelEfficiencyConfig
from speechssl.label_efficiency.trials import LabelSet, all_trials
from speechssl.manifest import Manifest
from speechssl.pretrain import PretrainConfig

KINDS = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "label_efficiency": LabelEfficiencyConfig,
}
SMALL = {"conv_dim": 16, "model_dim": 32, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 64}
MADE_ELSEWHERE = {
    "quickstart": {"manifests": ["m"], "train_manifest": "m", "valid_manifest": "m", "run_directory": "r"}
}


def recipe_files(repository: Path) -> list[Path]:
    return [path for path in sorted((repository / "recipes").glob("*/*.yaml")) if path.stem.partition("_")[0] in KINDS
            or path.stem in KINDS]  # fmt: skip


def config_class(path: Path) -> type:
    return KINDS[path.stem] if path.stem in KINDS else KINDS[path.stem.partition("_")[0]]


def test_every_recipe_is_a_configuration(repository: Path) -> None:
    files = recipe_files(repository)
    assert len(files) > 10
    for path in files:
        given = MADE_ELSEWHERE.get(path.parent.name, {})
        declared = config_class(path)
        known = {name: value for name, value in given.items() if name in declared.__dataclass_fields__}
        load_config(declared, path, known)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LibriSpeech and Libri-light's labels with the real names: one chapter a part, two clips each."""
    root = tmp_path_factory.mktemp("corpus")
    parts = (
        "train-clean-100",
        "train-clean-360",
        "train-other-500",
        "dev-clean",
        "dev-other",
        "test-clean",
        "test-other",
    )
    places = {f"LibriSpeech/{part}": 100 + number for number, part in enumerate(parts)}
    places |= {f"librispeech_finetuning/1h/{fold}/{kind}": 200 + 2 * fold + (kind == "other")
               for fold in range(6) for kind in ("clean", "other")}  # fmt: skip
    places |= {f"librispeech_finetuning/9h/{kind}": 300 + (kind == "other") for kind in ("clean", "other")}
    for place, speaker in places.items():
        folder = root / place / str(speaker) / "7"
        folder.mkdir(parents=True)
        lines = []
        for number in range(2):
            name = f"{speaker}-7-{number:04}"
            random = np.random.default_rng(speaker + number)
            soundfile.write(folder / f"{name}.flac", 0.1 * random.standard_normal(16_000), 16_000)
            lines.append(f"{name} {'GO DO YOU HEAR' if number else 'BUT IN LESS'}\n")
        (folder / f"{speaker}-7.trans.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def prepared(corpus: Path, repository: Path) -> Path:
    """What the recipe's own command makes of it, in the places where the configurations look."""
    output = corpus / "data/librispeech"
    script = repository / "recipes/librispeech/prepare.py"
    words = ["--librispeech", corpus / "LibriSpeech", "--librilight", corpus / "librispeech_finetuning"]
    done = subprocess.run(
        [sys.executable, script, *words, "--output", output], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in output.glob("*.jsonl")} >= {"train-960.jsonl", "10min.jsonl", "10h.jsonl"}
    return corpus


def test_dry_runs_of_librispeech(
    prepared: Path, repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(prepared)
    recipes = repository / "recipes/librispeech"
    small = [word for name, value in SMALL.items() for word in (f"--encoder.{name}", str(value))]
    common = ["--device", "cpu", "--data.num_workers", "0", "--training.precision", "fp32", "--dry_run"]
    assert main(["pretrain", "--config", str(recipes / "pretrain.yaml"), *small, *common]) == 0
    shown = capsys.readouterr().out
    assert "nothing was trained" in shown and "400000 of 64 batches" in shown
    for path in sorted(recipes.glob("finetune_*.yaml")):
        words = ["--pretrained", "null", "--freeze_steps", "0", "--preset", "base", *small, *common]
        assert main(["finetune", "--config", str(path), *words]) == 0, path
    assert not (prepared / "runs").exists()


def test_label_efficiency_of_librispeech_runs_the_settings_of_each_size(
    prepared: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(prepared)
    config = load_config(LabelEfficiencyConfig, repository / "recipes/librispeech/label_efficiency.yaml")
    sets = [LabelSet(name=name, path=Path(path), hours=1, num_utterances=1) for name, path in config.label_sets.items()]
    trials = all_trials(config, sets, config.seeds)
    assert len(trials) == 3 * 2 * 3 * 3
    words = next(list(t.job(config).words) for t in trials if t.labels.name == "10h" and t.encoder == "scratch")
    assert words[words.index("--training.max_steps") + 1] == "20000" and words[-4:-2] == ["--preset", "base"]


def test_a_dry_run_names_a_recording_that_is_gone(prepared: Path, tmp_path: Path) -> None:
    data = prepared / "data/librispeech"
    gone = tmp_path / "gone.jsonl"
    gone.write_text('{"audio_filepath": "nowhere.flac", "duration": 1.0, "sample_rate": 16000, "text": "go"}\n')
    config = PretrainConfig(manifests=(data / "dev-clean.jsonl", gone), run_directory=tmp_path / "run", preset="tiny")
    with pytest.raises(ManifestError, match=r"gone.jsonl: 1 problems, the first is .*nowhere"):
        pretrain.dry_run(config)
    labelled = FinetuneConfig(
        train_manifest=data / "10min.jsonl", valid_manifest=gone, run_directory=tmp_path / "run", preset="tiny"
    )
    with pytest.raises(ManifestError, match=r"gone.jsonl: 1 problems"):
        finetune.dry_run(labelled)
    cost = pretrain.dry_run(replace(config, manifests=(data / "dev-clean.jsonl",), device="cpu"))
    assert cost.num_parameters > 3e6 and cost.seconds > 0 and not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def packed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `recipes/read_speech_gpu/prepare.py` makes of a miniature of the manifests that it reads."""
    root = tmp_path_factory.mktemp("gpu")
    folder = root / "data/tiny"
    (folder / "kathleen").mkdir(parents=True)
    (folder / "wakewords").mkdir()
    rows = []
    for number in range(12):
        path = folder / ("kathleen" if number < 9 else "wakewords") / f"{number}.wav"
        random = np.random.default_rng(number)
        soundfile.write(path, 0.1 * random.standard_normal(40_000), 16_000)
        rows.append({"id": str(number), "audio_filepath": str(path), "duration": 2.5, "sample_rate": 16_000,
                     "num_samples": 40_000, "text": "go do you hear"})  # fmt: skip
    parts = {"kathleen_train": rows[:5], "kathleen_dev": rows[5:7], "kathleen_test": rows[7:9],
             "pretrain": rows[:5] + rows[9:], "pretrain_valid": rows[5:6]}  # fmt: skip
    for name, part in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    script = repository / "recipes/read_speech_gpu/prepare.py"
    done = subprocess.run([sys.executable, script, "--kilobits", "14"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (root / "recipes").symlink_to(repository / "recipes")
    return root


def test_the_recipe_for_a_gpu_trains_and_checks_its_experiment(
    packed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(packed)
    data = packed / "data/read-speech-gpu"
    others, read = (Manifest.load(data / f"{name}.parquet") for name in ("others", "kathleen_train"))
    assert others.column("id").to_pylist() == ["9", "10", "11"]
    assert read.column("id").to_pylist() == ["0", "1", "2", "3", "4"]
    recipe = "recipes/read_speech_gpu"
    small = {"num_layers": 1, "model_dim": 32, "num_heads": 2, "feed_forward_dim": 64}
    words = [word for name, value in small.items() for word in (f"--encoder.{name}", str(value))]
    words += ["--device", "cpu", "--data.num_workers", "0", "--training.precision", "fp32"]
    command = ["pretrain", "--config", f"{recipe}/pretrain.yaml", *words]
    assert main([*command, "--dry_run"]) == 0
    assert "20000 of 1 batches" in capsys.readouterr().out
    assert main([*command, "--training.max_steps", "2", "--training.num_threads", "1", "--no_report"]) == 0
    words = ["label-efficiency", "--config", f"{recipe}/label_efficiency.yaml", "--minutes", "0.1", "--dry_run"]
    assert main(words) == 0
    assert "14.6 M" in (shown := capsys.readouterr().out) and "16 runs" in shown
