"""Units: the k-means is the known one, a stopped run ends with the same bits, and what is written can be read back."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from safetensors.numpy import load_file
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import normalized_mutual_info_score

from speechssl.cli import main
from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import AudioError, CheckpointError, ConfigError, ManifestError
from speechssl.manifest import Manifest, build_manifest
from speechssl.types import Utterance
from speechssl.units import ApplyConfig, UnitsConfig, UnitsResult, apply, run
from speechssl.units.kmeans import UnitState, first_centers, nearest, update
from speechssl.units.measures import matched_share, normalised_information, perplexity, score_units
from speechssl.units.train import mini_batches, plan_chunks
from speechssl.units.write import run_lengths

RATE = 16_000
SMALL = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_groups": 4}
TONES = (300.0, 1000.0, 3000.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of two tones one after the other, with the times of both as CTM, and an encoder."""
    folder = tmp_path_factory.mktemp("units")
    random = np.random.default_rng(0)
    rows, lines = [], [";; id channel start duration label\n"]
    for number in range(12):
        half = int(random.integers(6, 12)) * 800  # samples
        pair = [number % 3, (number + 1) % 3]
        time = np.arange(half) / RATE
        wave = np.concatenate([np.sin(2 * np.pi * TONES[tone] * time) for tone in pair]) * 0.3
        soundfile.write(folder / f"{number}.wav", wave + random.normal(size=2 * half) * 0.01, RATE)
        seconds = half / RATE
        lines += [f"t{number} 1 {place * seconds} {seconds} tone{tone}\n" for place, tone in enumerate(pair)]
        path = str(folder / f"{number}.wav")
        rows.append(
            Utterance(id=f"t{number}", audio_filepath=path, sample_rate=RATE, num_samples=2 * half,
                      duration=2 * seconds, extra={"first": f"tone{pair[0]}"})
        )  # fmt: skip
    Manifest.from_utterances(rows).save(folder / "all.jsonl")
    (folder / "tones.ctm").write_text("".join(lines))
    SpeechEncoder(encoder_config("tiny", SMALL), seed=5).save(folder / "model")
    return folder


def config(folder: Path, output: Path, **values: object) -> UnitsConfig:
    return UnitsConfig(
        **{"checkpoint": str(folder / "model"), "manifest": folder / "all.jsonl", "output": output, "num_units": 6,
           "layer": 1, "chunk_seconds": 3.0, "update_frames": 60, "first_frames": 120, "num_passes": 2, **values}
    )  # type: ignore[arg-type]  # fmt: skip


def table(output: Path) -> dict[str, list[int]]:
    found = pq.read_table(output / "units.parquet").to_pydict()
    return dict(zip(found["id"], found["units"], strict=True))


def test_update_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    frames = random.normal(size=(700, 5)).astype(np.float32)
    start = first_centers(frames[:100], 8, seed=3)
    peer = MiniBatchKMeans(8, init=start.centers, n_init=1, reassignment_ratio=0.0, random_state=0)
    mine = start
    for first in range(0, 700, 100):
        mine = update(mine, frames[first : first + 100])
        peer.partial_fit(frames[first : first + 100])
    np.testing.assert_allclose(mine.centers, peer.cluster_centers_, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(nearest(frames, mine.centers), peer.predict(frames))
    assert mine.counts.sum() == 700


def test_center_without_frames_stays_where_it_is() -> None:
    state = UnitState(centers=np.float32([[0.0], [100.0]]), counts=np.array([4, 2]))
    moved = update(state, np.float32([[5.0]]))
    np.testing.assert_array_equal(moved.centers, np.float32([[1.0], [100.0]]))
    np.testing.assert_array_equal(moved.counts, [5, 2])


def test_stopped_run_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    run(config(folder, tmp_path / "whole", num_seeds=2))
    for stop_at in (0, 1, 2):  # the same folder is stopped three times

        def stop(what: str, done: int, total: int, stop_at: int = stop_at) -> None:
            if what == "training" and done == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(config(folder, tmp_path / "parts", num_seeds=2), progress=stop)
        assert not (tmp_path / "parts" / "units.safetensors").exists()
    seen: list[int] = []
    run(config(folder, tmp_path / "parts", num_seeds=2), progress=lambda what, done, total: seen.append(done))
    assert seen[0] == 2, "begins where it was stopped"
    assert (tmp_path / "parts/units.tsv").read_bytes() == (tmp_path / "whole/units.tsv").read_bytes()
    parts, whole = (load_file(tmp_path / name / "units.safetensors") for name in ("parts", "whole"))
    assert parts.keys() == whole.keys()  # the file itself orders its metadata at random
    assert all(parts[name].tobytes() == whole[name].tobytes() for name in whole)


def test_every_pass_holds_every_recording_once_in_bounded_chunks(folder: Path, tmp_path: Path) -> None:
    durations = np.random.default_rng(0).uniform(0.1, 2.9, 50)
    settings = config(folder, tmp_path, num_passes=3)
    chunks = plan_chunks(durations, settings)
    assert all(durations[rows].sum() <= 3.0 for rows in chunks)
    seen = np.concatenate(chunks)
    assert all(sorted(part) == list(range(50)) for part in seen.reshape(3, 50)) and list(seen[:50]) != list(
        seen[50:100]
    )
    parts = list(mini_batches(np.arange(130, dtype=np.float32)[:, None], 60, seed=[0, 1]))
    assert [len(part) for part in parts] == [44, 43, 43]
    assert sorted(np.concatenate(parts)[:, 0]) == list(range(130))


def test_text_of_units_holds_the_same_as_the_table(folder: Path, tmp_path: Path) -> None:
    result = run(config(folder, tmp_path))
    expanded = {}
    for line in (tmp_path / "units.tsv").read_text().splitlines()[1:]:
        name, units, lengths = (part.split() for part in line.split("\t"))
        assert all(first != second for first, second in zip(units, units[1:], strict=False))
        expanded[name[0]] = [int(u) for u, n in zip(units, lengths, strict=True) for _ in range(int(n))]
    assert expanded == table(tmp_path)
    assert list(expanded) == [f"t{number}" for number in range(12)]
    assert sum(map(len, expanded.values())) == result.num_frames
    assert result.used == len({unit for units in expanded.values() for unit in units}) <= 6
    assert 1 < result.perplexity <= 6


def test_run_lengths_of_a_tiny_case() -> None:
    merged, lengths = run_lengths(np.array([4, 4, 1, 4, 4, 4]))
    assert merged.tolist() == [4, 1, 4] and lengths.tolist() == [2, 1, 3]
    assert run_lengths(np.zeros(0, np.int64))[0].tolist() == []


@pytest.mark.parametrize("checkpoint", ["model", "mfcc"])
def test_units_go_with_the_tones_that_are_heard(folder: Path, tmp_path: Path, checkpoint: str) -> None:
    source = str(folder / "model") if checkpoint == "model" else checkpoint
    result = run(config(folder, tmp_path, checkpoint=source, num_units=9, num_seeds=2, alignment=folder / "tones.ctm"))
    assert result.scores is not None and result.stability is not None
    assert result.scores["num_labels"] == 3 and result.scores["chance_purity"] < 0.45
    purity, pnmi = (0.85, 0.6) if checkpoint == "mfcc" else (0.6, 0.15)  # the encoder is random
    assert result.scores["purity"] > purity and result.scores["pnmi"] > pnmi, result.scores
    assert 0.2 < result.stability["nmi"] <= 1 and 0.2 < result.stability["matched"] <= 1
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["scores"] == dict(result.scores) and stored["made_of"]["num_seeds"] == 2


def test_units_of_one_recording_do_not_depend_on_the_others(folder: Path, tmp_path: Path) -> None:
    run(config(folder, tmp_path / "units"))
    Manifest.load(folder / "all.jsonl").take([3]).save(tmp_path / "one.jsonl")
    apply(ApplyConfig(units=tmp_path / "units", manifest=tmp_path / "one.jsonl", output=tmp_path / "one"))
    assert table(tmp_path / "one")["t3"] == table(tmp_path / "units")["t3"]


def test_scores_of_a_table_counted_by_hand_and_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels, units = random.integers(0, 4, 500), random.integers(0, 7, 500)
    units[labels == 2] = 6
    counts = np.zeros((4, 7), np.int64)
    np.add.at(counts, (labels, units), 1)
    assert normalised_information(counts) == pytest.approx(normalized_mutual_info_score(labels, units))
    scores = score_units(np.array([[8, 0, 1], [1, 5, 0]]))
    assert scores.purity == pytest.approx(14 / 15) and scores.cluster_purity == pytest.approx(13 / 15)
    assert scores.chance_purity == pytest.approx(9 / 15)
    assert score_units(np.eye(3, dtype=np.int64) * 4).pnmi == pytest.approx(1)
    assert matched_share(np.array([[0, 9], [7, 4]])) == pytest.approx(16 / 20)
    assert perplexity(np.array([5, 5, 0])) == pytest.approx(2)


def test_recordings_that_cannot_be_used_are_listed(folder: Path, tmp_path: Path) -> None:
    rows = list(Manifest.load(folder / "all.jsonl"))
    rows.append(Utterance(id="gone", audio_filepath="gone.wav", sample_rate=RATE, num_samples=RATE, duration=1.0))
    Manifest.from_utterances(rows).save(tmp_path / "more.jsonl")
    result = run(config(folder, tmp_path / "units", manifest=tmp_path / "more.jsonl"))
    assert [name for name, _ in result.skipped] == ["gone"] and result.num_utterances == 12


def test_command_makes_and_applies(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(folder / "model"), str(folder / "all.jsonl"), "--num_units", "5", "--first_frames", "90"]
    words += ["--num_passes", "1"]
    assert main(["units", *words, "--label", "first", "--output", str(tmp_path / "units")]) == 0
    assert "purity" in (shown := capsys.readouterr().out) and "of 5 units used" in shown
    code = main(
        ["units", "apply", str(tmp_path / "units"), str(folder / "all.jsonl"), "--output", str(tmp_path / "again")]
    )
    assert code == 0 and table(tmp_path / "again") == table(tmp_path / "units")
    assert main(["units", "--help"]) == 0 and "speechssl units apply units/" in capsys.readouterr().out


def test_overwriting_leaves_the_other_files_of_the_folder(folder: Path, tmp_path: Path) -> None:
    run(config(folder, tmp_path, num_passes=1))
    (tmp_path / "notes.txt").write_text("mine")
    made = run(config(folder, tmp_path, num_passes=1, num_units=7, overwrite=True))
    assert made.num_units == 7
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    made: UnitsResult = run(config(folder, tmp_path / "units"))
    for values, error, message in (
        ({"num_units": 7}, ConfigError, "made in another way .num_units is 6 instead of 7"),
        ({"num_units": 1, "output": tmp_path / "x"}, ConfigError, "num_units must be at least 2, but is 1"),
        ({"first_frames": 3}, ConfigError, "first_frames must be at least num_units=6, but is 3"),
        ({"label": "emotion"}, ConfigError, "no column 'emotion' to score against; it has id, "),
        ({"label": "first", "alignment": folder / "tones.ctm"}, ConfigError, "label and alignment are both given"),
        ({"alignment": folder / "none.ctm"}, ManifestError, "no such alignment; write CTM lines"),
        ({"layer": 3, "output": tmp_path / "x"}, ConfigError, "layer must be between 0 and 2 for"),
        ({"num_units": 9999, "first_frames": 9999, "output": tmp_path / "x"}, AudioError,
         "frames, too few for 9999 units"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            run(config(folder, **{"output": made.directory, **values}))  # type: ignore[arg-type]
    SpeechEncoder(encoder_config("tiny", SMALL), seed=6).save(tmp_path / "other")
    where = {"manifest": folder / "all.jsonl", "output": tmp_path / "again"}
    with pytest.raises(ConfigError, match="made with another encoder than"):
        apply(ApplyConfig(units=made.directory, checkpoint=str(tmp_path / "other"), **where))
    with pytest.raises(CheckpointError, match="there are no units; make them with `speechssl units`"):
        apply(ApplyConfig(units=tmp_path / "nothing", **where))
    (tmp_path / "broken.ctm").write_text("t0 1 zero 0.1 a\n")
    with pytest.raises(ManifestError, match="broken.ctm, line 1: must be ID CHANNEL START DURATION LABEL"):
        run(config(folder, made.directory, alignment=tmp_path / "broken.ctm"))


def test_units_of_spoken_digits_tell_more_than_chance(corpora: Path, tmp_path: Path) -> None:
    build_manifest(corpora / "fsdd", output=tmp_path / "fsdd.jsonl", num_workers=1)
    Manifest.load(tmp_path / "fsdd.jsonl").take(range(0, 3000, 15)).save(tmp_path / "some.jsonl")
    result = run(
        UnitsConfig(checkpoint="speechssl-tiny", manifest=tmp_path / "some.jsonl", output=tmp_path / "units",
                    num_units=50, layer=3, num_seeds=2, label="text", first_frames=2000)
    )  # fmt: skip
    assert result.scores is not None and result.scores["purity"] > 1.5 * result.scores["chance_purity"]
    assert result.used > 40
