"""Our own run, written down as a recorded one: step by step, stretches unrolled."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import replace

from experiments.recorded import RecordedStep
from sim.moves import Takes
from sim.observer import Observer
from sim.parting import Fork
from sim.plan import Departure, Plan
from sim.request import Request, Sequence
from sim.scheduling.face import Scheduler


class Reached(Exception):
    """The step that a logbook was to stop at has been decided."""


class Logbook(Observer):
    """An observer of one replica that fills `steps`, in the form of a recording: a row for each
    call of the scheduler, or repetition of its decision.

    With `stop_at`, raises Reached when that step has been decided, so that one can look at
    queues and pool as they are then.
    """

    def __init__(self, scheduler: Scheduler, *, stop_at: int | None = None) -> None:
        self.steps: list[RecordedStep] = []
        self.scheduler = scheduler
        self._stop_at = stop_at
        self._known_blocks: dict[Sequence, int] = {}
        self._arrivals_ns: list[int] = []
        """Since the latest plan was made."""
        self._in_flight: deque[RecordedStep] = deque()
        self._landed: RecordedStep | None = None
        """The step that ended last."""

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None:
        self._known_blocks[sequence] = 0
        self._arrivals_ns.append(now_ns)

    def began(self, plan: Plan, now_ns: int) -> None:
        scheduler = self.scheduler
        self._arrivals_ns.clear()
        for departure in plan.preempted:
            self._known_blocks[departure.sequence] = 0
        rows = plan.rows()
        gained = {row.sequence.id: self._gained(row.sequence) for row in rows}
        step = RecordedStep(
            start_ns=now_ns,
            rows=[(row.sequence.id, row.n, row.computed_before) for row in rows],
            admitted=[(seq.id, seq.preemptions > 0, hit) for seq, hit, _ in plan.admitted],
            preempted=[departure.sequence.id for departure in plan.preempted],
            finished=[],
            free=scheduler.kv.free_blocks,
            running=scheduler.num_running,
            waiting=scheduler.num_waiting,
            blocks={id_: blocks for id_, blocks in gained.items() if blocks},
        )
        self.steps.append(step)
        self._in_flight.append(step)
        if len(self.steps) - 1 == self._stop_at:
            raise Reached

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        self._landed = self._in_flight.popleft()
        self._landed.end_ns = ends_ns[0]
        if len(ends_ns) > 1:
            self._unroll(plan, ends_ns, takes)
        self._look_around(self._landed)

    def _look_around(self, landed: RecordedStep) -> None:
        """How things are after the step; who came while it ran is not seen yet."""
        scheduler = self.scheduler
        landed.free_end = scheduler.kv.free_blocks
        landed.running = scheduler.num_running
        landed.waiting = scheduler.num_waiting - len(self._arrivals_ns)

    def _unroll(self, plan: Plan, ends_ns: list[int], takes: Takes) -> None:
        """Write down the steps that repeated the plan's first."""
        size = self.scheduler.kv.block_size
        gained = {sequence.id: iter(self._gained(sequence)) for sequence in plan.decodes}
        taken = dict(zip(takes.offsets, takes.blocks, strict=True))
        waiting = self.steps[-1].waiting
        assert waiting is not None
        self.steps[-1].free_end = self.steps[-1].free
        for offset in range(1, len(ends_ns)):
            last = self.steps[-1]
            rows = [(id_, n, before + 1) for id_, n, before in last.rows]
            free = last.free - taken.get(offset, 0)
            self.steps.append(
                replace(
                    last,
                    start_ns=ends_ns[offset - 1],
                    rows=rows,
                    free=free,
                    free_end=free,
                    waiting=waiting + bisect_right(self._arrivals_ns, ends_ns[offset - 1]),
                    blocks={id_: [next(gained[id_])] for id_, _, at in rows if at % size == 0},
                    end_ns=ends_ns[offset],
                )
            )
        self._landed = self.steps[-1]
        # Whom the steps before the last have seen.
        del self._arrivals_ns[: bisect_right(self._arrivals_ns, ends_ns[-2])]

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        for _, child in forks:
            self._known_blocks[child] = len(child.blocks)

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        assert self._landed is not None
        self._landed.finished = [departure.sequence.id for departure in departures]
        self._look_around(self._landed)

    def _gained(self, sequence: Sequence) -> list[int]:
        """Blocks of the sequence's table that are not written down yet."""
        known = self._known_blocks[sequence]
        self._known_blocks[sequence] = len(sequence.blocks)
        return sequence.blocks[known:]
