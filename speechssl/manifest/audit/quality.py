"""What is wrong with recordings, from what was measured.

Shapes: R rows of all manifests.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechssl.manifest.audit.findings import Finding
from speechssl.manifest.audit.measures import DEAD_CHANNEL, FLOOR_DB, IDENTICAL_CHANNELS, MEASURES
from speechssl.manifest.audit.rows import Rows
from speechssl.manifest.audit.settings import Thresholds
from speechssl.manifest.audit.store import Scanned

WIDE_BAND_HZ = 8000.0
"""More bandwidth than wide band's is asked of no recording, whatever its rate."""

_LOUD_BLOCKS = 100
_MIN_SECONDS = 0.1
_HUM_SECONDS = 2.0

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """Rows where `found` holds; `measure` is shown as `form` after multiplication with `scale`, and `worst_first`."""

    kind: str
    found: Mask
    measure: str
    form: str
    scale: float = 1.0
    lowest_first: bool = False


def quality_findings(rows: Rows, scanned: Scanned, thresholds: Thresholds) -> list[Finding]:
    """Rows beyond a threshold, those furthest beyond first."""
    measured = {name: scanned.measure(name).astype(np.float64)[rows.span_of] for name in MEASURES}
    findings = []
    for rule in _rules(measured, _sample_rates(rows), thresholds):
        values = measured[rule.measure]
        found = np.flatnonzero(rule.found)
        order = found[np.argsort(values[found] if rule.lowest_first else -values[found], kind="stable")]
        findings.append(Finding(kind=rule.kind, rows=order, values=values[order] * rule.scale, form=rule.form))
    return [finding for finding in findings if len(finding)]


def _rules(m: Mapping[str, Values], sample_rate: Values, t: Thresholds) -> list[_Rule]:
    heard = (m["level_dbfs"] > FLOOR_DB) & (m["seconds"] >= _MIN_SECONDS)
    flat = heard & (m["flat_share"] >= t.flat_share) & (m["flat_runs"] >= t.flat_runs)
    ceiling = heard & ~flat & (m["crowding"] >= t.crowding) & (m["loud_blocks"] >= _LOUD_BLOCKS)
    narrow = heard & (m["bandwidth_hz"] < t.bandwidth_share * np.minimum(sample_rate / 2, WIDE_BAND_HZ))
    hum = heard & (m["hum_db"] >= t.hum_db) & (m["seconds"] >= _HUM_SECONDS)
    percent = "{:.2g} %"
    return [
        _Rule(kind="silent", found=m["level_dbfs"] <= FLOOR_DB, measure="seconds", form="{:.1f} s"),
        _Rule(kind="clipping", found=flat, measure="flat_share", form=percent + " of the samples", scale=100),
        _Rule(kind="at_ceiling", found=ceiling, measure="crowding", form="{:.1f} high peaks for each lower one"),
        _Rule(
            kind="dc_offset",
            found=heard & (m["dc_share"] >= t.dc_share),
            measure="dc_share",
            form="{:.0f} % of the speech level",
            scale=100,
        ),
        _Rule(kind="narrow_band", found=narrow, measure="bandwidth_hz", form="{:.0f} Hz", lowest_first=True),
        _Rule(
            kind="long_silence",
            found=heard & (m["longest_silence"] > t.silence_seconds),
            measure="longest_silence",
            form="{:.1f} s",
        ),
        _Rule(
            kind="mostly_silence",
            found=heard & (m["silence_share"] > t.silence_share),
            measure="silence_share",
            form="{:.0f} %",
            scale=100,
        ),
        _Rule(
            kind="low_level",
            found=heard & (m["level_dbfs"] < t.level_dbfs),
            measure="level_dbfs",
            form="{:.0f} dBFS",
            lowest_first=True,
        ),
        _Rule(
            kind="noisy", found=heard & (m["snr_db"] < t.snr_db), measure="snr_db", form="{:.0f} dB", lowest_first=True
        ),
        _Rule(kind="hum", found=hum, measure="hum_db", form="{:.0f} dB"),
        _Rule(
            kind="dead_channel",
            found=m["channel_fault"] == DEAD_CHANNEL,
            measure="num_channels",
            form="one of {:.0f} channels",
        ),
        _Rule(
            kind="identical_channels",
            found=m["channel_fault"] == IDENTICAL_CHANNELS,
            measure="num_channels",
            form="{:.0f} channels",
        ),
    ]


def _sample_rates(rows: Rows) -> Values:
    return np.concatenate([m.column("sample_rate").to_numpy() for m in rows.manifests]).astype(np.float64)
