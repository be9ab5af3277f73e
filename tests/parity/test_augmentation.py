"""Rooms and noises as lhotse (and Kaldi, whose conventions it keeps) make them."""

from pathlib import Path

import numpy as np
import pytest

from speechssl.audio import read
from speechssl.data.augmentation import effects, levels

lhotse = pytest.importorskip("lhotse")
RATE = 16_000


def test_rooms_and_mixtures_are_those_of_lhotse(corpora: Path) -> None:
    from lhotse.audio.mixer import AudioMixer
    from lhotse.augmentation import ReverbWithImpulseResponse

    speech = read(sorted((corpora / "librispeech_train100_251spk/audio").iterdir())[0], sample_rate=RATE)
    for name in (
        "rir1",
        "rir3",
        "rir4",
    ):  # rir2's direct sound is negative, and lhotse looks for the largest value only
        path = corpora / f"noise_rir/audio/rir/{name}.flac"
        theirs = ReverbWithImpulseResponse(rir=lhotse.Recording.from_file(path))(speech[None], RATE)[0]
        assert np.abs(effects.reverberate(speech, read(path, sample_rate=RATE)) - theirs).max() < 1e-6
    noise = read(corpora / "noise_rir/audio/speechbrain/noise1.flac", sample_rate=RATE)[: len(speech)]
    mixer = AudioMixer(speech[None], sampling_rate=RATE)
    mixer.add_to_mix(noise[None], snr=7.0)
    ours = speech + levels.scale_to_snr(noise, speech_power=levels.mean_power(speech), snr_db=7.0)
    assert np.abs(mixer.mixed_audio[0] - ours).max() < 1e-6
