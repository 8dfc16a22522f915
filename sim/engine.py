"""The loop of one replica: schedule, run, commit."""

from __future__ import annotations

from typing import Protocol

import simpy

from sim.executor import Executor
from sim.moment import Kind, Moment
from sim.plan import Departure, Plan
from sim.request import Request, Sequence
from sim.scheduling.face import Scheduler
from sim.world import World


class Observer(Protocol):
    """Sees everything that happens on a replica and changes none of it."""

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None: ...

    def refused(self, request: Request, reason: str, now_ns: int) -> None: ...

    def began(self, plan: Plan, now_ns: int) -> None:
        """A plan was made, and starts to run."""
        ...

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int]) -> None:
        """The plan has run once for each of these ends; nothing was let go yet."""
        ...

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        """These answers are complete, and their blocks free."""
        ...


class Engine:
    """Steps through simulated time, one plan after another, idle while nobody is there."""

    def __init__(
        self,
        env: simpy.Environment,
        *,
        scheduler: Scheduler,
        executor: Executor,
        world: World,
        observers: list[Observer],
        replica: int = 0,
    ) -> None:
        self.scheduler = scheduler
        self.replica = replica
        self.steps = 0
        self.outstanding = 0
        """Requests accepted and not yet answered: what a router may read."""
        self._env = env
        self._executor = executor
        self._world = world
        self._observers = observers
        self._awake = False

    def submit(self, request: Request, *, index: int) -> None:
        """A request arrives now, as the index-th of the trace."""
        now_ns = int(self._env.now)
        reason = self._world.refusal(request)
        if reason is not None:
            for observer in self._observers:
                observer.refused(request, reason, now_ns)
            return
        sequence = Sequence.of(request, index=index)
        self.outstanding += 1
        answer_tokens = self._world.answer_tokens(request)
        self._world.expect(sequence, answer_tokens)
        self.scheduler.add(sequence)
        for observer in self._observers:
            observer.arrived(sequence, request, answer_tokens, now_ns)
        if not self._awake:
            self._awake = True
            Moment(self._env, now_ns, self._start, kind=Kind.WAKE_UP, replica=self.replica)

    def _start(self) -> None:
        now_ns = int(self._env.now)
        plan = self.scheduler.schedule(now_ns)
        if plan.is_empty:
            raise Stalled(self.replica, now_ns, self.scheduler)
        plan.step = self.steps
        for observer in self._observers:
            observer.began(plan, now_ns)
        (duration_ns,) = self._executor.run(plan, 1).tolist()
        Moment(
            self._env,
            now_ns + duration_ns,
            lambda: self._end(plan, now_ns),
            kind=Kind.STEP_END,
            replica=self.replica,
        )

    def _end(self, plan: Plan, start_ns: int) -> None:
        now_ns = int(self._env.now)
        self.steps += 1
        for observer in self._observers:
            observer.ran(plan, start_ns, [now_ns])
        ended = self._world.ended(plan, 1)
        self.outstanding -= len(ended)
        departures = self.scheduler.commit(plan, 1, ended)
        for observer in self._observers:
            observer.ended(departures, now_ns)
        if self.scheduler.has_work:
            self._start()
        else:
            self._awake = False


class Stalled(RuntimeError):
    """Requests wait and nobody can run: a scheduler's or a configuration's mistake."""

    def __init__(self, replica: int, now_ns: int, scheduler: Scheduler) -> None:
        super().__init__(
            f"replica {replica} stalled at {now_ns} ns: {scheduler.num_waiting} requests wait,"
            f" {len(scheduler.running)} run, {scheduler.kv.free_blocks} blocks are free,"
            f" and the scheduler plans nothing"
        )
