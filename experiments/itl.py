"""Every gap between two tokens of an answer, without writing down a single token.

A segment is a run of steps that each gave one branch of a request one token. Inside segments a
gap is as long as its step, so one step stands for as many gaps as sequences went on in it::

    step          0     1     2     3     4     5     6
    segment A     *-----*-----*-----*
    segment B           *-----*     |     *-----*-----*      (preempted, then resumed)
    gaps          0     1     2     1     0     1     1      + one from B's 2 to B's 4
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.timeline import Ints, StepAxis, count_intervals


def measure_gaps(segments: pd.DataFrame, step_ends: pd.DataFrame) -> tuple[Ints, Ints]:
    """All gaps between successive tokens: (nanoseconds, how many gaps were that one).

    The second array sums to the tokens of all answers less one each. An answer that
    was interrupted has one gap from its last token before to the first one after.
    """
    axis = StepAxis(step_ends)
    ordered = segments.sort_values(["request", "branch", "first_step"], kind="stable")
    first = axis.position(ordered["replica"], ordered["first_step"])
    behind = first + ordered["tokens"].to_numpy()
    going_on = count_intervals(first + 1, behind, length=len(axis))
    steps = np.flatnonzero(going_on)
    whose = ordered[["request", "branch"]].to_numpy()
    again = np.flatnonzero((whose[1:] == whose[:-1]).all(axis=1))
    interruptions = axis.end_ns[first[again + 1]] - axis.end_ns[behind[again] - 1]
    gaps = np.concatenate([axis.end_ns[steps] - axis.end_ns[steps - 1], interruptions])
    return gaps, np.concatenate([going_on[steps], np.ones(len(again), dtype=np.int64)])
