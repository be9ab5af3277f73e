"""One line of a configuration starts from another tool's model: pre-training goes on, and a recogniser is trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechssl.cli import main
from speechssl.interop import import_model
from speechssl.manifest import build_manifest
from speechssl.pretrain import PretrainConfig, build_models

transformers = pytest.importorskip("transformers")

SHAPE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "codevector_dim": 16,
    "proj_codevector_dim": 8, "num_codevectors_per_group": 6,
}  # fmt: skip


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        soundfile.write(folder / f"{number}.wav", 0.1 * random.standard_normal(16000), 16000)
        (folder / f"{number}.txt").write_text(["ab", "ba", "aab"][number % 3])
    return Path(build_manifest(folder, output=tmp_path / "m.jsonl").output or "")


@pytest.fixture
def foreign(tmp_path: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        config = getattr(transformers, name.split("For")[0].removesuffix("Model") + "Config")(**SHAPE)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            getattr(transformers, name)(config).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


def test_pretraining_goes_on_with_the_models_own_quantizer(
    recordings: Path, foreign: Callable[[str], Path], tmp_path: Path
) -> None:
    source = foreign("Wav2Vec2ForPreTraining")
    config = PretrainConfig(manifests=(recordings,), run_directory=tmp_path / "x", initialize_from=str(source))
    _, objective = build_models(config)
    theirs = import_model(source).build_objective()
    torch.testing.assert_close(objective.quantizer.codebooks, theirs.quantizer.codebooks)
    assert objective.config.num_entries == 6 and objective.config.num_distractors == 100  # ours where it is no shape

    (tmp_path / "pretrain.yaml").write_text(
        f"manifests: [{recordings}]\nrun_directory: {tmp_path / 'run'}\ninitialize_from: {source}\n"
        "data: {batch_seconds: 3, num_workers: 0}\ntraining: {max_steps: 2}\n"
    )
    assert main(["pretrain", "--config", str(tmp_path / "pretrain.yaml"), "--no_report"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses and np.isfinite(losses).all()


@pytest.mark.parametrize("name", ["HubertModel", "Wav2Vec2ForPreTraining"])
def test_a_recogniser_with_a_new_vocabulary(
    name: str, recordings: Path, foreign: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "finetune.yaml").write_text(
        f"train_manifest: {recordings}\nvalid_manifest: {recordings}\nrun_directory: {tmp_path / 'asr'}\n"
        f"pretrained: {foreign(name)}\ndata: {{batch_seconds: 3, num_workers: 0}}\ntraining: {{max_steps: 2}}\n"
    )
    assert main(["finetune", "--config", str(tmp_path / "finetune.yaml"), "--no_report"]) == 0
    vocabulary = json.loads((tmp_path / "asr" / "checkpoints" / "last" / "vocab.json").read_text())
    assert set(vocabulary) == {"<blank>", "|", "a", "b"}
    assert main(["info", str(tmp_path / "asr"), "--json"]) == 0


def test_info_describes_what_others_wrote(foreign: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(foreign("WavLMModel")), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == "huggingface" and told["origin"]["architecture"] == "wavlm"
    assert told["frames a second"] == 50.0 and told["receptive field of a frame (ms)"] == 25.0
    assert told["parameters"] == sum(
        p.numel() for p in transformers.WavLMModel(transformers.WavLMConfig(**SHAPE)).parameters()
    )
