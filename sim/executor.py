"""Who runs a plan: the latency model's arithmetic, or real kernels. Only time differs."""

from __future__ import annotations

from typing import Protocol

from sim.latency import LatencyModel
from sim.plan import Plan


class Executor(Protocol):
    def run(self, plan: Plan, k: int) -> list[int]:
        """Run the plan up to k times, at least once; nanoseconds of each time."""
        ...


class Simulated:
    """Runs nothing, and says how long it would have taken."""

    def __init__(self, latency: LatencyModel) -> None:
        self.latency = latency

    def run(self, plan: Plan, k: int) -> list[int]:
        return self.latency.durations(plan, k)
