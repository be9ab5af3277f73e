"""The quickstart from a folder of recordings to its report, on generated audio and with few steps."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from speechssl.cli import main
from speechssl.errors import TrainingError
from speechssl.jobs import Job, run_jobs
from speechssl.manifest import Manifest
from speechssl.quickstart.arms import QUICKSTART, SCRATCH, choose
from speechssl.quickstart.settings import Trial
from speechssl.quickstart.steps import Steps

RATE = 16000
WORDS = {"low": 300, "mid": 700, "high": 1500, "top": 3000}
TINY = (
    "--encoder.model_dim 32 --encoder.num_layers 1 --encoder.num_heads 2 --encoder.feed_forward_dim 64"
    " --encoder.position_kernel 8 --encoder.position_groups 2 --pretrain_steps 4 --finetune_steps 4"
    " --scratch_learning_rates 2e-3 --pretrained_learning_rates 1e-3 --shipped null --probe_labels 9 --jobs 2"
).split()


def make_recordings(folder: Path, *, num_clips: int = 30) -> Path:
    """Clips whose words are tones, by three speakers who differ in their overtones; no text occurs twice."""
    random = np.random.default_rng(0)
    folder.mkdir()
    lines = ["path\ttext\tspeaker"]
    seconds = np.arange(int(0.3 * RATE)) / RATE
    for index in range(num_clips):
        words = list(random.choice(list(WORDS), size=2 + index % 4))
        tones = [np.sin(2 * np.pi * WORDS[word] * seconds) for word in words]
        overtones = [np.sin(2 * np.pi * WORDS[word] * (2 + index % 3) * seconds) for word in words]
        waveform = 0.2 * np.concatenate(tones) + 0.1 * np.concatenate(overtones)
        soundfile.write(folder / f"clip{index:02d}.flac", waveform + 0.01 * random.standard_normal(len(waveform)), RATE)
        number = chr(97 + index // 6) + chr(97 + index % 6)
        lines.append(f"clip{index:02d}.flac\t{' '.join(words)} {number}\tspeaker{index % 3}")
    (folder / "transcripts.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_own_recordings_end_with_tables_and_a_report_and_a_second_call_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audio = make_recordings(tmp_path / "audio")
    (audio / "broken.wav").write_text("this is no audio")
    words = ["quickstart", "--audio", str(audio), "--output", str(tmp_path / "run"), *TINY]
    assert main(words) == 0
    first = capsys.readouterr()
    for text in ("learning rates tried", SCRATCH, QUICKSTART, "probe for speaker", "log_mel", "random", "broken.wav"):
        assert text in first.out
    page = (tmp_path / "run" / "report.html").read_text()
    for text in ("Pre-training", "Learning rates tried", "Word errors", "Probes", "Embeddings", "Code usage"):
        assert f"{text}" in page

    data = tmp_path / "run" / "data"
    parts = {name: Manifest.load(data / f"{name}.jsonl") for name in ("train", "dev", "test")}
    for column in ("audio_filepath", "text"):
        values = [set(part.column(column).to_pylist()) for part in parts.values()]
        assert sum(map(len, values)) == len(set.union(*values)) == 30
    result = json.loads(next((tmp_path / "run" / "evaluate").glob("*/result.json")).read_text())
    assert result["num_utterances"] == len(parts["test"])
    table = pq.read_table(next((tmp_path / "run" / "embed").rglob("embeddings.parquet")))
    assert table.column("id").to_pylist() == parts["test"].column("id").to_pylist()

    assert main(words) == 0
    second = capsys.readouterr()
    assert second.out.split("took")[0] == first.out.split("took")[0]
    assert second.err.count("done before") == 6


def test_interrupted_run_goes_on(tmp_path: Path) -> None:
    audio = make_recordings(tmp_path / "audio")
    (audio / "transcripts.tsv").unlink()
    words = ["quickstart", "--audio", str(audio), "--output", str(tmp_path / "run"), *TINY]
    words[words.index("--pretrain_steps") + 1] = "100000"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    metrics = tmp_path / "run" / "pretrain" / "run" / "metrics.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "speechssl", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 143, said
    assert "the same command goes on from here" in said
    assert (tmp_path / "run" / "pretrain" / "run" / "checkpoints" / "last").exists()
    marker = json.loads((tmp_path / "run" / "pretrain" / "step.json").read_text())
    assert marker["state"] == "running"


def test_without_texts_it_says_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = make_recordings(tmp_path / "audio", num_clips=16)
    (audio / "transcripts.tsv").unlink()
    assert main(["quickstart", "--audio", str(audio), "--output", str(tmp_path / "run"), *TINY]) == 0
    out = capsys.readouterr().out
    assert "left out: fine-tuning and error rates: 0 utterances have a text" in out
    assert "left out: a probe for language" in out
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / "finetune").exists()


def test_a_folder_without_recordings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    code = main(["quickstart", "--audio", str(tmp_path / "empty"), "--output", str(tmp_path / "run")])
    assert (code, str(tmp_path / "empty") in capsys.readouterr().err) == (2, True)


def test_a_folder_of_something_else_is_never_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "run" / "data" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("three years of work")
    audio = make_recordings(tmp_path / "audio", num_clips=3)
    assert main(["quickstart", "--audio", str(audio), "--output", str(tmp_path / "run")]) == 2
    assert "was not made by the quickstart" in capsys.readouterr().err
    assert precious.read_text() == "three years of work"


def test_a_step_is_done_once_and_again_when_its_inputs_change(tmp_path: Path) -> None:
    calls = []

    def work(folder: Path) -> dict[str, object]:
        calls.append(sorted(path.name for path in folder.iterdir()))
        (folder / "made.txt").write_text("x")
        return {"answer": (1, 2)}

    first = Steps(tmp_path).run("one", title="One", inputs={"a": 1}, work=work)
    again = Steps(tmp_path).run("one", title="One", inputs={"a": 1}, work=work)
    assert len(calls) == 1
    assert first.outcome == again.outcome == {"answer": [1, 2]}
    changed = Steps(tmp_path).run("one", title="One", inputs={"a": 2}, work=work)
    assert calls[1] == ["step.json"]  # what the other inputs made is gone
    assert changed.fingerprint != first.fingerprint


def test_an_interrupted_step_finds_what_it_left(tmp_path: Path) -> None:
    def stops(folder: Path) -> dict[str, object]:
        (folder / "half.txt").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Steps(tmp_path).run("one", title="One", inputs={}, work=stops)
    step = Steps(tmp_path).run("one", title="One", inputs={}, work=lambda f: {"half": (f / "half.txt").is_file()})
    assert step.outcome == {"half": True}


def make_trial(arm: str, rate: float, dev_cer: float | None) -> Trial:
    return Trial(
        arm=arm,
        learning_rate=rate,
        folder=Path("x"),
        dev_wer=dev_cer,
        dev_cer=dev_cer,
        failure="" if dev_cer else "NaN",
    )


def test_every_arm_gets_its_own_best_rate_and_a_failed_rate_is_no_end() -> None:
    trials = [
        make_trial("a", 1.0, None),
        make_trial("a", 2.0, 0.5),
        make_trial("b", 1.0, 0.4),
        make_trial("b", 2.0, 0.3),
    ]
    chosen = [(trial.arm, trial.learning_rate) for trial in choose(trials) if trial.chosen]
    assert chosen == [("a", 2.0), ("b", 2.0)]
    with pytest.raises(TrainingError, match="a: every learning rate failed"):
        choose(trials[:1])


def test_jobs_run_side_by_side_and_tell_how_they_ended(tmp_path: Path) -> None:
    jobs = [
        Job(name="good", words=["--version"], log=tmp_path / "good.log", status=lambda: ""),
        Job(name="wrong", words=["nonsense"], log=tmp_path / "wrong.log", status=lambda: ""),
    ]
    assert run_jobs(jobs[:1], num_parallel=2) == [0]
    with pytest.raises(TrainingError, match="wrong: ended with exit code 2: speechssl: there is no command 'nonsense'"):
        run_jobs(jobs, num_parallel=2)
