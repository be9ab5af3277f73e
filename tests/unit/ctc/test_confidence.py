"""Calibration of confidences."""

from pathlib import Path

import numpy as np
import pytest

from speechssl.ctc.confidence import Calibration, cross_validated, fit, reliability
from speechssl.errors import CheckpointError, ManifestError


def too_sure(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose log odds are three times those with which the words are right."""
    random = np.random.default_rng(seed)
    odds = random.normal(0.5, 1.5, size=count)
    correct = random.random(count) < 1 / (1 + np.exp(-odds))
    return 1 / (1 + np.exp(-3 * odds)), correct


def test_reliability_of_a_case_by_hand() -> None:
    found = reliability([0.95, 0.85, 0.85, 0.1, 1.0], [True, True, False, False, True])
    assert [(b.num_words, b.accuracy) for b in found.bins] == [(1, 0.0), (2, 0.5), (2, 1.0)]
    assert found.ece == pytest.approx((1 * 0.1 + 2 * 0.35 + 2 * 0.025) / 5)


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_fit_makes_unseen_words_believable(method: str) -> None:
    scores, correct = too_sure(3000)
    others, right = too_sure(3000, seed=1)
    calibration = fit(scores.tolist(), correct.tolist(), method=method)  # type: ignore[arg-type]
    assert reliability(others, right.tolist()).ece > 0.15
    assert reliability(calibration.apply_all(others), right.tolist()).ece < 0.04
    mapped = calibration.apply_all(np.linspace(0, 1, 200))
    assert (np.diff(mapped) >= 0).all() and 0 <= mapped.min() and mapped.max() <= 1


def test_temperature_that_made_the_scores_is_found() -> None:
    scores, correct = too_sure(20_000)
    found = fit(scores.tolist(), correct.tolist())
    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert found.bias == pytest.approx(0.0, abs=0.1)


def test_cross_validation_maps_no_word_by_a_fit_that_saw_it() -> None:
    scores, correct = too_sure(100)
    groups = [f"u{number // 4}" for number in range(100)]
    before = cross_validated(scores.tolist(), correct.tolist(), groups)
    flipped = correct.copy()
    flipped[:4] = ~flipped[:4]
    after = cross_validated(scores.tolist(), flipped.tolist(), groups)
    np.testing.assert_array_equal(before[:4], after[:4])
    assert not np.array_equal(before[4:], after[4:])


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibration_round_trips(method: str, tmp_path: Path) -> None:
    scores, correct = too_sure(200)
    calibration = fit(scores.tolist(), correct.tolist(), method=method)  # type: ignore[arg-type]
    calibration.save(tmp_path, facts={"manifest": "dev.jsonl"})
    assert Calibration.load(tmp_path) == calibration
    assert Calibration.load(tmp_path / "none") is None


def test_damaged_calibration_is_named(tmp_path: Path) -> None:
    (tmp_path / "confidence.json").write_text('{"method": "isotonic", "points": [], "temperature": 1, "bias": 0}')
    with pytest.raises(CheckpointError, match=r"confidence\.json: not a calibration"):
        Calibration.load(tmp_path)


@pytest.mark.parametrize("correct", [[True] * 50, [False] * 50, [True, False] * 5])
def test_too_little_to_learn_from_is_explained(correct: list[bool]) -> None:
    with pytest.raises(ManifestError, match="give a larger development manifest"):
        fit([0.5] * len(correct), correct)
