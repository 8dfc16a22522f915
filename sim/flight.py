"""Batches in flight: decided, and not yet back."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from sim.plan import Plan

EMPTY_STEP_SLEEP_NS = 1_000_000
"""How long vLLM's engine sleeps after a step in which nobody could run."""


@dataclass(slots=True)
class Stretch:
    """A plan that runs once or several times over."""

    plan: Plan
    start_ns: int
    ends_ns: list[int]
    """When each time ends."""
    cut_on_arrival: bool
    is_step: bool = True
    """Not where the plan is idle."""
    leaves_ns: tuple[int, ...] = ()
    """When it leaves each pipeline stage; nothing where it is not one of several in flight."""


class Flight(deque[Stretch]):
    """Up to `depth` batches, the oldest first, in a pipeline of equal stages.

    A batch enters a stage when it has left the one before and the batch ahead has left that
    stage. An empty one holds no stage, but its place: it is back as soon as those ahead are.
    """

    def __init__(self, *, depth: int, stages: int) -> None:
        super().__init__()
        self.depth = depth
        self.stages = stages

    def is_full(self) -> bool:
        return len(self) == self.depth

    def steps(self) -> int:
        """How many of them are steps."""
        return sum(batch.is_step for batch in self)

    def send(self, plan: Plan, now_ns: int, duration_ns: int) -> None:
        """Add a batch behind the others; `duration_ns` is its time in all stages together, each
        of which takes an equal part, rounded down (0 for an empty one)."""
        ahead = [batch.leaves_ns for batch in self if batch.leaves_ns]
        left_ns = ahead[-1] if ahead else (now_ns,) * self.stages
        start_ns = max(now_ns, left_ns[0])
        if plan.is_empty:
            back_ns, is_step = max(now_ns, left_ns[-1]), not plan.is_idle
            self.append(Stretch(plan, start_ns, [back_ns], False, is_step))
            return
        at_ns, leaves_ns = now_ns, []
        for free_ns in left_ns:
            at_ns = max(at_ns, free_ns) + duration_ns // self.stages
            leaves_ns.append(at_ns)
        self.append(Stretch(plan, start_ns, [at_ns], False, leaves_ns=tuple(leaves_ns)))
