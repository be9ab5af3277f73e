import json
import logging
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from speechssl.errors import CheckpointError
from speechssl.training.checkpoint import CheckpointStore
from speechssl.training.tensors import load_module, read_tensors, without_aliases, write_tensors

FILES = ["model.safetensors", "optimizer.safetensors", "teacher.safetensors", "config.json", "state.json"]
SETTINGS = {"max_steps": 6, "checkpoint_interval": 2, "validate_interval": None, "keep_checkpoints": 3}


@pytest.fixture(scope="module")
def finished(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints") / "run"
    toy.run(directory, **SETTINGS)
    return directory


@pytest.fixture
def run_directory(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_last_checkpoint_cut_short_is_passed_over_with_a_warning(
    toy: ModuleType, run_directory: Path, finished: Path, name: str, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = run_directory / "checkpoints/step_6" / name
    cut(damaged, share)
    with caplog.at_level(logging.WARNING):
        assert toy.run(run_directory, **SETTINGS).steps == 6
    message = caplog.messages[0]
    assert str(damaged) in message
    assert "cut short" in message
    assert "going back to the checkpoint after step 4" in message
    for file in FILES[:3]:
        assert (run_directory / "checkpoints/last" / file).read_bytes() == (
            finished / "checkpoints/last" / file
        ).read_bytes()


def test_other_damage_is_noticed_too(toy: ModuleType, run_directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = run_directory / "checkpoints/step_6/optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (run_directory / "checkpoints/step_4/teacher.safetensors").unlink()
    assert toy.run(run_directory, **SETTINGS).steps == 6
    assert "damaged, its contents are not those that were written" in caplog.messages[0]
    assert "cannot be read (No such file or directory)" in caplog.messages[1]


def test_without_any_intact_checkpoint_the_error_names_file_and_way_out(toy: ModuleType, run_directory: Path) -> None:
    for step in (2, 4, 6):
        cut(run_directory / f"checkpoints/step_{step}/model.safetensors")
    with pytest.raises(CheckpointError) as error:
        toy.run(run_directory, **SETTINGS)
    assert str(run_directory / "checkpoints/step_6/model.safetensors") in str(error.value)
    assert "cut short" in str(error.value)
    assert "no earlier checkpoint of this run is intact" in str(error.value)
    assert "remove" in str(error.value)
    assert error.value.exit_code == 2


def test_a_checkpoint_holds_no_pickle_and_relative_links(finished: Path) -> None:
    checkpoints = finished / "checkpoints"
    assert sorted(path.name for path in (checkpoints / "step_6").iterdir()) == sorted(FILES)
    assert (checkpoints / "last").is_symlink()
    assert (checkpoints / "last").readlink() == Path("step_6")
    state = json.loads((checkpoints / "last/state.json").read_text())
    assert state["step"] == 6
    assert set(state["files"]) == set(FILES) - {"state.json"}


def test_tied_weights_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    tensors = without_aliases(model.state_dict())
    assert sorted(tensors) == ["0.bias", "0.weight", "1.bias"]
    write_tensors(tmp_path / "m.safetensors", tensors)
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    other[1].weight = other[0].weight
    load_module(other, read_tensors(tmp_path / "m.safetensors"), source=tmp_path / "m.safetensors")
    assert other[1].weight is other[0].weight
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_views_of_one_buffer_are_stored_apart(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    views = {"a": base[:6], "b": base[6:], "c": base.view(3, 4).T, "empty": base[:0], "none": base[:0]}
    write_tensors(tmp_path / "v.safetensors", without_aliases(views))
    back = read_tensors(tmp_path / "v.safetensors")
    assert back.keys() == views.keys()
    assert all(torch.equal(back[name], views[name]) for name in views)


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        load_module(nn.Linear(3, 3), {"weight": torch.zeros(2, 3), "scale": torch.zeros(1)}, source=tmp_path)
    message = str(error.value)
    assert "missing bias" in message and "unknown scale" in message
    assert "weight is torch.float32 [2, 3] instead of torch.float32 [3, 3]" in message


def test_what_an_interrupted_write_left_is_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.write(3, save_model=lambda folder: None, tensors={}, state={"step": 3})
    (tmp_path / ".writing-step_4").mkdir()
    (tmp_path / ".writing-last").symlink_to("step_4")
    store.remove_leftovers()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step_3"]
    assert store.newest_usable() == (3, {"step": 3, "files": {}})


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in (10, 20, 30, 40):
        store.write(step, save_model=lambda folder: None, tensors={}, state={"step": step})
    store.prune(step=40, best=[10, 99], keep_newest=2)
    assert store.steps() == [10, 30, 40]
    assert (tmp_path / "best").resolve() == tmp_path / "step_10"
