"""Connectionist temporal classification (Graves et al. 2006): loss, feasibility, greedy decoding."""

from speechssl.ctc.decoding import Hypothesis, TokenSpan, WordSpan, greedy_decode
from speechssl.ctc.loss import Infeasible, ctc_loss, ctc_nll, find_infeasible, required_frames, required_frames_batch

__all__ = [
    "Hypothesis",
    "Infeasible",
    "TokenSpan",
    "WordSpan",
    "ctc_loss",
    "ctc_nll",
    "find_infeasible",
    "greedy_decode",
    "required_frames",
    "required_frames_batch",
]
