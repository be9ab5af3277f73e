"""Weights found on development data, and the file that hands them on."""

import json
from pathlib import Path

import pytest
import soundfile
import torch

from speechssl import evaluate, transcribe
from speechssl.asr import CtcModel
from speechssl.ctc.decoding import BeamConfig, BeamDecoder
from speechssl.ctc.decoding.file import read_settings
from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.errors import ConfigError
from speechssl.evaluate import EvaluateConfig
from speechssl.language_model import LanguageModelConfig
from speechssl.language_model import run as train_language_model
from speechssl.manifest import Manifest
from speechssl.text import Vocabulary
from speechssl.transcribe import TranscribeConfig
from speechssl.tuning import Outputs, tune
from speechssl.types import Utterance

pytest.importorskip("flashlight.lib.text")
DIGITS = "zero one two three four five six seven eight nine".split()


@pytest.fixture
def language_model(tmp_path: Path) -> Path:
    (tmp_path / "digits.txt").write_text("\n".join(DIGITS))
    config = LanguageModelConfig(text=(tmp_path / "digits.txt",), output=tmp_path / "lm.arpa", order=2)
    return train_language_model(config).output


def test_tuning_on_real_speech_is_no_worse_than_any_trial_and_counts_what_failed(digits, language_model) -> None:  # type: ignore[no-untyped-def]
    # three digits after another, which the model of single digits takes for unlikely: its weight matters
    rows = [row[:n].log_softmax(-1) for row, n in zip(digits.logits, digits.num_frames, strict=True)]
    triples = [slice(start, start + 3) for start in range(0, 18, 3)]
    outputs = Outputs(
        log_probabilities={f"u{i}": torch.cat(rows[three]) for i, three in enumerate(triples)},
        failed={"broken": "no audio"},
    )
    references = {**{f"u{i}": " ".join(digits.texts[three]) for i, three in enumerate(triples)}, "broken": "one two"}
    start = BeamDecoder(digits.vocabulary, BeamConfig(language_model=language_model, beam_size=20))
    calls: list[tuple[int, int]] = []
    tuning = tune(
        start, outputs, references, normalizer="letters", progress=lambda done, total: calls.append((done, total))
    )
    best = tuning.best
    assert best.wer == min(trial.wer for trial in tuning.trials) < max(trial.wer for trial in tuning.trials)
    assert best.wer >= 2 / 20  # the words of the broken recording
    assert (tuning.decoder.config.lm_weight, tuning.decoder.config.word_score) == (best.lm_weight, best.word_score)
    assert len({(t.lm_weight, t.word_score) for t in tuning.trials}) == len(tuning.trials) == len(calls)
    assert all(done <= total for done, total in calls)
    assert {trial.lm_weight for trial in tuning.trials} >= {0.0, 0.5, 1.0, 2.0, 4.0}


@pytest.fixture
def setting(corpora: Path, tmp_path: Path) -> tuple[str, Path]:
    """An untrained recogniser, and a manifest of three real clips."""
    config = EncoderConfig(front_end="log_mel", model_dim=32, num_layers=1, num_heads=2, feed_forward_dim=64)
    model = CtcModel(SpeechEncoder(config), Vocabulary.from_texts(DIGITS), normalizer="letters")
    with torch.no_grad():
        model.head.weight *= 30
    model.save(tmp_path / "model")
    rows = []
    for digit in (0, 1, 2):
        path = corpora / "fsdd" / "audio" / f"{digit}_theo_5.flac"
        info = soundfile.info(path)
        rows.append(
            Utterance(
                id=f"d{digit}", audio_filepath=str(path), sample_rate=info.samplerate, num_samples=info.frames,
                duration=info.frames / info.samplerate, text=DIGITS[digit] if digit else "zéro",
            )
        )  # fmt: skip
    Manifest.from_utterances(rows).save(tmp_path / "dev.jsonl")
    return str(tmp_path / "model"), tmp_path / "dev.jsonl"


def test_evaluate_tunes_and_evaluate_and_transcribe_take_the_file(
    setting: tuple[str, Path], language_model: Path, tmp_path: Path
) -> None:
    checkpoint, manifest = setting
    beam = BeamConfig(language_model=language_model, num_hypotheses=3, beam_size=60)
    tuned = evaluate.run(
        EvaluateConfig(checkpoint=checkpoint, manifest=manifest, output=tmp_path / "dev", tune=True, beam=beam)
    )
    path = tmp_path / "dev" / "decoder.json"
    content = json.loads(path.read_text())
    assert content["wer"] == tuned.report.wer == min(trial["wer"] for trial in content["trials"])
    assert content["tuned_on"]["manifest"] == str(manifest)
    assert read_settings(path) == tuned.beam
    again = evaluate.run(
        EvaluateConfig(checkpoint=checkpoint, manifest=manifest, output=tmp_path / "again", decoder=str(path))
    )
    assert again.report == tuned.report
    written = json.loads((tmp_path / "again" / "result.json").read_text())
    assert (written["decoder"], written["beam"]["lm_weight"]) == ("beam", content["beam"]["lm_weight"])
    assert (written["unknown_characters"], written["num_unknown_characters"]) == ({"é": 1}, 1)
    assert written["num_out_of_lexicon"] == 1
    lines = [json.loads(line) for line in (tmp_path / "again" / "nbest.jsonl").read_text().splitlines()]
    ranks = [line["rank"] for line in lines if line["id"] == "d1"]
    assert ranks == list(range(1, len(ranks) + 1)) and len(ranks) > 1
    recording = tmp_path / "x.wav"
    soundfile.write(recording, soundfile.read(Manifest.load(manifest)[1].audio_filepath)[0], 8000)
    result = transcribe.run(
        TranscribeConfig(checkpoint=checkpoint, audio=(recording,), decoder=str(path), format="json")
    )
    transcript = result.files[0].transcript
    assert transcript is not None and transcript.alternatives
    assert set(transcript.text.split()) <= set(DIGITS)
    rendered = json.loads(transcribe.render(result.files, format="json"))
    assert rendered["alternatives"][0].keys() == {"text", "log_probability", "lm_log10", "score"}


def test_tuning_needs_a_folder_and_greedy_takes_no_settings(setting: tuple[str, Path]) -> None:
    checkpoint, manifest = setting
    with pytest.raises(ConfigError, match="tune writes decoder.json into output, so give output"):
        EvaluateConfig(checkpoint=checkpoint, manifest=manifest, tune=True)
    with pytest.raises(ConfigError, match="the decoder is greedy; set decoder to beam"):
        evaluate.run(EvaluateConfig(checkpoint=checkpoint, manifest=manifest, beam=BeamConfig(beam_size=3)))
