"""Who runs a plan: the latency model's arithmetic, or real kernels. Only time differs."""

from __future__ import annotations

from typing import Protocol

from sim.latency import LatencyModel, Nanoseconds
from sim.plan import Plan


class Executor(Protocol):
    def run(self, plan: Plan, k: int) -> Nanoseconds:
        """Run the plan up to k times, at least once; nanoseconds of each time, int64."""
        ...

    def run_once(self, plan: Plan) -> int:
        """Run the plan; nanoseconds."""
        ...


class Simulated:
    """Runs nothing, and says how long it would have taken."""

    def __init__(self, latency: LatencyModel) -> None:
        self.latency = latency

    def run(self, plan: Plan, k: int) -> Nanoseconds:
        return self.latency.durations(plan, k)

    def run_once(self, plan: Plan) -> int:
        return self.latency.duration(plan)
