"""Word and character error rates: counts, intervals, differences of two systems, groups and confusions.

`counts` compares texts, `alignment` chooses which word stands against which, `bootstrap` gives intervals, `pairs`
tests one system against another, `groups` divides a report by what is known of the utterances, `confusions` lists what
was taken for what.
"""

from speechssl.scoring.alignment import AlignmentMethod
from speechssl.scoring.bootstrap import MIN_SPEAKERS, Unit
from speechssl.scoring.confusions import Confusions, count_confusions
from speechssl.scoring.counts import count_errors, error_rates, report_of, score
from speechssl.scoring.groups import Breakdown, GroupErrors, break_down
from speechssl.scoring.pairs import (
    MatchedPairs,
    RateDifference,
    check_same_test,
    holm,
    matched_pairs,
    matched_segments,
    paired_bootstrap,
)

__all__ = [
    "MIN_SPEAKERS",
    "AlignmentMethod",
    "Breakdown",
    "Confusions",
    "GroupErrors",
    "MatchedPairs",
    "RateDifference",
    "Unit",
    "break_down",
    "check_same_test",
    "count_confusions",
    "count_errors",
    "error_rates",
    "holm",
    "matched_pairs",
    "matched_segments",
    "paired_bootstrap",
    "report_of",
    "score",
]
