"""What the engine asks of a scheduler. `check_scheduler` tests an implementation."""

from __future__ import annotations

from typing import Protocol

from sim.kv.cache import KVCache
from sim.moves import Takes
from sim.plan import Departure, Plan
from sim.request import Sequence


class Scheduler(Protocol):
    """Decides what each step computes. Owns the queue, the running list and the cache.

    The engine's turn is: `schedule`, run the plan, `commit`; arrivals come in between
    through `add`. A scheduler reads no clock: it is given `now_ns`.
    """

    @property
    def kv(self) -> KVCache: ...

    @property
    def running(self) -> list[Sequence]:
        """In admission order. O(batch) where it is made on demand."""
        ...

    @property
    def num_running(self) -> int: ...

    @property
    def has_work(self) -> bool:
        """Is anyone waiting or running?"""
        ...

    @property
    def num_waiting(self) -> int: ...

    def add(self, sequence: Sequence) -> None:
        """Queue a request that has arrived."""
        ...

    def schedule(self, now_ns: int) -> Plan:
        """Decide the next step; its tokens count as computed, its blocks are taken and
        published from here on. An empty plan means that nobody can run."""
        ...

    def stable_for(self, plan: Plan) -> tuple[int, int | None, bool]:
        """(steps, until_ns, cut_on_arrival): the plan would be decided again, unchanged, for
        so many steps (this one included), while steps start before `until_ns` (None: for
        ever), and, if the flag is set, until a request arrives. (1, None, True) promises
        nothing and is always right."""
        ...

    def extend_by(self, plan: Plan, k: int) -> Takes:
        """The plan ran k times instead of once: count the tokens of the times before the last
        as given, and take and publish what the decodes need in the k - 1 further steps, step
        by step. Returns who took when."""
        ...

    def commit(self, plan: Plan, ended: list[Sequence]) -> list[Departure]:
        """Append the tokens of the plan's step, or of the last of its repetitions, and let
        go of the `ended` sequences, in that order."""
        ...

    def check(self) -> None:
        """Raise AssertionError where the books do not balance. Slow."""
        ...


class ForkingScheduler(Scheduler, Protocol):
    """A scheduler whose sequences can part."""

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """The step that just ran gives `child` a token, too: from here on it runs beside its
        parent, of which it shares everything. Comes before `commit` of that step."""
        ...


ONE_STEP = 1, None, True
"""What `stable_for` says where nothing is promised."""


class OneStep:
    """For schedulers that promise nothing: every step is decided anew. Always right."""

    def stable_for(self, plan: Plan) -> tuple[int, int | None, bool]:
        return ONE_STEP

    def extend_by(self, plan: Plan, k: int) -> Takes:
        raise AssertionError("nobody promised that the plan repeats")
