from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from speechssl.config import differing_keys, from_dict, known_keys, load_config, to_dict, write_yaml
from speechssl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optim:
    peak_lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    schedule: Literal["linear", "cosine"] = "linear"
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        if self.peak_lr <= 0:
            raise ValueError(f"peak_lr must be above 0, but is {self.peak_lr}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    optim: Optim = field(default_factory=lambda: Optim(peak_lr=5.0, betas=(0.5, 0.6)))
    output: Path | None = None
    fractions: dict[str, float] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    augment: bool = False
    second: Optim | None = None
    limit: float | Literal["none"] = "none"
    layers: tuple[tuple[int, int], ...] = ((10, 5),)
    any: Any = None


def stage(**values: Any) -> Stage:
    return from_dict(Stage, {"name": "n", **values})


@pytest.mark.parametrize("text", ["1e-4", "0.0001", "1.0e-4", "'1e-4'", ".0001"])
def test_numbers_are_numbers_however_yaml_sees_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"name: x\noptim: {{peak_lr: {text}}}\n")
    assert load_config(Stage, path).optim.peak_lr == 1e-4


def test_yaml_booleans_follow_the_declared_type(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: no\naugment: yes\nlanguages: [no, on, y, 2024-01-01, 12:30, 0x1f, '7', '1e-4', '']\n")
    config = load_config(Stage, path)
    assert config.name == "no"
    assert config.augment is True
    assert config.languages == ("no", "on", "y", "2024-01-01", "12:30", "0x1f", "7", "1e-4", "")
    path.write_text("name: x\naugment: no\n")
    assert load_config(Stage, path).augment is False


def test_a_written_config_loads_back_equal(tmp_path: Path) -> None:
    config = stage(
        name="no", output="a/b", languages=["yes", "1e-4", "~", "", "=", "0o7", "é", " x", "a: b", "#"],
        fractions={"on": 1e-7}, second={"warmup_steps": "1e3"}, limit=3, layers=[[1, 2], ["3", 4]],
        any={"x": [1, None, True, "true"]},
    )  # fmt: skip
    write_yaml(config, tmp_path / "c.yaml")
    assert load_config(Stage, tmp_path / "c.yaml") == config
    assert from_dict(Stage, to_dict(config)) == config
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_the_training_config_loads_back_equal(tmp_path: Path) -> None:
    from speechssl.training import TrainingConfig

    values = {"optim": {"schedule": "tri_stage", "final_scale": 0.05}, "monitor.action": "stop"}
    config = from_dict(TrainingConfig, values)
    write_yaml(config, tmp_path / "c.yaml")
    assert load_config(TrainingConfig, tmp_path / "c.yaml") == config


def test_a_partly_given_section_keeps_the_parents_default() -> None:
    assert stage(optim={"peak_lr": 1}).optim == Optim(peak_lr=1.0, betas=(0.5, 0.6))
    assert stage(second={"warmup_steps": 3}).second == Optim(warmup_steps=3)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: x\noptim: {peak_lr: 1, warmup_steps: 5}\n")
    texts = ["optim.peak_lr=2e-3", "languages=[a, no]", "output=null", "name=007", "--optim.betas=[0, .5]"]
    config = load_config(Stage, path, texts)
    assert config.optim == Optim(peak_lr=2e-3, warmup_steps=5, betas=(0.0, 0.5))
    assert (config.languages, config.output, config.name) == (("a", "no"), None, "007")
    config = load_config(Stage, path, {"optim.peak_lr": "2e-3", "optim": {"warmup_steps": 6}})
    assert config.optim == Optim(peak_lr=2e-3, warmup_steps=6, betas=(0.5, 0.6))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optim": {"peak_lrr": 1}}, "unknown key 'optim.peak_lrr'; did you mean 'optim.peak_lr'?"),
        ({"peak_lr": 1}, "unknown key 'peak_lr'; did you mean 'optim.peak_lr'?"),
        ({"zzz": 1}, "unknown key 'zzz'; the keys here are any, augment,"),
        ({"optim": {"zzz": 1}}, "the keys under 'optim' are betas, peak_lr, schedule, warmup_steps"),
        ({"second": {"peek_lr": 1}}, "did you mean 'second.peak_lr'?"),
        ({"optim": 3}, "optim: must be a mapping with the keys peak_lr, betas, schedule, warmup_steps, but is 3"),
        ({"optim": {"peak_lr": "fast"}}, "optim.peak_lr: must be a number, but is 'fast'"),
        ({"optim": {"peak_lr": "nan"}}, "optim.peak_lr: must be a number, but is 'nan'"),
        ({"optim": {"peak_lr": True}}, "optim.peak_lr: must be a number, but is True"),
        ({"optim": {"peak_lr": -1}}, "optim: peak_lr must be above 0, but is -1.0"),
        ({"optim": {"schedule": "cosin"}}, "must be one of linear, cosine, but is 'cosin'; did you mean 'cosine'?"),
        ({"optim": {"warmup_steps": 1.5}}, "optim.warmup_steps: must be a whole number, but is 1.5"),
        ({"optim": {"betas": [1]}}, "optim.betas: must be a list of 2 items (a number, a number), but is [1]"),
        ({"optim": {"betas": 0.9}}, "optim.betas: must be a list of 2 items"),
        ({"languages": "en"}, "languages: must be a list, each item text, but is 'en'; write a list such as [a, b]"),
        ({"languages": ["en", False]}, "languages[1]: must be text, but is False; put it in quotes"),
        ({"fractions": {"train": "most"}}, "fractions.train: must be a number, but is 'most'"),
        ({"augment": 1}, "augment: must be true or false, but is 1"),
        ({"name": 3}, "name: must be text, but is 3; put it in quotes"),
        ({"layers": [[1, 2], [3]]}, "layers[1]: must be a list of 2 items"),
        ({"limit": "all"}, "limit: must be a number or one of none, but is 'all'"),
    ],
)
def test_errors_name_key_value_and_way_out(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_dict(Stage, {"name": "n", **values}, source="run.yaml")
    assert str(error.value).startswith("run.yaml: ")
    assert message in str(error.value)
    assert error.value.exit_code == 2


def test_a_required_key_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="the key 'name' is required; set it to text"):
        from_dict(Stage, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: x\noptim:\n\tpeak_lr: 1\n", "line 3, column 1: holds a tab, which YAML does not allow"),
        (b"name: x\nname: y\n", "line 2, column 1: is not valid YAML (the key 'name' is given twice; keep one)"),
        (b"name: [x\n", "is not valid YAML"),
        (b"- a\n", "must hold 'key: value' lines, but holds list"),
        (b"name: \xff\n", "is not UTF-8 text (byte 6); save it as UTF-8"),
        (b"name: a\x07\n", "is not valid YAML"),
        (b"name: x\noptm: {}\n", "unknown key 'optm'; did you mean 'optim'?"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_config(Stage, path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_a_missing_file_and_a_bad_override_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(Stage, tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a directory|cannot be read"):
        load_config(Stage, tmp_path)
    with pytest.raises(ConfigError, match="'name' is not key=value"):
        load_config(Stage, None, ["name"])


def test_known_and_differing_keys_are_dotted() -> None:
    assert "second.warmup_steps" in known_keys(Stage)
    first, second = to_dict(stage()), to_dict(stage(optim={"peak_lr": 2}, name="m"))
    assert differing_keys(first, second) == {"name": ("n", "m"), "optim.peak_lr": (5.0, 2.0)}
