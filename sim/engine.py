"""The loop of one replica: schedule, run, commit."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import NamedTuple, Protocol, cast

import simpy

from sim.branching import Branching, Separately
from sim.executor import Executor
from sim.latency import LONGEST_STRETCH
from sim.moment import Kind, Moment
from sim.plan import NO_TAKES, Departure, Fork, Plan, Takes
from sim.request import Request, Sequence
from sim.scheduling.face import ONE_STEP, ForkingScheduler, Scheduler
from sim.world import World

MOST_PREEMPTIONS = 10_000
"""Of one request. More, and nobody gets anywhere any more."""


class Observer(Protocol):
    """Sees everything that happens on a replica and changes none of it."""

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None: ...

    def refused(self, request: Request, reason: str, now_ns: int) -> None: ...

    def began(self, plan: Plan, now_ns: int) -> None:
        """A plan was made, and starts to run."""
        ...

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        """The plan has run, once for each of these ends, its decodes taking these blocks
        after the first step; nothing was let go yet."""
        ...

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        """These sequences have begun, each with a token of the step that just ran."""
        ...

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        """These answers are complete, or given up, and their blocks free."""
        ...


class Engine:
    """Steps through simulated time, one plan after another, idle while nobody is there.

    Where the scheduler promises that a plan would be decided again, its repetitions are run
    as one stretch: one event at its end. An arrival that could change the decision cuts the
    stretch at the first step end at or after it. What a stretch does is applied when it
    ends, so a cut has nothing to undo.
    """

    def __init__(
        self,
        env: simpy.Environment,
        *,
        scheduler: Scheduler,
        executor: Executor,
        world: World,
        observers: list[Observer],
        branching: Branching | None = None,
        replica: int = 0,
    ) -> None:
        self.scheduler = scheduler
        self.replica = replica
        self.steps = 0
        self.decisions = 0
        self.events = 0
        """SimPy events that this engine cost, those of arrivals aside."""
        self.outstanding = 0
        """Answers that requests accepted here still wait for: what a router may read."""
        self._env = env
        self._executor = executor
        self._world = world
        self._observers = observers
        self._branching = branching or Separately()
        self._awake = False
        self._stretch: _Stretch | None = None
        self._stretch_end: Moment | None = None

    def submit(self, request: Request, *, index: int) -> None:
        """A request arrives now, as the index-th of the trace."""
        now_ns = int(self._env.now)
        reason = self._world.refusal(request) or self._branching.refusal(request)
        if reason is not None:
            for observer in self._observers:
                observer.refused(request, reason, now_ns)
            return
        for sequence in self._branching.arriving(request, index=index):
            self.outstanding += sequence.width
            answer_tokens = self._world.expect(sequence, request.output_tokens)
            self.scheduler.add(sequence)
            for observer in self._observers:
                observer.arrived(sequence, request, answer_tokens, now_ns)
        if not self._awake:
            self._awake = True
            self.events += 1
            Moment(self._env, now_ns, self._wake_up, kind=Kind.WAKE_UP, replica=self.replica)
        elif self._stretch is not None and self._stretch.cut_on_arrival:
            self._cut(self._stretch, now_ns)

    def _wake_up(self, _: simpy.Event) -> None:
        self._start(int(self._env.now))

    def _start(self, now_ns: int) -> None:
        """Decide the next step, and see for how long the decision stands."""
        scheduler = self.scheduler
        plan = scheduler.schedule(now_ns)
        if plan.is_empty and not plan.preempted:
            raise Stalled(self.replica, now_ns, scheduler)
        for departure in plan.preempted:
            if departure.sequence.preemptions > MOST_PREEMPTIONS:
                raise Livelocked(self.replica, now_ns, departure.sequence)
        plan.step = self.steps
        self.decisions += 1
        for observer in self._observers:
            observer.began(plan, now_ns)
        once = self._branching.may_part(plan)
        k, until_ns, cut_on_arrival = ONE_STEP if once else scheduler.stable_for(plan)
        if k > 1:
            k = min(k, self._world.steps_left(plan), LONGEST_STRETCH)
        ends_ns = list(accumulate(self._executor.run(plan, k), initial=now_ns))
        del ends_ns[0]
        if until_ns is not None:
            del ends_ns[1 + bisect_left(ends_ns, until_ns) :]
        self._run(_Stretch(plan, now_ns, ends_ns, cut_on_arrival))

    def _run(self, stretch: _Stretch) -> None:
        """Wait for the end of this stretch, and of no other."""
        self._stretch = stretch
        self.events += 1
        self._stretch_end = Moment(
            self._env,
            stretch.ends_ns[-1],
            self._end,
            kind=Kind.STEP_END,
            replica=self.replica,
        )

    def _cut(self, stretch: _Stretch, now_ns: int) -> None:
        """End the stretch with the step that is running."""
        steps = 1 + bisect_left(stretch.ends_ns, now_ns)
        if steps < len(stretch.ends_ns):
            ends_ns = stretch.ends_ns[:steps]
            self._run(_Stretch(stretch.plan, stretch.start_ns, ends_ns, False))

    def _end(self, moment: simpy.Event) -> None:
        """The stretch is over, unless it was cut: then this moment is stale."""
        if moment is not self._stretch_end:
            return
        stretch, self._stretch = self._stretch, None
        assert stretch is not None
        plan, start_ns, ends_ns, _ = stretch
        k, now_ns = len(ends_ns), ends_ns[-1]
        self.steps += k
        takes = self.scheduler.extend_by(plan, k) if k > 1 else NO_TAKES
        for observer in self._observers:
            observer.ran(plan, start_ns, ends_ns, takes)
        forks, pruned = self._branching.part(plan)
        if forks:
            self._fork(forks, now_ns)
        ended = self._world.ended(plan, k)
        self.outstanding -= len(ended)
        if pruned:
            self._world.forget(pruned)
            ended = sorted([*ended, *pruned], key=lambda sequence: sequence.admission)
        departures = self.scheduler.commit(plan, ended)
        if departures:
            for observer in self._observers:
                observer.ended(departures, now_ns)
        if self.scheduler.has_work:
            self._start(now_ns)
        else:
            self._awake = False

    def _fork(self, forks: list[Fork], now_ns: int) -> None:
        scheduler = cast(ForkingScheduler, self.scheduler)
        for parent, child in forks:
            scheduler.fork(parent, child)
            self._world.fork(parent, child)
        for observer in self._observers:
            observer.forked(forks, now_ns)


class _Stretch(NamedTuple):
    """A plan that runs once or several times over."""

    plan: Plan
    start_ns: int
    ends_ns: list[int]
    """When each time ends."""
    cut_on_arrival: bool


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
