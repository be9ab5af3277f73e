"""The probes that ask another question than an utterance's label: known answers, and nothing learnt from the test."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from speechssl.alignments import AlignedSpan, frame_labels, read_ctm, write_ctm
from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import AudioError, ConfigError, ManifestError
from speechssl.frames import FrameSource
from speechssl.manifest import Manifest
from speechssl.probe import ProbeConfig, TaskResult, ctc_head, probe_task, run_task
from speechssl.probe.abx import Items, Triples, draw_triples, triple_errors, warped_distance
from speechssl.probe.aligned import draw_moments, gather
from speechssl.probe.ctc_head import CtcHead, fitting
from speechssl.probe.results import ratio_outcome
from speechssl.probe.verify import Trials, cosines, draw_trials, equal_error_rate
from speechssl.text import Vocabulary
from speechssl.types import Utterance

RATE = 16_000
SMALL = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_groups": 4}
TONES = {"a": 300.0, "b": 1000.0, "c": 3000.0}
TEXTS = ("ab", "bc", "ca", "ba", "cb", "ac")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty recordings of two tones each, "spoken" by ten speakers with a hum of their own, with their CTM."""
    folder = tmp_path_factory.mktemp("tasks")
    random = np.random.default_rng(0)
    rows, spans = [], {}
    for number in range(60):
        text, speaker = TEXTS[number % 6], number // 6
        half = int(random.integers(3, 5)) * 800
        time = np.arange(2 * half) / RATE
        wave = np.concatenate([np.sin(2 * np.pi * TONES[c] * time[:half]) for c in text]) * 0.3
        wave += np.sin(2 * np.pi * (150 + 60 * speaker) * time) * 0.1 + random.normal(size=2 * half) * 0.01
        soundfile.write(folder / f"{number}.wav", wave, RATE)
        rows.append(
            Utterance(id=f"u{number}", audio_filepath=str(folder / f"{number}.wav"), sample_rate=RATE,
                      num_samples=2 * half, duration=2 * half / RATE, text=text, speaker=f"s{speaker}")
        )  # fmt: skip
        seconds = half / RATE
        spans[f"u{number}"] = [
            AlignedSpan(start=place * seconds, end=(place + 1) * seconds, label=text[place]) for place in (0, 1)
        ]
    Manifest.from_utterances(rows).save(folder / "all.jsonl")
    write_ctm(folder / "tones.ctm", spans)
    return folder


@pytest.fixture(scope="module")
def parts(folder: Path) -> tuple[Manifest, Manifest]:
    manifest = Manifest.load(folder / "all.jsonl")
    return manifest.take(range(36)), manifest.take(range(36, 60))


@pytest.fixture(scope="module")
def encoder() -> SpeechEncoder:
    return SpeechEncoder(encoder_config("tiny", SMALL), seed=5).eval()


def settings(task: str, **values: object) -> ProbeConfig:
    return ProbeConfig(**{"manifest": Path("x"), "task": task, "num_bootstrap": 100, "num_seeds": 2, **values})  # type: ignore[arg-type]


def check(result: TaskResult, names: list[str]) -> None:
    """What holds for every task."""
    assert [score.name for score in result.scores] == names
    for score in result.scores:
        assert score.interval[0] - 1e-9 <= score.value <= score.interval[1] + 1e-9 and len(score.seed_values) == 2
    assert json.loads(json.dumps(result.to_dict()))["scores"][0]["num_seeds"] == 2
    assert {(one.name, one.baseline) for one in result.differences} == {("mine", name) for name in names[:-1]}


def test_verification_of_what_no_training_utterance_says(folder: Path, encoder: SpeechEncoder) -> None:
    manifest = Manifest.load(folder / "all.jsonl")
    known = np.isin(manifest.column("text").to_pylist(), TEXTS[:3])
    parts = (manifest.filter(known), manifest.filter(~known))
    config = settings("verify", label="text", pool="segments")
    result = probe_task(*parts, {"mine": encoder}, config=config, baselines=["mfcc", "random"])
    check(result, ["mfcc", "random", "mine"])
    assert (result.metric, result.better, result.chance, result.label) == ("equal error rate", "lower", 0.5, "text")
    assert result.score("mfcc").value < 0.15
    assert [one.layer for one in result.score("mine").layerwise] == ["0", "1", "2", "context"]
    assert result.notes == () and result.interval_over == "values of text"
    shared = parts[1].with_column("audio_filepath", [parts[1][0].audio_filepath] * len(parts[1]))
    again = probe_task(parts[0], shared, {}, config=config, baselines=["mfcc"])
    assert "100 % of the pairs of one speaker are cut from one recording" in again.notes[0]


def test_frames_tell_the_tone_that_is_heard(
    folder: Path, parts: tuple[Manifest, Manifest], encoder: SpeechEncoder
) -> None:
    config = settings("frames", alignment=folder / "tones.ctm", max_frames=200)
    result = probe_task(*parts, {"mine": encoder}, config=config, baselines=["log_mel"])
    check(result, ["log_mel", "mine"])
    assert result.score("log_mel").value > 0.85 > 0.45 > (result.chance or 1)
    assert result.num_train == 200 and result.num_classes == 3 and result.label == "tones.ctm"
    shifted = {name: list(reversed(spans)) for name, spans in read_ctm(folder / "tones.ctm").items()}
    wrong = {
        name: [AlignedSpan(start=mine.start, end=mine.end, label=other.label) for mine, other in
               zip(read_ctm(folder / "tones.ctm")[name], spans, strict=True)]
        for name, spans in shifted.items()
    }  # fmt: skip
    write_ctm(folder / "wrong.ctm", {name: wrong[name] if int(name[1:]) >= 36 else list(reversed(shifted[name]))
                                     for name in wrong})  # fmt: skip
    worse = probe_task(*parts, {}, config=settings("frames", alignment=folder / "wrong.ctm", max_frames=200),
                       baselines=["log_mel"])  # fmt: skip
    assert worse.score("log_mel").value < 0.3, "labels of the test part alone were exchanged"


def test_ctc_head_spells_two_tones(parts: tuple[Manifest, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctc_head, "LEARNING_RATES", (2e-2,))  # one, for time
    config = settings("ctc", num_updates=300, num_seeds=1)
    result = probe_task(*parts, {}, config=config, baselines=["log_mel"])
    assert result.score("log_mel").value < 0.8 and result.better == "lower"  # a head that writes nothing has 1


def test_ctc_head_weighs_layers_and_finds_its_rate_once(
    parts: tuple[Manifest, Manifest], encoder: SpeechEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctc_head, "LEARNING_RATES", (1e-3, 2e-2))
    config = settings("ctc", num_updates=6)
    state = torch.random.get_rng_state()
    result = probe_task(*parts, {"mine": encoder}, config=config, baselines=["log_mel"])
    check(result, ["log_mel", "mine"])
    rates = result.score("log_mel").extra["learning_rates"]
    assert rates[0] == rates[1] and rates[0] in (1e-3, 2e-2), "found once, with the first seed"
    extra = result.score("mine").extra
    assert extra["weighted_layers"] == ["0", "1", "2", "context"] and len(extra["layer_weights"]) == 2
    assert sum(extra["layer_weights"][0]) == pytest.approx(1, abs=1e-5) and result.score("mine").layer is None
    assert torch.equal(state, torch.random.get_rng_state())


def test_abx_tells_tones_apart_and_not_what_is_the_same(
    folder: Path, parts: tuple[Manifest, Manifest], encoder: SpeechEncoder
) -> None:
    config = settings("abx", label="text", across="speaker", num_triples=60)
    result = probe_task(*parts, {"mine": encoder}, config=config, baselines=["mfcc", "random"])
    check(result, ["mfcc", "random", "mine"])
    assert result.score("mfcc").value < 0.2 and result.metric == "ABX error across speaker"
    coin = [str(number % 2) for number in np.random.default_rng(0).permutation(24)]
    blind = probe_task(parts[0], parts[1].with_column("text", coin), {}, config=config, baselines=["mfcc"])
    assert 0.25 < blind.score("mfcc").value < 0.75
    spans = probe_task(*parts, {}, config=settings("abx", alignment=folder / "tones.ctm", num_triples=60),
                       baselines=["mfcc"])  # fmt: skip
    assert spans.score("mfcc").value < 0.1 and spans.num_classes == 3


def test_run_divides_writes_and_repeats(folder: Path, encoder: SpeechEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path / "model")
    config = settings(
        "verify", manifest=folder / "all.jsonl", output=tmp_path, representations=("mfcc", f"mine={tmp_path / 'model'}")
    )
    first, second = run_task(config).to_dict(), run_task(config).to_dict()
    assert first == second
    assert json.loads((tmp_path / "probe.json").read_text()) == json.loads(json.dumps(first))
    assert first["num_train"] + first["num_test"] == 60


def test_equal_error_rate_of_cases_counted_by_hand() -> None:
    same = np.array([True, True, True, False, False, False])
    assert equal_error_rate(np.array([3.0, 4, 5, 0, 1, 2]), same) == 0
    assert equal_error_rate(np.array([0.0, 1, 2, 3, 4, 5]), same) == 1
    assert equal_error_rate(np.ones(6), same) == pytest.approx(0.5)
    one_each = np.array([2.5, 4, 5, 0, 1, 3])  # one pair of each kind lies beyond the other's nearest
    assert equal_error_rate(one_each, same) == pytest.approx(1 / 3)
    doubled = equal_error_rate(np.repeat(one_each, 2), np.repeat(same, 2))
    assert equal_error_rate(one_each, same, np.full(6, 2.0)) == pytest.approx(doubled)


def test_trials_are_all_pairs_or_a_draw_that_repeats() -> None:
    speakers = np.array(["x"] * 4 + ["y"] * 30)
    every = draw_trials(speakers, num_pairs=10_000, seed=0)
    assert len(every.first) == 34 * 33 // 2 and every.same.sum() == 4 * 3 // 2 + 30 * 29 // 2
    some = draw_trials(speakers, num_pairs=100, seed=0)
    assert len(some.first) == 100 and some.same.sum() == 50 and (some.first < some.second).all()
    assert np.array_equal(some.second, draw_trials(speakers, num_pairs=100, seed=0).second)


def test_cosines_take_center_and_scale_from_the_training_part() -> None:
    like = np.array([[0.0, 0], [2, 20]], dtype=np.float32)  # mean (1, 10), deviation (1, 10)
    trials = Trials(first=np.array([0]), second=np.array([1]), same=np.array([True]))
    assert cosines(np.array([[2, 10], [1, 30]], dtype=np.float32), trials, like)[0] == pytest.approx(0)
    assert cosines(np.array([[2, 20], [3, 30]], dtype=np.float32), trials, like)[0] == pytest.approx(1)


def test_warped_distance_does_not_mind_the_pace() -> None:
    first = np.eye(3, dtype=np.float32)
    assert warped_distance(first, np.repeat(first, 3, axis=0)) == pytest.approx(0, abs=1e-6)
    assert warped_distance(first, first[::-1].copy()) > 0.4
    frames = {n: np.stack([one]).astype(np.float16) for n, one in enumerate((first, first[::-1], first))}
    triples = Triples(a=np.array([0, 1, 0]), b=np.array([1, 0, 0]), x=np.array([2, 2, 2]))
    np.testing.assert_array_equal(triple_errors(triples, frames), [[0, 1, 0.5]])


def test_triples_are_of_two_kinds_and_cross_speakers() -> None:
    kinds = np.array(list("aabbccab"))
    speakers = np.array(list("xyxyxyzz"))
    items = Items(ids=np.arange(8).astype(str), kinds=kinds, contexts=speakers, spans=[None] * 8)
    found = draw_triples(items, 50, seed=0, part="test")
    assert (kinds[found.a] == kinds[found.x]).all() and (kinds[found.b] != kinds[found.x]).all()
    assert (speakers[found.a] == speakers[found.b]).all() and (speakers[found.x] != speakers[found.a]).all()
    with pytest.raises(ConfigError, match="the test part of 2 recordings has no triple"):
        lone = Items(ids=kinds[:2], kinds=kinds[:2], contexts=None, spans=[None] * 2)
        draw_triples(lone, 5, seed=0, part="test")


def test_every_representation_is_asked_about_the_same_moments(parts: tuple[Manifest, Manifest], folder: Path) -> None:
    alignments = read_ctm(folder / "tones.ctm")
    ids = np.array(parts[0].column("id").to_pylist())
    moments = draw_moments(ids, alignments, max_frames=50, seeds=[0, 1])
    assert sum(one.draws[0].sum() for one in moments.values()) == 50

    def fail(utterance: Utterance, error: AudioError) -> None:
        raise error

    small = SpeechEncoder(encoder_config("tiny", SMALL))
    sources = [FrameSource(name="mfcc"), FrameSource(name="mine", encoder=small, layers=(0, 2))]
    found: list[NDArray[np.str_]] = []
    for source in sources:
        one = gather(parts[0], source, moments, on_error=fail)
        assert one.frames.shape == (len(one.labels), len(source.layers) or 1, source.dimension)
        found += [one.labels, one.owners]
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])


def test_ctc_head_ignores_what_lies_beyond_a_recording() -> None:
    head = CtcHead(torch.zeros(2, 1, 4), torch.ones(2, 1, 4), 5, seed=0).eval()
    frames = torch.randn(2, 2, 7, 4, generator=torch.Generator().manual_seed(0))
    noisy = frames.clone()
    noisy[0, :, 5:] = 100
    lengths = torch.tensor([5, 7])
    torch.testing.assert_close(head(frames, lengths)[0, :5], head(noisy, lengths)[0, :5])
    vocabulary = Vocabulary.from_texts(["ab"])
    short = {"x": np.zeros((1, 2, 4), np.float16), "y": np.zeros((1, 3, 4), np.float16)}
    assert fitting(["x", "y"], short, {"x": "aa", "y": "aa"}, vocabulary) == ["y"]


def test_rates_are_resampled_in_whole_units() -> None:
    hits = np.repeat(np.arange(8) % 2, 50)[None, None].astype(float)
    names = np.repeat(np.arange(8), 50)
    wide = ratio_outcome(hits, np.ones(400), [0], names, layers=(), dimension=1, num_bootstrap=500, seed=0)
    narrow = ratio_outcome(hits, np.ones(400), [0], np.arange(400), layers=(), dimension=1, num_bootstrap=500, seed=0)
    assert wide.values[0, 0] == 0.5 and wide.chosen_replicates.std() > 3 * narrow.chosen_replicates.std()
    uneven = ratio_outcome(np.array([[[2.0, 0]]]), np.array([4.0, 1]), [0], np.array([0, 1]),
                           layers=(), dimension=1, num_bootstrap=50, seed=0)  # fmt: skip
    assert uneven.values[0, 0] == pytest.approx(0.4) and set(uneven.chosen_replicates) <= {0.0, 0.4, 0.5}


def test_alignments_are_read_as_they_were_written(tmp_path: Path) -> None:
    spans = {"x": [AlignedSpan(start=0.0, end=0.1, label="a"), AlignedSpan(start=0.1, end=0.25, label="b")]}
    write_ctm(tmp_path / "x.ctm", spans)
    assert frame_labels(read_ctm(tmp_path / "x.ctm")["x"], np.array([0.05, 0.1, 0.2, 0.3])).tolist() == [
        "a",
        "b",
        "b",
        "",
    ]
    with pytest.raises(ManifestError, match="no place for white space"):
        write_ctm(tmp_path / "y.ctm", {"x": [AlignedSpan(start=0, end=1, label="a b")]})
    (tmp_path / "bad.ctm").write_text("x 1 -1 0.1 a\n")
    with pytest.raises(ManifestError, match="bad.ctm, line 1: start and duration must be at least 0"):
        read_ctm(tmp_path / "bad.ctm")


def test_what_does_not_fit_is_named(folder: Path, parts: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    for values, message in (
        ({"task": "sing"}, "task must be one of classify, verify, frames, ctc, abx, but is 'sing'"),
        ({"task": "classify"}, "label is missing; name the manifest's column that classify is about"),
        ({"task": "frames"}, "frames needs an alignment: CTM lines"),
        ({"task": "ctc", "num_updates": 0}, "num_updates must be above 0, but is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="values of 'speaker' are in the training and in the test part"):
        mixed = (parts[0].take(range(10)), parts[0].take(range(10, 36)))
        probe_task(*mixed, {}, config=settings("verify"), baselines=["mfcc"])
    (tmp_path / "other.ctm").write_text("someone 1 0 1 a\n")
    with pytest.raises(ConfigError, match="holds 0 utterances of the training part and 0 of the test part"):
        probe_task(*parts, {}, config=settings("frames", alignment=tmp_path / "other.ctm"), baselines=["mfcc"])
