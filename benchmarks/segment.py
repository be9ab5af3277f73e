"""Long recordings cut by silence and by speech detection: what is found of speech whose place is known, and the cost.

An hour is joined of real utterances with pauses between them; into the pauses go silence or real noises, and a room
lies under everything. Truth are the frames of 25 ms of each utterance within 35 dB of its loudest and 6 dB above
its own noise (the tenth percentile).
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from harness import main, measured

RATE = 16_000
FRAME = 400
ROOT = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
SEED = 0

METHODS = {
    "silence, top_db 30": {"method": "silence", "top_db": 30.0},
    "silence, top_db 40": {"method": "silence", "top_db": 40.0},
    "silence, top_db 50": {"method": "silence", "top_db": 50.0},
    "speech": {"method": "speech"},
}
BACKGROUNDS = {"studio": (None, False), "room 40 dB below": (40.0, False), "room 20 dB below, noises": (20.0, True)}


def cases() -> list[dict]:
    """Every method in every background; librosa and silero-vad alone, on the whole hour in memory, beside them."""
    implementations = [*METHODS, "librosa.effects.split", "silero_vad.get_speech_timestamps"]
    return [
        {"background": background, "implementation": name} for background in BACKGROUNDS for name in implementations
    ]


def make_hour(background: str) -> tuple[np.ndarray, np.ndarray]:
    """Samples f32 `[S]` of an hour, and where speech is: bool `[S / 400]`."""
    from speechssl.audio import read

    random = np.random.default_rng(SEED)
    level_db, with_noises = BACKGROUNDS[background]
    clips = sorted((ROOT / "librispeech_train100_251spk/audio").iterdir())
    noises = sorted((ROOT / "noise_rir/audio/opensfx").iterdir())
    pieces, spoken, length, number = [], [], 0, 0
    while length < 3600 * RATE:
        clip = read(clips[number % len(clips)], sample_rate=RATE)
        clip = clip[: len(clip) // FRAME * FRAME] * (0.08 / np.sqrt(np.mean(clip**2)))
        powers = (clip.reshape(-1, FRAME) ** 2).mean(axis=1)
        pause = np.zeros(int(random.uniform(0.4, 6.0) * RATE / FRAME) * FRAME, dtype=np.float32)
        if with_noises and number % 2:
            noise = read(noises[number // 2 % len(noises)], sample_rate=RATE)[: len(pause)]
            pause[: len(noise)] = noise * (0.05 / max(1e-4, np.sqrt(np.mean(noise**2))))
        pieces += [clip, pause]
        floor = max(powers.max() * 10**-3.5, 4 * np.quantile(powers, 0.1))
        spoken += [powers > floor, np.zeros(len(pause) // FRAME, bool)]
        length += len(clip) + len(pause)
        number += 1
    hour = np.concatenate(pieces).astype(np.float32)
    level = 0.08 * 10 ** (-(level_db if level_db is not None else 75.0) / 20)
    room = [read(path, sample_rate=RATE) for path in sorted((ROOT / "noise_rir/audio/mycroft_bg").iterdir())]
    under = np.resize(np.concatenate(room) if level_db is not None else random.standard_normal(RATE * 60), len(hour))
    hour += (under * (level / np.sqrt(np.mean(under**2)))).astype(np.float32)
    return np.clip(hour, -1, 1), np.concatenate(spoken)


def run(case: dict) -> dict:
    """Cut the hour; shares of speech and of pauses that are in the clips, and the cost."""
    from speechssl.manifest import build_manifest
    from speechssl.manifest.segmentation import SegmentConfig, segment_manifest

    with tempfile.TemporaryDirectory() as folder:
        hour, spoken = make_hour(case["background"])
        path = Path(folder) / "hour.flac"
        soundfile.write(path, hour, RATE)
        manifest = build_manifest(folder, num_workers=1).manifest
        name = case["implementation"]
        if name in METHODS:
            import librosa  # noqa: F401  imports are no part of what is measured
            import torch

            torch.set_num_threads(1)
            warm = segment_manifest(_first_minute(manifest), SegmentConfig(**METHODS[name]), num_workers=1)
            assert len(warm.manifest)
            with measured() as used:
                result = segment_manifest(manifest, SegmentConfig(**METHODS[name]), num_workers=1)
            starts = np.array(result.manifest.column("offset").to_pylist()) * RATE
            ends = starts + np.array(result.manifest.column("num_samples").to_pylist())
        else:
            starts, ends, used = peer(name, path)
    kept = np.zeros(len(spoken) + 1, dtype=bool)
    for start, end in zip(np.round(starts).astype(int), np.round(ends).astype(int), strict=True):
        kept[start // FRAME : -(-end // FRAME)] = True
    kept = kept[: len(spoken)]
    edges = np.clip(np.concatenate([starts, ends]).astype(int) // FRAME, 0, len(spoken) - 1)
    inside = spoken[edges] & spoken[np.maximum(edges - 1, 0)] & spoken[np.minimum(edges + 1, len(spoken) - 1)]
    return {
        "speech_kept_percent": 100 * float(kept[spoken].mean()),
        "pauses_kept_percent": 100 * float(kept[~spoken].mean()),
        "edges_within_speech_percent": 100 * float(inside.mean()),
        "clips": len(starts),
        "median_seconds": float(np.median(ends - starts)) / RATE,
        "longest_seconds": float((ends - starts).max()) / RATE,
        **used.as_dict(),
    }


def peer(name: str, path: Path) -> tuple:
    """Starts and ends in samples of the peer's intervals, and what it used."""
    if name.startswith("librosa"):
        import librosa

        librosa.effects.split(np.ones(RATE, dtype=np.float32))
        with measured() as used:
            samples, _ = soundfile.read(path, dtype="float32")
            found = librosa.effects.split(samples, top_db=40)
        return found[:, 0], found[:, 1], used
    import silero_vad
    import torch

    torch.set_num_threads(1)
    model = silero_vad.load_silero_vad()
    silero_vad.get_speech_timestamps(torch.zeros(RATE * 60), model)
    with measured() as used:
        samples, _ = soundfile.read(path, dtype="float32")
        found = silero_vad.get_speech_timestamps(torch.from_numpy(samples), model, max_speech_duration_s=15)
    return np.array([span["start"] for span in found]), np.array([span["end"] for span in found]), used


def _first_minute(manifest):
    import pyarrow as pa

    minute = manifest.with_column("duration", pa.array([60.0]))
    return minute.with_column("num_samples", pa.array([60 * RATE]))


if __name__ == "__main__":
    main(
        "segment",
        cases,
        run,
        title="Cutting an hour-long recording",
        columns=[
            "speech_kept_percent",
            "pauses_kept_percent",
            "edges_within_speech_percent",
            "clips",
            "median_seconds",
            "longest_seconds",
            "cpu_seconds",
            "peak_megabytes",
        ],
        notes=(
            "Clips of 1 to 15 s (ours) against the intervals of librosa and of silero-vad (at most 15 s each). Speech"
            " kept: share of the frames of 25 ms with speech that lie in a clip. Edges within speech: share of the"
            " clips' ends with speech before and after them."
        ),
        rounds=3,
        timeout=3600,
    )
