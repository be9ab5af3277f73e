"""The command line: what it prints, and how it ends."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.cli import COMMANDS, main
from speechssl.cli.help import TEXTS, text_path
from speechssl.cli.help.describe import commands, described
from speechssl.cli.manifests.registry import SUBCOMMANDS
from speechssl.cli.manifests.split import SplitOptions
from speechssl.cli.manifests.subset import SubsetOptions
from speechssl.cli.options import nearest_option, stage_config
from speechssl.cli.stages import EXAMPLES
from speechssl.errors import ConfigError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Eight short noises with texts beside them."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(8):
        soundfile.write(folder / f"clip{index}.wav", 0.1 * random.standard_normal(4000 + 400 * index), 16000)
        (folder / f"clip{index}.txt").write_text(f"text number {'abcdefgh'[index]}\n")
    return folder


@pytest.fixture
def manifest(recordings: Path, run: Run) -> Path:
    path = recordings.parent / "all.jsonl"
    assert run("manifest", "build", recordings, "--output", path)[0] == 0
    return path


def test_help_is_quick_and_imports_no_torch() -> None:
    code = "import sys; from speechssl.cli import main; main(['--help']); print('torch' in sys.modules)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert time.perf_counter() - start < 1.5
    assert all(f"  {name}" in done.stdout for name in COMMANDS)


def test_help_of_every_command_imports_no_torch() -> None:
    code = (
        "import sys; from speechssl.cli import main; from speechssl.cli.help.describe import commands\n"
        "codes = [main([*name.split(), '--help']) for name in [*commands(), 'manifest']]\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'pandas', 'scipy', 'jsonargparse'} & set(sys.modules)\n"
        "print(set(codes), sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "{0} []"


@pytest.mark.parametrize("command", list(commands()))
def test_stored_help_is_that_of_the_code(command: str, run: Run) -> None:
    path = text_path(command.split())
    assert path.read_text(encoding="utf-8") == described(command), "run python -m speechssl.cli.help"
    # asked for together with other words, the help is made from the code
    assert run(*command.split(), "--help", "--print_config")[1] == run(*command.split(), "--help")[1]


@pytest.mark.parametrize("command", list(commands()))
def test_every_option_is_described(command: str) -> None:
    groups = json.loads(text_path(command.split()).read_text(encoding="utf-8"))["groups"]
    described = {name: text.strip() for group in groups for name, text in group["options"]}
    assert not [name for name, text in described.items() if not text or text.startswith("(")]


def test_no_help_is_stored_of_what_is_no_command() -> None:
    assert {path.name for path in TEXTS.iterdir()} == {text_path(command.split()).name for command in commands()}


def test_no_word_prints_the_help_too(run: Run) -> None:
    assert run()[:2] == run("--help")[:2]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "manifest"])
def test_help_of_every_command_shows_an_example(command: str, run: Run) -> None:
    if command == "probe":
        pytest.importorskip("speechssl.probe")
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"example:\n  speechssl {command}" in out


@pytest.mark.parametrize("subcommand", SUBCOMMANDS)
def test_help_of_every_manifest_command_shows_an_example(subcommand: str, run: Run) -> None:
    code, out, _ = run("manifest", subcommand, "--help")
    assert code == 0
    assert f"example:\n  speechssl manifest {subcommand}" in out


def test_options_in_examples_exist(run: Run) -> None:
    """Every `--option` of every example is among the options that the help lists."""
    pages: dict[str, str] = {}
    for command, example in [*EXAMPLES.items(), *((f"manifest {k}", v.example) for k, v in SUBCOMMANDS.items())]:
        if command == "probe":
            pytest.importorskip("speechssl.probe")
        for option in re.findall(r"--([\w.]+)", example):
            if command not in pages:
                pages[command] = run(*command.split(), "--help")[1]
            listed = option.split(".")[0] if option.startswith(("parts.", "where.", "where_not.")) else option
            assert f"--{listed} " in pages[command].split("example:")[0], (command, option)


def test_version(run: Run) -> None:
    assert run("--version")[1].startswith("speechssl 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrian"], "there is no command 'pretrian'; did you mean 'pretrain'?"),
        (["xyz"], "the commands are quickstart, manifest"),
        (["manifest", "biuld"], "there is no subcommand 'biuld'; did you mean 'build'?"),
        (["manifest", "split", "m.jsonl", "--ouput", "x"], "unknown option --ouput; did you mean --output?"),
        (["manifest", "stats"], "the key 'manifest' is required"),
        (["manifest", "stats", "a.jsonl", "b.jsonl"], "unexpected word 'b.jsonl'; it takes MANIFEST"),
        (["manifest", "stats", "--manifest"], "--manifest needs a value"),
        (["manifest", "subset", "m.jsonl", "--output", "x"], "give at least one size: --minutes 10 60"),
        (["manifest", "validate", "m.jsonl", "--quarantine", "x"], "--quarantine and --output go together"),
        (["manifest", "split", "m.jsonl", "--output", "x", "--seed", "many"], "seed: must be a whole number"),
        (["manifest", "stats", "nowhere.jsonl"], "nowhere.jsonl"),
        (["manifest", "build", "nowhere", "--output", "m.jsonl"], "nowhere"),
        (["pretrain", "--trainig.max_steps", "3"], "--trainig.max_steps; did you mean --training.max_steps?"),
        (["pretrain", "--peak_lr", "3"], "unknown option --peak_lr; did you mean --training.optim.peak_lr?"),
        (["pretrain", "--config", "nowhere.yaml"], "nowhere.yaml: the file does not exist"),
        (["quickstart", "--transcripts", "x.tsv"], "name the folder too"),
        (["quickstart", "--scratch_learning_rates", "0"], "must be one or more numbers above 0"),
        (["embed", "nowhere", "nowhere.jsonl", "--output", "x"], "nowhere"),
        (["transcribe", "nowhere", "talk.wav"], "nowhere: does not exist"),
        (["evaluate", "--checkpoint", "nowhere", "--manifest", "nowhere.jsonl"], "nowhere"),
        (["report", "nowhere"], "nowhere: is no run directory"),
        (["info", "nowhere"], "nowhere: does not exist"),
    ],
)  # fmt: skip
def test_wrong_input_ends_with_one_clear_line_and_code_2(words: list[str], message: str, run: Run) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert message in err
    assert err.startswith("speechssl: ")
    assert "Traceback" not in err
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("preset: tiny\ntraining:\n\tmax_steps: 3\n", "tab"),
        ("preset: tiny\ntraining:\n  max_stpes: 3\n", "'training.max_stpes'; did you mean 'training.max_steps'?"),
        ("manifests: [a]\nrun_directory: x\ntraining:\n  max_steps: soon\n", "training.max_steps: must be a whole"),
        ("preset: huge\nmanifests: [a]\nrun_directory: x\n", "preset must be one of tiny, small, base, large"),
        ("- a\n- b\n", "must hold 'key: value' lines"),
    ],
)  # fmt: skip
def test_wrong_config_file_names_file_and_key(content: str, message: str, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    code, _, err = run("pretrain", "--config", path)
    assert code == 2
    assert str(path) in err
    assert message in err


def test_debug_shows_where_an_error_came_from() -> None:
    with pytest.raises(ConfigError):
        main(["manifest", "biuld", "--debug"])


def test_print_config_is_a_config_file_that_reads_back_the_same(tmp_path: Path, run: Run) -> None:
    words = ["--manifests", "a.jsonl", "b.jsonl", "--run_directory", "runs/x", "--training.optim.peak_lr", "1e-4"]
    code, first, _ = run("pretrain", *words, "--preset", "tiny", "--print_config")
    assert code == 0
    path = tmp_path / "pretrain.yaml"
    path.write_text(first)
    assert run("pretrain", "--config", path, "--print_config")[1] == first
    changed = run("pretrain", "--config", path, "--training.max_steps", "7", "--print_config")[1]
    assert "max_steps: 7\n" in changed
    assert "peak_lr: 0.0001\n" in changed


def options(words: list[str], config_class: type = SplitOptions) -> object:
    return stage_config(
        "manifest split", config_class, words, example="", summary="", positionals=("manifest",)
    )  # fmt: skip


def test_positions_lists_and_mappings_on_the_command_line() -> None:
    got = options(["m.jsonl", "--output=x", "--by", "speaker", "text", "--parts.train", "0.9", "--parts.test", "1e-1"])
    assert got == SplitOptions(
        manifest=Path("m.jsonl"), output=Path("x"), by=("speaker", "text"), parts={"train": 0.9, "test": 0.1}
    )
    got = options(["--minutes", "1", "2.5", "--output", "x", "--", "m.jsonl"], SubsetOptions)
    assert got == SubsetOptions(manifest=Path("m.jsonl"), output=Path("x"), minutes=(1.0, 2.5))
    got = options(["--minutes", "[1, 2]", "--output", "x", "--manifest", "m.jsonl"], SubsetOptions)
    assert got == SubsetOptions(manifest=Path("m.jsonl"), output=Path("x"), minutes=(1.0, 2.0))


def test_nearest_option_knows_nested_names() -> None:
    known = ["training.optim.peak_lr", "training.max_steps", "output"]
    assert nearest_option("max_steps", known) == "; did you mean --training.max_steps?"
    assert nearest_option("max_step", known) == "; did you mean --training.max_steps?"
    assert nearest_option("zzz", known) == ""


def test_manifest_commands_work_together(manifest: Path, run: Run) -> None:
    folder = manifest.parent
    code, out, _ = run("manifest", "validate", manifest, "--audio")
    assert (code, "8 rows, 0 with problems" in out) == (0, True)
    assert "8 utterances" in run("manifest", "stats", manifest)[1]
    assert json.loads(run("manifest", "stats", manifest, "--json")[1])["num_utterances"] == 8
    words = ["--parts.train", "0.75", "--parts.test", "0.25", "--by", "recording", "text"]
    code, out, err = run("manifest", "split", manifest, "--output", folder / "parts", *words)
    assert (code, err) == (0, "")
    sizes = [len((folder / "parts" / f"{name}.jsonl").read_text().splitlines()) for name in ("train", "test")]
    assert sum(sizes) == 8
    assert run("manifest", "subset", manifest, "--output", folder / "subsets", "--minutes", "0.01", "0.02")[0] == 0
    assert (folder / "subsets" / "0.01min.jsonl").is_file()
    assert run("manifest", "convert", manifest, folder / "all.parquet")[0] == 0
    assert "8 utterances" in run("info", folder / "all.parquet")[1]


def test_build_and_list_print_json(recordings: Path, tmp_path: Path, run: Run) -> None:
    built = json.loads(run("manifest", "build", recordings, "--output", tmp_path / "m.jsonl", "--json")[1])
    assert (built["num_utterances"], built["num_with_text"]) == (8, 8)
    assert "voice-prompts" in [card["name"] for card in json.loads(run("manifest", "list", "--json")[1])]
    assert "CC BY-SA 3.0" in run("manifest", "list", "voice-prompts")[1]


def test_validation_with_problems_exits_1_and_quarantines(manifest: Path, recordings: Path, run: Run) -> None:
    (recordings / "clip3.wav").write_bytes((recordings / "clip3.wav").read_bytes()[:50])
    clean, bad = manifest.parent / "clean.jsonl", manifest.parent / "bad.jsonl"
    code, out, _ = run("manifest", "validate", manifest, "--audio", "--quarantine", bad, "--output", clean)
    assert code == 1
    assert "clip3" in out
    assert len(clean.read_text().splitlines()) == 7
    assert len(bad.read_text().splitlines()) == 1
    code, out, _ = run("manifest", "validate", manifest, "--audio", "--json")
    assert code == 1
    assert json.loads(out)["num_bad"] == 1


def test_bad_folders_and_transcripts_are_refused(tmp_path: Path, recordings: Path, run: Run) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, err = run("manifest", "build", empty, "--output", tmp_path / "m.jsonl")
    assert (code, str(empty) in err) == (2, True)
    (tmp_path / "latin.tsv").write_bytes("path\ttext\nclip0.wav\tna\u00efve\n".encode("latin-1"))
    code, _, err = run(
        "manifest", "build", recordings, "--output", tmp_path / "m.jsonl", "--transcripts", tmp_path / "latin.tsv"
    )
    assert (code, "latin.tsv:2: not UTF-8" in err) == (2, True)
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "text.wav").write_text("this is no audio")
    code, _, err = run("manifest", "build", fake, "--output", tmp_path / "m.jsonl")
    assert (code, "text.wav" in err or "fake" in err) == (2, True)


def test_output_into_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m speechssl --help | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] in ("0", "141")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission_is_refused(manifest: Path, run: Run) -> None:
    manifest.parent.chmod(0o500)
    code, _, err = run("manifest", "convert", manifest, manifest.parent / "new.parquet")
    manifest.parent.chmod(0o700)
    assert (code, "Permission denied" in err) == (2, True)


def test_torn_checkpoint_is_refused(tmp_path: Path, recordings: Path, run: Run) -> None:
    from speechssl.encoder import SpeechEncoder, encoder_config

    SpeechEncoder(encoder_config("tiny", {"num_layers": 1})).save(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, _, err = run("info", tmp_path / "model")
    assert (code, "model.safetensors" in err) == (2, True)


def test_info_describes_a_model(tmp_path: Path, run: Run) -> None:
    from speechssl.encoder import SpeechEncoder, encoder_config

    SpeechEncoder(encoder_config("tiny", {"num_layers": 1})).save(tmp_path / "model")
    code, out, _ = run("info", tmp_path / "model", "--json")
    assert code == 0
    assert json.loads(out)["encoder"]["num_layers"] == 1
