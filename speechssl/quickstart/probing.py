"""Linear probes of the frozen encoders, beside log-mel features and a random encoder."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from speechssl.errors import SpeechSSLError
from speechssl.manifest import Manifest, subset_manifest
from speechssl.probe import ProbeConfig
from speechssl.probe import run as run_probe
from speechssl.quickstart.arms import Arm
from speechssl.quickstart.corpus import Parts
from speechssl.quickstart.settings import QuickstartConfig

logger = logging.getLogger(__name__)

BASELINES = ("log_mel", "random")
_MOST_TEXTS = 40  # fewer different texts than that are keywords, which a pooled vector can tell apart
_FEWEST_OF_A_CLASS = 4
_MOST_TEST_SECONDS = 600.0


def probe_encoders(config: QuickstartConfig, parts: Parts, arms: Sequence[Arm], folder: Path) -> Mapping[str, Any]:
    """Scores of every probe that the labels allow, as JSON values.

    What was held out from pre-training is the test part; a probe that cannot be made is listed with the reason.
    """
    train, test = Manifest.load(parts.train), Manifest.load(parts.test)
    labels, left_out = choose_labels(train, test)
    if config.audio is None:
        labels = ["language"]  # the voice prompts have one voice a language, two of them the same
    if test.total_seconds > _MOST_TEST_SECONDS:
        test = subset_manifest(test, [_MOST_TEST_SECONDS], seed=config.seed)[0]
    test_path = folder / "test.jsonl"
    test.save(test_path)
    probes = []
    for label in labels:
        settings = ProbeConfig(
            manifest=parts.train,
            test_manifest=test_path,
            label=label,
            representations=(*BASELINES, *(f"{arm.name}={arm.source}" for arm in arms if arm.source is not None)),
            num_train=config.probe_labels,
            seed=config.seed,
            output=folder / label,
        )
        try:
            result = run_probe(settings, progress=lambda line: logger.info("probe: %s", line))
        except SpeechSSLError as error:
            left_out.append(f"the probe for {label}: {error}")
            logger.warning("%s", left_out[-1])
            continue
        probes.append(result.to_dict())
    return {"probes": probes, "left_out": left_out}


def choose_labels(train: Manifest, test: Manifest) -> tuple[list[str], list[str]]:
    """Columns worth a probe, and why others are not: each needs classes that both parts have often enough."""
    chosen, reasons = [], []
    for label in ("language", "speaker", "text"):
        common = _classes(train, label) & _classes(test, label, fewest=1)
        if label == "text" and len(common) > _MOST_TEXTS:
            continue
        if len(common) >= 2:
            chosen.append(label)
        elif label != "text":
            reasons.append(f"a probe for {label}: needs two {label}s with recordings in both parts")
    return chosen, reasons if not chosen else []


def _classes(manifest: Manifest, label: str, *, fewest: int = _FEWEST_OF_A_CLASS) -> set[str]:
    """Values of a column that at least `fewest` utterances have."""
    if label not in manifest.table.column_names:
        return set()
    counts: dict[str, int] = {}
    for value in manifest.column(label).to_pylist():
        if value:
            counts[value] = counts.get(value, 0) + 1
    return {value for value, count in counts.items() if count >= fewest}
