"""What became of every utterance of an epoch: delivered, or left out for a reason. The two add up."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from speechssl.data.dataset import Unreadable
from speechssl.data.ranks import Ranks
from speechssl.files import write_text

logger = logging.getLogger(__name__)

MAX_WARNINGS = 20
"""So many problems are told one by one; the rest are counted."""
MAX_PROBLEMS = 100_000
"""So many reasons are kept in full; the rest are counted by kind."""


@dataclass(frozen=True, kw_only=True)
class EpochCoverage:
    """The utterances that one rank was handed in one epoch, from the place in the epoch where its stream began.

    `planned` = `delivered` + all of `left_out`, always. Over all ranks, `planned` of an epoch that was gone through
    from place 0 to its end is the number of rows of the manifest, each counted once: rows that are too short by their
    manifest are in no batch and are counted with the first one.

    Attributes:
        epoch: counted from 0.
        first_place: number of the global batch within the epoch where the stream began: 0, or where a run went on.
        ended: whether the stream has come to the end of the epoch.
        num_batches: batches handed over.
        planned: utterances that were due in them.
        delivered: of these, handed over.
        left_out: of these, not handed over, by kind of reason.
        repeated: utterances handed over once more, in place of batches of which nothing could be read.
        seconds: audio handed over, without padding.
        padded_seconds: the same with padding.
        source_seconds: what the utterances handed over last without their crops.
    """

    epoch: int
    first_place: int = 0
    ended: bool = False
    num_batches: int = 0
    planned: int = 0
    delivered: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0
    seconds: float = 0.0
    padded_seconds: float = 0.0
    source_seconds: float = 0.0

    @property
    def padding_share(self) -> float:
        """Share of what was handed over that is padding."""
        return 1 - self.seconds / self.padded_seconds if self.padded_seconds else 0.0

    @property
    def cropped_share(self) -> float:
        """Share of the utterances' audio that was cut off."""
        return max(0.0, 1 - self.seconds / self.source_seconds) if self.source_seconds else 0.0

    def merged(self, *others: "EpochCoverage") -> "EpochCoverage":
        """The sum with other parts of the same epoch: of other ranks, or of later batches."""
        parts = [self, *others]
        assert all(part.epoch == self.epoch for part in parts), "parts of one epoch"
        sums = {name: sum(getattr(part, name) for part in parts) for name in _SUMMED}
        left_out: Counter[str] = Counter()
        for part in parts:
            left_out.update(part.left_out)
        return replace(
            self,
            first_place=min(part.first_place for part in parts),
            ended=all(part.ended for part in parts),
            left_out=dict(left_out),
            **sums,
        )

    def describe(self) -> str:
        """One line for people."""
        text = f"epoch {self.epoch}: {self.delivered} utterances delivered, {sum(self.left_out.values())} left out"
        if self.left_out:
            text += f" ({', '.join(f'{count} {kind}' for kind, count in sorted(self.left_out.items()))})"
        if self.repeated:
            text += f", {self.repeated} repeated"
        if self.first_place:
            text += f", from batch {self.first_place} of the epoch on"
        return f"{text}; padding {100 * self.padding_share:.1f} %, cropped {100 * self.cropped_share:.1f} %"


_SUMMED = ("num_batches", "planned", "delivered", "repeated", "seconds", "padded_seconds", "source_seconds")


def coverage_path(run_directory: Path, ranks: Ranks) -> Path:
    """Where a rank of a run records what it was handed: `coverage.jsonl`, or `coverage.rank1.jsonl` and so on."""
    return run_directory / (f"coverage.rank{ranks.rank}.jsonl" if ranks.rank else "coverage.jsonl")


class CoverageFile:
    """A file with a line of JSON for each epoch, or part of an epoch, that a rank was handed.

    With its first line a process takes out what an earlier one wrote of the same place or later ones: a run that was
    killed goes through them again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_trimmed = False

    def write(self, coverage: EpochCoverage) -> None:
        """Add a line."""
        if not self._is_trimmed:
            self._trim(coverage.epoch, coverage.first_place)
            self._is_trimmed = True
        shares = {"padding_share": coverage.padding_share, "cropped_share": coverage.cropped_share}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(coverage), **shares}) + "\n")

    def _trim(self, epoch: int, first_place: int) -> None:
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line for line in lines if _place(line) < (epoch, first_place)]
        write_text(self._path, "".join(f"{line}\n" for line in kept))


def _place(line: str) -> tuple[float, float]:
    """Where the part of an epoch began that a line tells of; a torn line is taken out."""
    try:
        values = json.loads(line)
    except ValueError:
        return float("inf"), 0
    return values["epoch"], values["first_place"]


class ProblemLog:
    """Warns once for each utterance that is left out and keeps the reasons for the run's summary."""

    def __init__(self) -> None:
        """Start empty."""
        self.problems: dict[str, str] = {}

    def add(self, problems: Sequence[Unreadable]) -> None:
        """Note the problems of a batch."""
        for problem in problems:
            if problem.utterance_id in self.problems or len(self.problems) >= MAX_PROBLEMS:
                continue
            self.problems[problem.utterance_id] = problem.reason
            if len(self.problems) <= MAX_WARNINGS:
                logger.warning("left out %s: %s", problem.utterance_id, problem.reason)
            if len(self.problems) == MAX_WARNINGS:
                logger.warning("further utterances that are left out are counted at the end of each epoch")
