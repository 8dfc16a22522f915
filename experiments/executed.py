"""The clock of a run on real kernels: it measures, and predicts nothing."""

from __future__ import annotations

from sim.latency import WholeSteps
from sim.plan import Plan


class Executed(WholeSteps):
    """For steps that an executor runs and measures: nobody asks what they would take."""

    def __init__(self, source: str) -> None:
        self.source = source

    def durations(self, plan: Plan, k: int) -> list[int]:
        raise AssertionError("steps are executed; this clock only knows whose time they took")
