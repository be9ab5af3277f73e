"""The probe tells what a representation knows, and never learns from the test part."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from speechssl import probe
from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import AudioError, ConfigError
from speechssl.manifest import Manifest, build_manifest
from speechssl.probe import ProbeConfig, classify, features
from speechssl.probe.classify import bootstrap_accuracies, choose, count_hits, draw_balanced, interval
from speechssl.probe.features import encoder_vectors, feature_vectors, pool_frames, segments
from speechssl.probe.parts import split
from speechssl.types import Utterance

RATE = 16_000
SMALL = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_groups": 4}
TONES = {"low": 300.0, "middle": 1000.0, "high": 3000.0}


def tone(name: str, seconds: float, random: np.random.Generator) -> NDArray[np.float32]:
    time = np.arange(int(seconds * RATE)) / RATE
    wave = np.sin(2 * np.pi * TONES[name] * random.uniform(0.9, 1.1) * time) * 0.3
    wave[: len(wave) // 3] = 0  # features normalised over time know nothing of a sound that never changes
    return (wave + random.normal(size=len(time)) * 0.05).astype(np.float32)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("tones")
    random = np.random.default_rng(0)
    rows = []
    for number in range(48):
        name, seconds = list(TONES)[number % 3], float(random.uniform(0.2, 0.4))
        path = folder / f"{number}.wav"
        soundfile.write(path, tone(name, seconds, random), RATE)
        rows.append(
            Utterance(
                id=f"tone-{number}",
                audio_filepath=str(path),
                sample_rate=RATE,
                num_samples=int(seconds * RATE),
                duration=int(seconds * RATE) / RATE,
                speaker=f"speaker-{number // 6}",
                extra={"tone": name, "coin": str(random.integers(2))},
            )
        )
    return Manifest.from_utterances(rows)


@pytest.fixture(scope="module")
def encoder() -> SpeechEncoder:
    return SpeechEncoder(encoder_config("tiny", SMALL), seed=5).eval()


def config(**values: object) -> ProbeConfig:
    return ProbeConfig(
        **{"manifest": Path("unused"), "label": "tone", "pool": "segments", "num_bootstrap": 200, **values}
    )  # type: ignore[arg-type]


def test_every_representation_tells_tones_apart(manifest: Manifest, encoder: SpeechEncoder) -> None:
    settings = config(num_train=18, num_seeds=2)
    lines: list[str] = []
    result = probe.probe(*split(manifest, settings), {"mine": encoder}, config=settings, progress=lines.append)
    assert [score.name for score in result.scores] == ["log_mel", "mfcc", "random", "mine"]
    accuracies = [score.accuracy for score in result.scores]
    assert min(accuracies[:2]) > 0.9 and min(accuracies) > 0.6, accuracies
    assert all(score.interval[0] <= score.accuracy <= score.interval[1] for score in result.scores)
    assert (result.num_train, result.num_test, result.num_classes, result.num_seeds) == (18, 15, 3, 2)
    assert [score.dimension for score in result.scores] == [240, 117, 96, 96]
    assert result.score("mfcc").layer is None and result.score("mine").layer in {"0", "1", "2", "context"}
    assert [(item.name, item.baseline) for item in result.differences] == [
        ("mine", "log_mel"), ("mine", "mfcc"), ("mine", "random"),
    ]  # fmt: skip
    assert lines[-1] == "mine: classifiers"
    assert json.loads(json.dumps(result.to_dict()))["scores"][3]["num_seeds"] == 2
    assert "most frequent" in result.table() and "mine" in result.table()


def test_label_without_a_trace_in_the_sound_stays_at_chance(manifest: Manifest, encoder: SpeechEncoder) -> None:
    """Search over layers and penalties on 33 utterances must not leak into the test accuracy."""
    settings = config(label="coin", num_seeds=1)
    result = probe.probe(*split(manifest, settings), {"mine": encoder}, config=settings, baselines=["log_mel"])
    assert all(0.05 < score.accuracy < 0.95 for score in result.scores)
    assert all(score.interval[1] - score.interval[0] > 0.2 for score in result.scores)


def test_test_labels_do_not_change_what_is_chosen(manifest: Manifest, encoder: SpeechEncoder) -> None:
    settings = config(num_train=12, num_seeds=1)
    train, test = split(manifest, settings)
    shuffled = test.with_column("tone", test.column("tone").to_pylist()[::-1])
    first, second = (
        probe.probe(train, part, {"mine": encoder}, config=settings, baselines=[]).score("mine")
        for part in (test, shuffled)
    )
    assert (first.layers, first.strengths) == (second.layers, second.strengths)
    assert second.accuracy < first.accuracy


def test_result_repeats_with_its_seed(manifest: Manifest, encoder: SpeechEncoder) -> None:
    settings = config(num_train=9, num_seeds=2, layer=1)
    parts = split(manifest, settings)
    results = [
        probe.probe(*parts, {"mine": encoder}, config=settings, baselines=["random"]).to_dict() for _ in range(2)
    ]
    assert results[0] == results[1]


def test_random_encoders_differ_from_seed_to_seed_and_leave_the_global_state(
    manifest: Manifest, encoder: SpeechEncoder
) -> None:
    state = torch.random.get_rng_state()
    settings = config(num_seeds=2, layer="context")
    result = probe.probe(*split(manifest, settings), {"mine": encoder}, config=settings, baselines=["random"])
    assert len(result.score("random").seed_accuracies) == 2
    assert torch.equal(state, torch.random.get_rng_state())


def test_unusable_recordings_are_left_out_for_all_and_listed(
    manifest: Manifest, encoder: SpeechEncoder, tmp_path: Path
) -> None:
    rows = list(manifest)
    soundfile.write(tmp_path / "short.wav", np.zeros(100), RATE)  # enough for a log-mel window, not for the encoder
    for name in ("short", "missing"):
        path = str(tmp_path / f"{name}.wav")
        rows.append(
            Utterance(
                id=name,
                audio_filepath=path,
                sample_rate=RATE,
                num_samples=100,
                duration=0.01,
                speaker="speaker-9",
                extra={"tone": "low"},
            )
        )
    rows.append(
        Utterance(
            id="nameless", audio_filepath=rows[0].audio_filepath, sample_rate=RATE, num_samples=100, duration=0.01
        )
    )
    settings = config(num_seeds=1, layer=0)
    result = probe.probe(
        *split(Manifest.from_utterances(rows), settings), {"mine": encoder}, config=settings, baselines=["log_mel"]
    )
    assert {name for name, _ in result.skipped} == {"short", "missing"}
    assert result.num_train + result.num_test == 48 and result.unlabelled == 1


def test_groups_never_stand_on_both_sides(manifest: Manifest) -> None:
    train, test = split(manifest, config(group="speaker"))
    assert len(train) and len(test) and len(train) + len(test) == len(manifest)
    assert not set(train.column("speaker").to_pylist()) & set(test.column("speaker").to_pylist())


def test_run_reads_manifests_and_checkpoints_and_writes_json(
    manifest: Manifest, encoder: SpeechEncoder, tmp_path: Path
) -> None:
    manifest.save(tmp_path / "all.jsonl")
    encoder.save(tmp_path / "model")
    settings = config(
        manifest=tmp_path / "all.jsonl",
        representations=("random", f"mine={tmp_path / 'model'}"),
        layer=2,
        num_seeds=1,
        output=tmp_path / "out",
    )
    result = probe.run(settings)
    assert [score.dimension for score in result.scores] == [96, 96]
    stored = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert stored == json.loads(json.dumps(result.to_dict())) and stored["scores"][1]["layers"] == ["2"]


def test_thirds_cover_all_frames_once_and_short_ones_repeat() -> None:
    assert segments(9) == [(0, 3), (3, 6), (6, 9)]
    assert segments(4) == [(0, 1), (1, 2), (2, 4)]
    assert segments(1) == [(0, 1)] * 3
    frames = np.arange(8, dtype=np.float32).reshape(4, 2)
    np.testing.assert_array_equal(pool_frames(frames, "segments"), [0, 1, 2, 3, 5, 6])
    np.testing.assert_array_equal(pool_frames(frames, "mean"), [3, 4])


@pytest.mark.parametrize("pool", ["mean", "segments"])
def test_vectors_do_not_depend_on_batches(manifest: Manifest, encoder: SpeechEncoder, pool: features.Pooling) -> None:
    few = manifest.take(range(6))

    def fail(utterance: Utterance, error: AudioError) -> None:
        raise error

    for together, alone in (
        (
            encoder_vectors(few, encoder, layers=[0, 2, "context"], pool=pool, on_error=fail),
            encoder_vectors(few, encoder, layers=[0, 2, "context"], pool=pool, on_error=fail, batch_seconds=0.01),
        ),
        (
            feature_vectors(few, "mfcc", pool=pool, on_error=fail),
            feature_vectors(few, "mfcc", pool=pool, on_error=fail, batch_seconds=0.01),
        ),
    ):
        assert together.keys() == alone.keys()
        for name, vectors in together.items():
            np.testing.assert_allclose(vectors, alone[name], atol=1e-4, rtol=1e-4)
    single = encoder.embed(few[0].audio_filepath, layer=2)
    if pool == "mean":
        vectors = encoder_vectors(few, encoder, layers=[2], pool=pool, on_error=fail)
        np.testing.assert_allclose(vectors[few[0].id][0], single, atol=1e-4)


def test_layer_that_knows_the_label_is_found() -> None:
    random = np.random.default_rng(0)
    labels = np.array(["a", "b"] * 30)
    vectors = random.normal(size=(60, 3, 4)).astype(np.float32)
    vectors[:, 1, 0] += np.where(labels == "a", 4, -4)
    chosen = choose(vectors, labels, None, seed=0)
    assert chosen.layer == 1 and chosen.accuracy is not None and chosen.accuracy > 0.95
    hits = count_hits(vectors[:40, 1], labels[:40], vectors[40:, 1], labels[40:], strength=chosen.strength)
    assert hits.shape == (20,) and hits.mean() > 0.9


def test_group_is_not_cross_validated_against_itself() -> None:
    """Vectors that give away the group but not the label look perfect only when folds cut through groups."""
    random = np.random.default_rng(0)
    groups = np.repeat([f"g{number}" for number in range(12)], 6)
    labels = np.where(random.permuted(np.repeat([True, False], 6))[np.repeat(np.arange(12), 6)], "a", "b")
    vectors = np.eye(12, dtype=np.float32)[np.repeat(np.arange(12), 6)][:, None] * 5
    open_choice, grouped = choose(vectors, labels, None, seed=0), choose(vectors, labels, groups, seed=0)
    assert open_choice.accuracy is not None and open_choice.accuracy > 0.99
    assert grouped.accuracy is not None and grouped.accuracy < 0.7


def test_single_examples_cannot_be_cross_validated() -> None:
    chosen = choose(
        np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32), np.array(["a", "b", "c"]), None, seed=0
    )
    assert (chosen.layer, chosen.strength, chosen.accuracy) == (1, classify.DEFAULT_STRENGTH, None)


def test_draws_are_balanced_and_end_where_the_data_ends() -> None:
    labels = np.array(["a"] * 50 + ["b"] * 10 + ["c"] * 2)
    rows = draw_balanced(labels, 14, np.random.default_rng(0))
    assert [int((labels[rows] == name).sum()) for name in "abc"] == [6, 6, 2] and len(set(rows.tolist())) == 14
    assert len(draw_balanced(labels, 1000, np.random.default_rng(0))) == 62


def test_bootstrap_interval_has_the_width_of_the_binomial_and_pairs_differences() -> None:
    random = np.random.default_rng(0)
    hits = (random.random((1, 400)) < 0.7).astype(float)
    rates, unit = bootstrap_accuracies([hits, hits], None, num_bootstrap=2000, seed=0)
    low, high = interval(rates[0], 0.95)
    assert unit == "utterances" and high - low == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 400), rel=0.15)
    np.testing.assert_array_equal(rates[0], rates[1])
    blocks = np.repeat(np.arange(8) % 2, 50)[None].astype(float)
    names = np.repeat([f"g{number}" for number in range(8)], 50)
    rates, unit = bootstrap_accuracies([blocks], names, num_bootstrap=2000, seed=0)
    assert unit == "groups" and np.subtract(*interval(rates[0], 0.95)[::-1]) > 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pool": "max"}, "pool must be mean or segments, but is 'max'"),
        ({"test_fraction": 1.0}, "test_fraction must be between 0 and 1, but is 1.0"),
        ({"num_seeds": 0}, "num_seeds must be above 0, but is 0"),
        ({"num_train": 1}, "num_train must be at least 2, but is 1"),
        ({"group": "tone"}, "group and label are both 'tone'"),
        ({"representations": ()}, "representations is empty; name some of log_mel, mfcc, random"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**values)


def test_inputs_that_do_not_fit_are_named(manifest: Manifest, encoder: SpeechEncoder) -> None:
    train, test = split(manifest, config())
    for arguments, values, message in (
        ((train, test), {"label": "emotion"}, "has no column 'emotion' to probe; it has id, "),
        ((train, train), {}, "33 utterances are in the training and in the test part, such as"),
        ((train, test), {"group": "speaker"}, "values of 'speaker' are in the training and in the test part"),
        ((train.filter(np.array(train.column("tone").to_pylist()) == "low"), test), {}, "has 1 different values"),
        ((train, test), {"layer": 7}, "layer must be between 0 and 2 for mine, or context, but is 7"),
    ):
        with pytest.raises(ConfigError, match=message):
            probe.probe(*arguments, {"mine": encoder}, config=config(**values), baselines=[])
    with pytest.raises(ConfigError, match="random baseline needs an encoder's architecture"):
        probe.probe(train, test, {}, config=config(), baselines=["random"])
    with pytest.raises(ConfigError, match="no baseline is called 'fbank'"):
        probe.probe(train, test, {}, config=config(), baselines=["fbank"])
    gone = Manifest.from_utterances(
        Utterance(
            id=f"{number}",
            audio_filepath=f"gone{number}.wav",
            sample_rate=RATE,
            num_samples=9,
            duration=1.0,
            extra={"tone": name},
        )
        for number, name in enumerate("ababab")
    )
    with pytest.raises(AudioError, match=r"too few recordings are left to probe for 'tone'.*gone\d\.wav"):
        probe.probe(gone.take([0, 1]), gone.take([2, 3]), {}, config=config(), baselines=["log_mel"])


def test_name_that_is_given_twice_is_refused(manifest: Manifest, encoder: SpeechEncoder, tmp_path: Path) -> None:
    manifest.save(tmp_path / "all.jsonl")
    encoder.save(tmp_path / "a=b")
    words = (str(tmp_path / "a=b"), f"x={tmp_path / 'a=b'}", f"x={tmp_path / 'a=b'}")
    with pytest.raises(ConfigError, match="two representations are called 'x'"):
        probe.run(config(manifest=tmp_path / "all.jsonl", representations=words))


@pytest.mark.corpora
def test_voices_of_spoken_digits_are_told_apart_by_log_mel_energies(corpora: Path) -> None:
    manifest = build_manifest(corpora / "fsdd").manifest
    takes = np.array(
        [int(Path(name).stem.rpartition("_")[2]) for name in manifest.column("audio_filepath").to_pylist()]
    )
    train, test = manifest.filter((takes >= 5) & (takes < 7)), manifest.filter(takes == 0)
    settings = config(label="speaker", num_seeds=1, num_train=60, pool="mean")
    result = probe.probe(train, test, {}, config=settings, baselines=["log_mel"])
    assert result.num_classes == 6 and result.num_test == 60 and result.score("log_mel").accuracy > 0.9
