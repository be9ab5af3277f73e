"""`speechssl transcribe CHECKPOINT -` in a process of its own, fed through a real pipe in small pieces."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl.asr import CtcModel, load_asr
from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.text import Vocabulary

RATE = 16_000
# Without a norm over time and with attention switched off, a frame sees a quarter of a second: then a stream with
# enough context must say exactly what the whole recording says.
CONFIG = EncoderConfig(
    conv_layers=((10, 5), (8, 4), (4, 4), (4, 4)), conv_dim=16, conv_norm="layer", model_dim=32, num_layers=1,
    num_heads=2, feed_forward_dim=64, position_kernel=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = CtcModel(SpeechEncoder(CONFIG), Vocabulary.from_texts(["abcde fgh"]), normalizer="letters").eval()
    with torch.no_grad():
        model.head.weight *= 30
        for layer in model.encoder.context_encoder.layers:
            layer.attention.output_projection.weight.zero_()
    folder = tmp_path_factory.mktemp("model")
    model.save(folder)
    return folder


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    random = np.random.default_rng(3)
    loudness = np.repeat(random.uniform(0.01, 0.3, size=40), RATE // 4)
    return (loudness * random.standard_normal(len(loudness))).clip(-1, 1).astype(np.float32)


def start(checkpoint: Path, *words: str) -> subprocess.Popen[bytes]:
    stream = ["--stream.chunk_seconds", "0.5", "--stream.right_seconds", "0.5", "--stream.left_seconds", "1"]
    stream += ["--stream.pause_seconds", "30"]
    return subprocess.Popen(
        [sys.executable, "-m", "speechssl", "transcribe", str(checkpoint), "-", *stream, *words, "--device", "cpu"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, bufsize=0,
    )  # fmt: skip


def test_wav_in_small_pieces_gives_words_that_stay_and_the_text_of_the_whole(
    checkpoint: Path, samples: np.ndarray, tmp_path: Path
) -> None:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="PCM_16")
    process = start(checkpoint, "--format", "json")
    assert process.stdin is not None and process.stdout is not None
    data = file.getvalue()
    half = len(data) // 2
    for place in range(0, half, 997):
        process.stdin.write(data[place : min(place + 997, half)])
    first = json.loads(process.stdout.readline())  # before the second half is there: nothing waits for the end
    assert first["event"] == "words" and first["heard"] < 5.1
    for place in range(half, len(data), 997):
        process.stdin.write(data[place : place + 997])
    process.stdin.close()
    events = [first, *(json.loads(line) for line in process.stdout.read().splitlines())]
    assert process.wait() == 0, process.stderr.read() if process.stderr else ""
    end = events.pop()
    said = [word["word"] for event in events for word in event["words"]]
    assert (end["event"], end["interrupted"], end["text"]) == ("end", False, " ".join(said))
    soundfile.write(tmp_path / "whole.wav", samples, RATE, subtype="PCM_16")
    whole = load_asr(checkpoint).transcribe(tmp_path / "whole.wav")
    assert len(whole.words) > 5
    assert end["text"] == whole.text
    assert end["duration"] == whole.duration_seconds == 10.0
    assert all(0 <= word["confidence"] <= 1 for event in events for word in event["words"])


def test_ctrl_c_ends_raw_audio_with_the_text_so_far(checkpoint: Path, samples: np.ndarray) -> None:
    process = start(checkpoint, "--format", "json", "--encoding", "f32le", "--sample_rate", str(RATE))
    assert process.stdin is not None and process.stdout is not None
    half = samples[: 5 * RATE]
    for piece in np.array_split(half, 50):
        process.stdin.write(piece.tobytes())
    events = [json.loads(process.stdout.readline())]  # some has been recognised; soon it waits for more
    process.send_signal(signal.SIGINT)
    events += [json.loads(line) for line in process.stdout.read().splitlines()]
    assert process.wait() == 0, process.stderr.read() if process.stderr else ""
    end = events[-1]
    assert (end["event"], end["interrupted"]) == ("end", True)
    assert events[0]["heard"] <= end["duration"] <= 5.0
    heard = half[: round(end["duration"] * RATE)]
    assert end["text"] == load_asr(checkpoint).transcribe(heard, sample_rate=RATE).text


def test_no_audio_at_all_is_explained(checkpoint: Path) -> None:
    process = start(checkpoint)
    _, errors = process.communicate(b"", timeout=300)
    assert process.returncode == 2
    assert b"standard input: ends after 0 bytes of a wav header" in errors
