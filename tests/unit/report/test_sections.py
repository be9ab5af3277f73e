"""Each section shows the right numbers, on odd data too."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from speechssl.errors import ConfigError
from speechssl.manifest import Manifest
from speechssl.report import (
    codes_section,
    curves_section,
    data_section,
    embeddings_section,
    probe_section,
    read_series,
    spectrogram_section,
    wer_section,
)
from speechssl.report.codes import code_entropy
from speechssl.report.curves import smooth
from speechssl.report.embeddings import project
from speechssl.report.evaluation import write_evaluation_page
from speechssl.report.spectrogram import log_mel, spans
from speechssl.report.word_errors import aligned
from speechssl.scoring import score
from speechssl.types import ErrorReport, Utterance


def text_of(markup: str) -> str:
    """The words of a piece of markup, without tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", markup))


def clean(markup: str) -> bool:
    """No address, namespace or script is left in the markup."""
    return not re.search(r"https?:|xmlns|<script|file:", markup)


def manifest(lengths: list[float], **columns: list[str | None]) -> Manifest:
    return Manifest.from_utterances(
        Utterance(
            id=f"u{row}",
            audio_filepath=f"{row}.wav",
            sample_rate=16_000,
            num_samples=int(seconds * 16_000),
            duration=seconds,
            **{name: values[row] for name, values in columns.items()},  # type: ignore[arg-type]
        )
        for row, seconds in enumerate(lengths)
    )


def test_data_counts_hours_speakers_languages_and_texts() -> None:
    train = manifest(
        [3600.0, 1800.0, 900.0], speaker=["ann", "bob", None], language=["en", "<de>", "en"], text=["a", "", None]
    )
    part = data_section({"train": train, "test": manifest([2.0]), "none": manifest([])})
    words = text_of(part.html)
    assert "train 3 1.75 2 &lt;de&gt;, en 900.0 s 1800.0 s 3600.0 s 1" in words
    assert "test 1 0.00 – – 2.0 s 2.0 s 2.0 s 0" in words
    assert "Empty: none." in words and "Hours by speaker" in words and clean(part.html)


def test_many_speakers_are_not_all_drawn() -> None:
    part = data_section({"all": manifest([1.0] * 40, speaker=[f"s{row}" for row in range(40)])})
    assert "The 12 with most audio; 28 more are not drawn." in part.html


def write_metrics(folder: Path, records: list[dict[str, object]], tail: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return folder


def test_metrics_are_read_around_what_is_no_metric(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"step": 1, "loss": 2.0, "note": "x", "ok": True},
        {"step": 2, "loss": math.nan},
        {"loss": 9},
    ]
    found = read_series(write_metrics(tmp_path, records, tail='[1]\n{"step": 3, "lo'))
    assert list(found) == ["loss"] and found["loss"][0].tolist() == [1, 2] and math.isnan(found["loss"][1][1])
    assert read_series(tmp_path / "nowhere") == {}


def test_curves_draw_what_was_logged_and_mark_the_greatest_perplexity(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    records: list[dict[str, object]] = [
        {
            "step": step,
            "loss": 3 / step + random.normal(),
            "accuracy": 0.1,
            "code_perplexity": 9.0,
            "learning_rate": 1e-3,
        }
        for step in range(1, 900)
    ]
    records += [{"step": 400, "valid_loss": 2.5}, {"step": 800, "valid_loss": math.nan}]
    part = curves_section(write_metrics(tmp_path / "run", records), num_entries=64)
    for title in ("Loss", "Accuracy on masked frames", "Code perplexity", "Learning rate"):
        assert f">{title}<" in part.html
    assert "greatest possible: 64" in part.html and "Word error rate" not in part.html
    assert len(part.html) < 200_000 and clean(part.html)


def test_runs_are_compared_in_the_same_axes_and_empty_ones_named(tmp_path: Path) -> None:
    one = write_metrics(
        tmp_path / "a", [{"step": 1, "loss": 1.0, "valid_wer": 0.5}, {"step": 2, "loss": 0.5, "valid_wer": 0.25}]
    )
    part = curves_section({"first & best": one, "second": tmp_path / "gone"}, title="Fine-tuning")
    assert part.title == "Fine-tuning" and part.anchor == "fine-tuning"
    assert "first &amp; best" in part.html and "No metrics were logged by: second." in part.html
    assert "Last values: first &amp; best 25" in part.html


def test_curves_of_nothing_but_nan_are_drawn(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"step": step, "loss": math.nan, "gradient_norm": math.inf} for step in range(100)
    ]
    assert "<svg" in curves_section(write_metrics(tmp_path, records)).html


def test_smoothing_is_centred_and_passes_over_nan() -> None:
    np.testing.assert_allclose(smooth(np.array([0.0, 3.0, 6.0, 9.0]), 3), [1.5, 3.0, 6.0, 7.5])
    np.testing.assert_allclose(smooth(np.array([1.0, np.nan, 5.0]), 3), [1.0, 3.0, 5.0])
    assert np.isnan(smooth(np.full(4, np.nan), 3)).all()


def test_spectrogram_shows_mask_and_codes() -> None:
    wave = np.sin(np.arange(16_000) / 20).astype(np.float32)
    mask = np.zeros(50, dtype=bool)
    mask[5:15] = mask[30:40] = True
    codes = np.where(mask[:, None], np.arange(100).reshape(50, 2) % 7, -1)
    part = spectrogram_section(
        wave, sample_rate=16_000, frame_seconds=0.02, frame_mask=mask, codes=codes, text="<hello>"
    )
    assert "40 % of the frames are masked" in part.html and "“&lt;hello&gt;”" in part.html
    assert "2 masked spans and 2 code strips" in part.html and "codes 2" in part.html and clean(part.html)


@pytest.mark.parametrize("num_samples", [1, 200, 4000])
def test_spectrogram_of_short_silence_without_mask_or_codes(num_samples: int) -> None:
    part = spectrogram_section(np.zeros(num_samples), sample_rate=8000, frame_seconds=0.02)
    assert "<svg" in part.html and "masked (hatched)" not in part.html


def test_long_recording_is_cut() -> None:
    part = spectrogram_section(np.zeros(8000 * 30), sample_rate=8000, frame_seconds=0.02, max_seconds=2.0)
    assert "The first 2.0 s" in part.html


def test_spans_and_log_mel() -> None:
    assert spans(np.array([True, True, False, True])) == [(0, 2), (3, 4)]
    mel = log_mel(np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32), 16_000)
    assert mel.shape == (80, 101) and mel.max() == 0 and mel.min() >= -80


def test_code_usage_has_the_entropy_of_its_counts() -> None:
    assert code_entropy(np.array([5.0, 5.0, 5.0, 5.0])) == pytest.approx(2.0)
    assert code_entropy(np.array([7.0, 0.0])) == code_entropy(np.zeros(2)) == 0.0
    words = text_of(codes_section([[10, 10, 10, 10], [40, 0, 0, 0]], source="<test>").html)
    assert (
        "Codebook 1 4 of 4 2.00 of 2.00 bits 4.0" in words and "Codebook 2 1 of 4 0.00 of 2.00 bits 1.0 100 %" in words
    )
    assert "Counted on &lt;test&gt;." in words
    assert "0 of 4" in text_of(codes_section([[0, 0, 0, 0]]).html)


def report(hypotheses: list[str]) -> ErrorReport:
    references = {f"u{row}": text for row, text in enumerate(["one two three", "four five", "six", "seven eight"])}
    return score(references, dict(zip(references, hypotheses, strict=True)), normalizer="basic", num_bootstrap=50)


def test_word_errors_stand_side_by_side_with_the_difference_and_the_worst_first() -> None:
    good = report(["one two three", "four five", "sex", "seven eight"])
    bad = report(["one too", "", "six", "seven <b> eight"])
    part = wer_section({"bad & slow": bad, "good": good}, text="Both on the same labels.")
    words = text_of(part.html)
    assert words.startswith(" Both on the same labels.")
    assert "bad &amp; slow 50.0 %" in words and "good 12.5 %" in words and "normaliser “basic”" in words
    assert "good −37.5" in words
    order = [words.index(f" u{row} ") for row in (0, 1, 2)]
    assert order == sorted(order) and " u3 " not in words and '<tr class="best"><th scope="row">good' in part.html
    assert clean(part.html)


def test_arms_of_other_utterances_or_normalisers_are_not_compared() -> None:
    one = report(["one", "", "", ""])
    other = score({"x": "one"}, {"x": "two"}, normalizer="none", num_bootstrap=50)
    words = text_of(wer_section({"a": one, "b": other}).html)
    assert "The arms were normalised differently (basic, none)" in words and "not comparable:" in words
    with pytest.raises(ConfigError, match="baseline 'c' is not among the evaluated arms: a, b"):
        wer_section({"a": one, "b": other}, baseline="c")


def test_perfect_and_absent_results_are_said_so() -> None:
    assert "without an error" in wer_section({"a": report(["one two three", "four five", "six", "seven eight"])}).html
    assert "Nothing was evaluated" in wer_section({}).html


def test_words_are_aligned_one_by_one() -> None:
    markup = aligned(
        (("equal", "a b", "a b"), ("substitute", "c d", "x y"), ("delete", "e", ""), ("insert", "", "f <g>"))
    )
    columns = re.findall(r'<span class="(word[^"]*)"><span>(.*?)</span><span>(.*?)</span>', markup)
    assert columns == [
        ("word", "a", "a"), ("word", "b", "b"), ("word substitute", "c", "x"), ("word substitute", "d", "y"),
        ("word delete", "e", "&nbsp;"), ("word insert", "&nbsp;", "f"), ("word insert", "&nbsp;", "&lt;g&gt;"),
    ]  # fmt: skip
    assert "nothing said" in aligned(())


def probe_result(**values: object) -> dict[str, object]:
    score_of = {"interval": [0.5, 0.7], "seed_std": 0.01, "num_seeds": 3, "dimension": 80}
    return {
        "label": "<digit>", "num_classes": 10, "num_train": 60, "num_test": 300, "num_seeds": 3, "confidence": 0.95,
        "interval_over": "utterances", "majority": 0.1, "skipped": [],
        "scores": [
            {"name": "log_mel", "accuracy": 0.6, "layer": None, **score_of},
            {"name": "mine", "accuracy": 0.65, "layer": "context", **score_of},
        ],
        "differences": [{"name": "mine", "baseline": "log_mel", "difference": 0.05, "interval": [0.01, 0.09]}],
        **values,
    }  # fmt: skip


def test_probe_tells_accuracies_intervals_and_differences() -> None:
    part = probe_section(probe_result(skipped=[["a", "b"]]))
    words = text_of(part.html)
    assert "log_mel 60.0 % 50.0 – 70.0 1.0 % – 80" in words and "mine 65.0 %" in words and "&lt;digit&gt;" in words
    assert "mine log_mel +5.0 +1.0 to +9.0 clearly better" in words
    assert "1 recordings could not be used" in words and clean(part.html)
    several = probe_section([probe_result(), probe_result(label="speaker", differences=[])])
    assert "<h3>By &lt;digit&gt;</h3>" in several.html and "<h3>By speaker</h3>" in several.html


def test_embeddings_are_drawn_by_label_with_a_legend_of_the_most_frequent() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(60, 8))
    speakers = [f"speaker <{row % 12}>" for row in range(60)]
    languages = ["en" if row % 3 else None for row in range(60)]
    part = embeddings_section(vectors, {"speaker": speakers, "language": languages}, source="layer 3")
    assert part.html.count("<svg") == 4 and "PCA by speaker" in part.html and "t-SNE by language" in part.html
    assert "others (4)" in part.html and "unknown" in part.html and clean(part.html)
    assert part.html == embeddings_section(vectors, {"speaker": speakers, "language": languages}, source="layer 3").html


def test_pictures_of_few_flat_or_many_vectors() -> None:
    points, sentence = project(np.ones((3, 1)), "pca")
    assert points.shape == (3, 2) and "0 % of the variance" in sentence
    assert project(np.eye(4), "tsne")[0].shape == (4, 2)
    many = embeddings_section(np.random.default_rng(0).normal(size=(2500, 3)), {"x": ["a"] * 2500}, methods=["pca"])
    assert "A sample of 2,000 of 2,500." in many.html and len(many.html) < 400_000
    with pytest.raises(ConfigError, match="at least three vectors"):
        project(np.ones((2, 4)), "pca")
    with pytest.raises(ConfigError, match="2 values of 'x' for 3 embeddings"):
        embeddings_section(np.ones((3, 2)), {"x": ["a", "b"]})


def test_recordings_that_cannot_be_read_are_counted_on_an_evaluations_page(tmp_path: Path) -> None:
    texts = {"u0": "one two", "u1": "three"}
    manifest = Manifest.from_utterances(
        Utterance(id=name, audio_filepath=f"{name}.wav", sample_rate=16_000, num_samples=16_000, duration=1.0)
        for name in texts
    )
    report = score(texts, {"u0": "one", "u1": "three"}, normalizer="none")
    page = write_evaluation_page(tmp_path / "page.html", report, title="A", subtitle="b", manifest=manifest)
    assert "2 recordings cannot be read and have no sound." in page.read_text()
    page = write_evaluation_page(tmp_path / "page.html", report, title="A", subtitle="b")
    assert "cannot be read" not in page.read_text()
