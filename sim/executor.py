"""Who runs a plan: the latency model's arithmetic, or real kernels. Only time differs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from sim.latency import LatencyModel
from sim.moves import Swap
from sim.plan import Plan


class Executor(Protocol):
    def run(self, plan: Plan, k: int) -> list[int]:
        """Run the plan up to k times, at least once; nanoseconds of each time. Swaps are made
        once, before the first; they may be all there is to do."""
        ...


class Simulated:
    """Runs nothing, and says how long it would have taken."""

    def __init__(self, latency: LatencyModel) -> None:
        self.latency = latency

    def run(self, plan: Plan, k: int) -> list[int]:
        if not plan.swaps:
            return self.latency.durations(plan, k)
        swap_ns = int(self.latency.swap(*count_swapped(plan.swaps)))
        if not (plan.chunks or len(plan.decodes)):
            return [swap_ns]
        first_ns, *rest = self.latency.durations(plan, k)
        return [first_ns + swap_ns, *rest]


def count_swapped(swaps: Iterable[Swap]) -> tuple[int, int]:
    """Blocks that go to the host, and blocks that come back."""
    moved = [0, 0]
    for swap in swaps:
        moved[not swap.out] += len(swap.blocks)
    return moved[0], moved[1]
