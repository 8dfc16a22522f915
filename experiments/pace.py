"""How fast the machine was while steps ran, told apart from what they computed.

On a shared machine the same step takes 20 % longer in one second than in the next. Then batches
grow, and a formula fitted on such steps takes what was the machine's for the price of a large
batch. Two traces that take turns share the machine's pace: what the steps of one took, beside
their price, tells how fast it was for the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from calibrate.step_fit import Fit, Floats, fit_steps
from calibrate.step_log import StepLog
from calibrate.step_model import Prices, Seen, StepModel
from experiments.rehearsal import TURN
from sim.plan import Plan

WINDOW = 4 * TURN
"""Steps over which the pace is one number."""
_ROUNDS = 200
_SETTLED = 1e-3


class PacedSteps(StepModel):
    """A latency model: a step costs its price, times the pace of the machine at the step of that
    number. `alone` is at the average pace.

    Beyond the last known step the pace is the average, 1; such steps are counted in `notes`.
    """

    def __init__(self, prices: Prices, seen: Seen, pace: Floats, *, source: str) -> None:
        """`pace` has an entry for each step, from the first."""
        super().__init__(prices, seen, source=source)
        self.seen = seen
        self.pace = pace

    def at_one_pace(self) -> StepModel:
        """The same prices, at the average pace throughout."""
        return StepModel(self.prices, self.seen, source=self.source)

    def durations(self, plan: Plan, k: int) -> list[int]:
        beyond = min(k, plan.step + k - len(self.pace))
        if beyond > 0:
            self.notes["steps after the last one whose pace is known"] += beyond
        paced_ns = np.multiply(super().durations(plan, k), self.pace_of(plan.step, k))
        durations: list[int] = np.rint(paced_ns).astype(np.int64).tolist()
        return durations

    def pace_of(self, first: int, steps: int) -> Floats:
        """Of so many steps from the number `first` on."""
        known = self.pace[first : first + steps]
        return np.concatenate([known, np.ones(steps - len(known))])

    def priced(self, log: StepLog) -> Floats:
        """Nanoseconds of a run's steps, from its first on, not rounded."""
        price_ns = self.prices.engine_ns(*log.features.T)
        return price_ns * self.pace_of(0, len(price_ns))


class Paced(NamedTuple):
    fit: Fit
    """Prices at the average pace; its errors are beside the pace, which has seen all steps."""
    pace: Floats
    """Of every step of the log; 1 on average."""
    settled: bool
    """False: both were still changing by more than _SETTLED in the last round."""


def fit_paced(log: StepLog) -> Paced:
    """Prices and pace of steps.

    In turns until both settle, _ROUNDS at the most: prices of what the steps would have taken at
    the average pace; the pace, over WINDOW steps, as what these took over what they cost. Raises
    FitError as `fit_steps`.
    """
    pace = np.ones(len(log.duration_ns))
    for _ in range(_ROUNDS):
        fit = fit_steps(replace(log, duration_ns=log.duration_ns / pace))
        found = find_pace(log.duration_ns, fit.predicted_ns)
        before, pace = pace, found / found.mean()
        if settled := np.allclose(before, pace, rtol=_SETTLED, atol=0):
            break
    return Paced(fit, pace, settled)


def find_pace(measured_ns: Floats, price_ns: Floats) -> Floats:
    """Measured over priced time of each window of WINDOW steps or a few more, in their shape."""
    steps = len(measured_ns)
    starts = np.arange(max(1, steps // WINDOW)) * WINDOW
    totals = np.add.reduceat(measured_ns, starts) / np.add.reduceat(price_ns, starts)
    pace: Floats = np.repeat(totals, np.diff(starts, append=steps))
    return pace
