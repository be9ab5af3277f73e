"""What each augmentation costs on one core, beside lhotse where it has the same effect."""

import os
import tempfile
from pathlib import Path

import numpy as np
from harness import main, measured

RATE = 16_000
NUM_CLIPS = 20
REPEATS = 3
ROOT = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))

EFFECTS = {
    "speed": {"speed": {"factors": [0.9, 1.1]}},
    "reverberation": {"reverberation": {"manifest": "rir"}},
    "noise": {"noise": {"manifest": "noise"}},
    "noise, active level": {"noise": {"manifest": "noise", "speech_level": "active"}},
    "babble": {"babble": {"manifest": "speech"}, "cache_megabytes": 256},
    "gain": {"gain": {}},
    "band_limit": {"band_limit": {}},
    "codec mulaw": {"codec": {"names": ["mulaw"]}},
    "codec alaw": {"codec": {"names": ["alaw"]}},
    "codec gsm": {"codec": {"names": ["gsm"]}},
    "codec adpcm": {"codec": {"names": ["adpcm"]}},
    "codec vorbis": {"codec": {"names": ["vorbis"]}},
    "codec opus": {"codec": {"names": ["opus"]}},
    "codec mp3": {"codec": {"names": ["mp3"]}},
    "time_mask": {"time_mask": {}},
    "band_mask": {"band_mask": {}},
}
PEERS = ("speed", "reverberation", "noise")


def cases() -> list[dict]:
    """Every effect; those that lhotse has too, also there."""
    ours = [{"effect": effect, "implementation": "speechssl"} for effect in EFFECTS]
    return ours + [{"effect": effect, "implementation": "lhotse"} for effect in PEERS]


def run(case: dict) -> dict:
    """Augment the first minutes of LibriSpeech clips that lie decoded in memory, some times over."""
    from speechssl.audio import read

    paths = sorted((ROOT / "librispeech_train100_251spk/audio").iterdir())[:NUM_CLIPS]
    clips = {path.stem: read(path, sample_rate=RATE) for path in paths}
    with tempfile.TemporaryDirectory() as folder:
        augment = ours(case["effect"], Path(folder)) if case["implementation"] == "speechssl" else peer(case["effect"])
        for name, clip in clips.items():
            augment(clip, name, 0)
        with measured() as used:
            for epoch in range(REPEATS):
                for name, clip in clips.items():
                    augment(clip, name, epoch)
    seconds = REPEATS * sum(map(len, clips.values())) / RATE
    return {
        "audio_seconds": seconds,
        "cpu_milliseconds_per_audio_second": 1000 * used.cpu_seconds / seconds,
        **used.as_dict(),
    }


def ours(effect: str, folder: Path):
    """A call that applies the effect always."""
    from speechssl.config import from_dict
    from speechssl.data.augmentation import AugmentConfig, Augmenter
    from speechssl.manifest import build_manifest

    values = dict(EFFECTS[effect])
    sources = {
        "rir": "noise_rir/audio/rir", "noise": "noise_rir/audio/speechbrain", "speech": "librispeech_train100_251spk"
    }  # fmt: skip
    for name, part in values.items():
        if isinstance(part, dict):
            values[name] = {"probability": 1, **part}
            if "manifest" in part:
                path = folder / f"{part['manifest']}.jsonl"
                build_manifest(ROOT / sources[part["manifest"]], output=path, num_workers=1)
                values[name]["manifest"] = str(path)
    augmenter = Augmenter(from_dict(AugmentConfig, values), sample_rate=RATE, seed=0)
    return lambda clip, name, epoch: augmenter(clip, utterance_id=name, epoch=epoch)


def peer(effect: str):
    """lhotse's own transform of the same kind; noise and impulse response lie decoded in memory too."""
    import torch
    from lhotse import Recording
    from lhotse.audio.mixer import AudioMixer
    from lhotse.augmentation import ReverbWithImpulseResponse, Speed

    from speechssl.audio import read

    torch.set_num_threads(1)
    if effect == "speed":
        speeds = [Speed(0.9), Speed(1.1)]
        return lambda clip, name, epoch: speeds[len(name) % 2](clip[None], RATE)
    if effect == "reverberation":
        rirs = [
            ReverbWithImpulseResponse(rir=Recording.from_file(path).move_to_memory(format="wav"))
            for path in sorted((ROOT / "noise_rir/audio/rir").glob("rir*.flac"))
        ]
        return lambda clip, name, epoch: rirs[(len(clip) + epoch) % len(rirs)](clip[None], RATE)
    noise = read(ROOT / "noise_rir/audio/speechbrain/noise1.flac", sample_rate=RATE)

    def mix(clip: np.ndarray, name: str, epoch: int) -> np.ndarray:
        mixer = AudioMixer(clip[None], sampling_rate=RATE)
        mixer.add_to_mix(noise[None, : len(clip)], snr=10.0)
        return mixer.mixed_audio

    return mix


if __name__ == "__main__":
    main(
        "augmentation",
        cases,
        run,
        title="Augmentation",
        columns=["cpu_milliseconds_per_audio_second", "cpu_seconds", "audio_seconds"],
        notes=(
            "Each effect on every clip, 16 kHz, clips in memory; our figures include the draws and reading noises"
            " through the cache. lhotse: Speed, ReverbWithImpulseResponse (same alignment and level) and AudioMixer."
        ),
        timeout=1800,
    )
