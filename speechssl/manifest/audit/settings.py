"""What an audit looks at, and what counts as a finding."""

from dataclasses import dataclass, field

from speechssl.errors import ConfigError

LEAK_KINDS = {
    "audio": "the same audio: equal samples, another copy of the recording, or cuts that overlap",
    "file": "cuts of one recording that do not overlap",
    "id": "the same id",
    "speaker": "the same speaker, also where only case and spaces differ",
    "text": "the same text, compared without case and punctuation",
    "near_text": "almost the same text",
}
"""What two manifests may share, in the order in which a report lists it."""


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Beyond these a recording or text is a finding. `docs/audit.md` tells where each comes from.

    Attributes:
        flat_share: share of samples in flat tops from which a recording is clipped.
        flat_runs: number of flat tops from which a recording is clipped; both must be reached.
        crowding: blocks of 10 ms with a high peak for each one with a middle peak, from which a recording was limited,
            or clipped and then coded; for recordings with a second of loud blocks.
        dc_share: mean of the samples as a share of the speech level.
        bandwidth_share: effective bandwidth as a share of half the sample rate, or of 8 kHz where that is more.
        silence_seconds: longest stretch without activity.
        silence_share: share of a recording without activity.
        level_dbfs: speech level in dB of full scale below which a recording is too quiet.
        snr_db: estimated signal-to-noise ratio in dB.
        hum_db: height of mains tones over their surroundings in dB.
        speech_rate: distance from the length that the letters tell, in robust standard deviations of its logarithm.
        rare_rows: a character in at most so many rows of a manifest of a thousand rows or more is rare.
        near_text: share of common 5-letter pieces (Jaccard) from which two texts are almost the same.
    """

    flat_share: float = 1e-4
    flat_runs: int = 3
    crowding: float = 1.2
    dc_share: float = 0.1
    bandwidth_share: float = 0.7
    silence_seconds: float = 3.0
    silence_share: float = 0.8
    level_dbfs: float = -45.0
    snr_db: float = 10.0
    hum_db: float = 15.0
    speech_rate: float = 5.0
    rare_rows: int = 2
    near_text: float = 0.8

    def __post_init__(self) -> None:
        for name in ("flat_share", "bandwidth_share", "silence_share", "near_text"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a share and must be between 0 and 1, is {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Settings of `audit_manifests`.

    Attributes:
        audio: decode the recordings: compare them by content and measure their quality. Without, only columns are
            compared, which takes seconds.
        min_overlap_seconds: cuts that share less are not reported, unless one of them is that short as a whole.
        allow: kinds of leaks that are expected here: audio, file, id, speaker, text, near_text.
        thresholds: what counts as a finding.
    """

    audio: bool = True
    min_overlap_seconds: float = 0.5
    allow: tuple[str, ...] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.allow if kind not in LEAK_KINDS]
        if unknown:
            raise ConfigError(f"allow: there is no kind of leak {unknown[0]!r}; there are {', '.join(LEAK_KINDS)}")
        if self.min_overlap_seconds <= 0:
            raise ConfigError(f"min_overlap_seconds must be above 0, is {self.min_overlap_seconds}")
