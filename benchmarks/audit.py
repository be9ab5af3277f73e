"""How much shared audio an audit finds, what it takes for shared that is not, and what it costs.

Needs the recorded corpora (SPEECHSSL_CORPORA, else ../shared/corpora) and PyAV for codecs of a given bit rate. Copies
are made of clips of many readers, changed, cut and searched for among the originals; false pairs are counted within
whole corpora, of which one holds sentences that its reader read several times.
"""

import io
import os
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
from harness import Case, Numbers, main, measured

from speechssl import audio
from speechssl.audio import Waveform, resample
from speechssl.manifest import AuditConfig, Manifest, audit_manifests
from speechssl.manifest.audit.fingerprint import SAMPLE_RATE, fingerprint
from speechssl.manifest.audit.matching import find_candidates
from speechssl.manifest.audit.waveforms import compare, speech_band
from speechssl.types import Utterance

CORPORA = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).resolve().parents[2] / "shared" / "corpora"))
RATE = 16_000
READERS = {"librispeech_train100_251spk": 24, "kathleen_en": 20, "ljspeech_part": 16}
CHANGES = ("none", "12 dB softer", "8 kHz", "44.1 kHz", "mp3 32 kbit/s", "opus 16 kbit/s", "gsm", "noise 20 dB",
           "noise 10 dB", "begins later")  # fmt: skip
CUT = ("none", "mp3 32 kbit/s", "opus 16 kbit/s", "noise 20 dB")
WHOLE = ("librispeech_train100_251spk", "kathleen_en", "ljspeech_part", "kerstin_de", "fsdd")


def cases() -> list[Case]:
    """Copies as a whole and cut, false pairs by corpus, and the cost."""
    found: list[Case] = [{"measured": "copies found", "change": change, "seconds": "all"} for change in CHANGES]
    found += [
        {"measured": "copies found", "change": change, "seconds": seconds} for change in CUT for seconds in (4, 2, 1)
    ]
    found += [{"measured": "false pairs", "corpus": corpus} for corpus in WHOLE]
    return [*found, *({"measured": "cost", "corpus": corpus} for corpus in WHOLE[:3])]


def run(case: Case) -> Numbers:
    """One case; see `cases`."""
    if case["measured"] == "copies found":
        return copies_found(case["change"], case["seconds"])
    with tempfile.TemporaryDirectory() as cache:
        manifest = whole_corpus(case["corpus"])
        hours = manifest.total_seconds / 3600
        with measured() as used:
            report = audit_manifests({"m": manifest}, AuditConfig(), cache=cache, num_workers=1)
        kept = sum(path.stat().st_size for path in Path(cache).iterdir())
    repeated = sum(len(finding) for finding in report.findings if finding.kind == "repeated_audio")
    return {
        "clips": len(manifest),
        "false_pairs": repeated,
        "waveforms_compared": report.num_candidates,
        "cpu_seconds_per_hour": used.cpu_seconds / hours,
        "megabytes_per_hour": kept / hours / 1e6,
    }


def copies_found(change: str, seconds: int | str) -> Numbers:
    """Share of changed copies that are tied to their originals, and pairs of others that are."""
    random = np.random.default_rng(0)
    originals = clips()
    copies = [changed(clip, change, random) for clip in originals]
    if seconds != "all":
        copies = [cut(copy, int(seconds), random) for copy in copies]
    kept = [number for number, copy in enumerate(copies) if copy is not None]
    low = [resample(wave, from_rate=RATE, to_rate=SAMPLE_RATE) for wave in (*originals, *(copies[n] for n in kept))]
    frames = [fingerprint(wave) for wave in low]
    starts = np.cumsum([0, *map(len, frames)])
    scores: dict[int, float] = {}
    false_pairs = 0
    for candidate in find_candidates(np.concatenate(frames), starts, np.arange(len(low))):
        agreement = compare(speech_band(low[candidate.first]), speech_band(low[candidate.second]), candidate)
        copy = candidate.second - len(originals)
        if not agreement.is_same:
            continue
        if copy >= 0 and kept[copy] == candidate.first:
            scores[copy] = agreement.score
        else:
            false_pairs += 1
    return {
        "clips": len(kept),
        "found": len(scores) / len(kept),
        "false_pairs": false_pairs,
        "median_score": float(np.median(list(scores.values()))),
        "least_score": min(scores.values()),
    }


@lru_cache(1)
def clips() -> list[Waveform]:
    """Clips of two seconds and more, spread over each corpus."""
    found = []
    for corpus, count in READERS.items():
        paths = sorted((CORPORA / corpus / "audio").iterdir())
        for path in paths[:: len(paths) // count][:count]:
            wave = audio.read(path, sample_rate=RATE)[: 10 * RATE]
            found += [wave] if len(wave) >= 2 * RATE else []
    return found


def whole_corpus(corpus: str) -> Manifest:
    """Every clip of a corpus."""
    rows = []
    for path in sorted((CORPORA / corpus / "audio").iterdir()):
        info = audio.probe(path)
        rows.append(
            Utterance(id=path.stem, audio_filepath=str(path), sample_rate=info.sample_rate,
                      num_samples=info.num_samples, duration=info.duration)
        )  # fmt: skip
    return Manifest.from_utterances(rows)


def changed(wave: Waveform, change: str, random: np.random.Generator) -> Waveform:
    """A copy after a change, at 16 kHz."""
    if change == "12 dB softer":
        return wave * np.float32(0.25)
    if change in ("8 kHz", "44.1 kHz"):
        rate = 8_000 if change == "8 kHz" else 44_100
        return resample(resample(wave, from_rate=RATE, to_rate=rate), from_rate=rate, to_rate=RATE)
    if change == "mp3 32 kbit/s":
        return coded(wave, "libmp3lame", "mp3", RATE, 32_000)
    if change == "opus 16 kbit/s":
        return coded(wave, "libopus", "ogg", 48_000, 16_000)
    if change == "gsm":
        from speechssl.data.augmentation.codecs import encode_decode

        return encode_decode(wave, "gsm", sample_rate=RATE, compression=0)
    if change.startswith("noise"):
        scale = wave.std() * 10 ** (-int(change.split()[1]) / 20)
        return wave + (scale * random.standard_normal(len(wave))).astype(np.float32)
    if change == "begins later":
        return wave[int(random.uniform(0.05, 0.5) * RATE) :]
    return wave


def coded(wave: Waveform, codec: str, container: str, rate: int, bit_rate: int) -> Waveform:
    """Through a codec and back, with its delay."""
    import av

    memory = io.BytesIO()
    with av.open(memory, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.bit_rate, stream.layout = bit_rate, "mono"
        samples = np.clip(resample(wave, from_rate=RATE, to_rate=rate), -1, 1) * 32_767
        frame = av.AudioFrame.from_ndarray(samples.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = rate
        kind = stream.codec_context.format.name
        queue = av.AudioFifo()
        for part in av.AudioResampler(format=kind, layout="mono", rate=rate).resample(frame):
            queue.write(part)
        while (part := queue.read(stream.codec_context.frame_size or 960, partial=True)) is not None:
            part.pts = None
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    memory.seek(0)
    with av.open(memory) as source:
        to_float = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        parts = [p.to_ndarray()[0] for frame in source.decode(audio=0) for p in to_float.resample(frame)]
    return resample(np.concatenate(parts).astype(np.float32), from_rate=rate, to_rate=RATE)


def cut(wave: Waveform, seconds: int, random: np.random.Generator) -> Waveform | None:
    """A cut that is not half silent: at least half as loud as the whole; None where the clip has none."""
    size = seconds * RATE
    for _ in range(30):
        if len(wave) <= size + RATE // 4:
            return None
        start = int(random.integers(0, len(wave) - size))
        if wave[start : start + size].std() >= 0.5 * wave.std():
            return wave[start : start + size]
    return None


if __name__ == "__main__":
    main(
        "audit",
        cases,
        run,
        title="Audit: shared audio found, false pairs, cost",
        columns=["clips", "found", "false_pairs", "median_score", "least_score", "waveforms_compared",
                 "cpu_seconds_per_hour", "megabytes_per_hour"],
        notes="Copies of clips by 26 readers, changed and cut, searched for among the originals; a cut is half as loud"
        " as its clip or louder. False pairs within a corpus are clips that were said to hold audio of another; every"
        " clip of these corpora is a recording of its own, and `kathleen_en` has 478 sentences read again by the same"
        " reader. The cost is of decoding, measures, fingerprints, search and comparison, on one thread.",
        rounds=1,
        timeout=1800,
        together=lambda case: case["measured"] if case["measured"] == "copies found" else None,
    )  # fmt: skip
