"""Runs in which nobody gets anywhere: found out, and told."""

from __future__ import annotations

from sim.plan import Plan
from sim.request import Sequence
from sim.scheduling.face import Scheduler

MOST_PREEMPTIONS = 10_000
"""Of one request. More, and nobody gets anywhere any more."""


class Watchdog:
    """Looks at every plan that is empty or preempts."""

    def __init__(self, scheduler: Scheduler, *, replica: int, depth: int) -> None:
        self._scheduler = scheduler
        self._replica = replica
        self._depth = depth
        self._idle_plans = 0
        """Empty plans in a row, with nothing in flight before them, since"""
        self._idle_since = 0
        """this many steps had been planned."""

    def see(self, plan: Plan, now_ns: int, *, steps_in_flight: int) -> None:
        """Raise Stalled or Livelocked where it is time to give up."""
        for departure in plan.preempted:
            if departure.sequence.preemptions > MOST_PREEMPTIONS:
                raise Livelocked(self._replica, now_ns, departure.sequence)
        idle = plan.is_idle and not steps_in_flight
        if not idle or plan.step != self._idle_since:
            self._idle_plans, self._idle_since = 0, plan.step
        self._idle_plans += idle
        # Of several batches in flight, an empty one may be due before anybody can run.
        if self._idle_plans >= self._depth:
            raise Stalled(self._replica, now_ns, self._scheduler)


class Stalled(RuntimeError):
    """Requests wait and nobody can run: a scheduler's or a configuration's mistake."""

    def __init__(self, replica: int, now_ns: int, scheduler: Scheduler) -> None:
        super().__init__(
            f"replica {replica} stalled at {now_ns} ns: {scheduler.num_waiting} requests wait,"
            f" {scheduler.num_running} run, {scheduler.kv.free_blocks} blocks are free,"
            f" and the scheduler plans nothing"
        )


class Livelocked(RuntimeError):
    """Requests preempt each other for ever."""

    def __init__(self, replica: int, now_ns: int, sequence: Sequence) -> None:
        super().__init__(
            f"replica {replica} makes no progress at {now_ns} ns: request {sequence.id} was"
            f" preempted {sequence.preemptions} times and has {sequence.generated} tokens."
            " Give the KV cache more blocks, or let scheduler_reserve_full_isl be true"
        )
