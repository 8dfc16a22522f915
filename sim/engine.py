"""The loop of one replica: schedule, run, commit, with one batch in flight or several."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import accumulate
from typing import NamedTuple, Protocol, cast

import simpy

from sim.branching import Branching, Separately
from sim.executor import Executor
from sim.latency import LONGEST_STRETCH
from sim.moment import Kind, Moment
from sim.plan import NO_TAKES, Departure, Fork, Plan, Takes
from sim.request import Request, Sequence
from sim.scheduling.face import ForkingScheduler, Scheduler
from sim.world import World

EMPTY_STEP_SLEEP_NS = 1_000_000

MOST_PREEMPTIONS = 10_000
"""Of one request. More, and nobody gets anywhere any more."""


class Observer(Protocol):
    """Sees everything that happens on a replica and changes none of it."""

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None: ...

    def refused(self, request: Request, reason: str, now_ns: int) -> None: ...

    def began(self, plan: Plan, now_ns: int) -> None:
        """A plan was made; it runs when those before it have. With several batches in flight it
        may be empty: then it takes no time, and is no step."""
        ...

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        """The plan has run, once for each of these ends, its decodes taking these blocks
        after the first step; nothing was let go yet. Plans come in the order in which they were
        made. The last end is now: when the tokens are there."""
        ...

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        """These sequences have begun, each with a token of the step that just ran."""
        ...

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        """These answers are complete, or given up, and their blocks free."""
        ...


class Engine:
    """Steps through simulated time, one plan after another, idle while nobody is there.

    Up to `depth` batches are in flight at once: the next one is planned as soon as there is room
    for it, while those before it run. One after another is depth 1; vLLM's asynchronous
    scheduling is depth 2; p pipeline stages, each as long as the others, are filled by depth p,
    or p + 1 with asynchronous scheduling. A batch may then be empty, because everybody is in
    flight: it costs nothing but its place, and `empty_step_sleep_ns` (vLLM's `time.sleep(0.001)`
    after a step that ran nothing) until the engine looks again.

    With one batch in flight a decision may stand for a while. Where the scheduler promises that a
    plan would be decided again, its repetitions are run as one stretch: one event at its end. An
    arrival that could change the decision cuts the stretch at the first step end at or after it.
    What a stretch does is applied when it ends, so a cut has nothing to undo.
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
        depth: int = 1,
        stages: int = 1,
        empty_step_sleep_ns: int = EMPTY_STEP_SLEEP_NS,
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
        self._depth = depth
        self._stages = stages
        self._sleep_ns = empty_step_sleep_ns
        self._awake = False
        self._in_flight: deque[_Stretch] = deque()
        """The oldest first."""
        self._landing: Moment | None = None
        """When the oldest one ends."""
        self._rests = False
        """The latest turn put nothing on the device."""
        self._idle_plans = 0
        """Empty plans in a row, with nothing in flight before them."""

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
        elif self._in_flight and self._in_flight[0].cut_on_arrival:
            self._cut(self._in_flight[0], now_ns)

    def _wake_up(self, _: simpy.Event) -> None:
        self._turn(int(self._env.now))

    def _turn(self, now_ns: int) -> None:
        """Plan until there is no more room in flight, then wait for the oldest batch."""
        self._rests = True
        while self.scheduler.has_work:
            plan = self._plan(now_ns)
            self._rests = plan.is_empty
            if len(self._in_flight) == self._depth:
                break
            if plan.is_empty and self.scheduler.has_work:
                self._look_again(now_ns + self._sleep_ns)
                return
        if self._in_flight:
            self._wait(self._in_flight[0], now_ns)
        else:
            self._awake = False

    def _look_again(self, at_ns: int) -> None:
        self.events += 1
        Moment(self._env, at_ns, self._wake_up, kind=Kind.WAKE_UP, replica=self.replica)

    def _plan(self, now_ns: int) -> Plan:
        """Decide the next step, and see for how long the decision stands."""
        scheduler = self.scheduler
        plan = scheduler.schedule(now_ns)
        self._see_progress(plan, now_ns)
        plan.step = self.steps + sum(not each.plan.is_empty for each in self._in_flight)
        self.decisions += 1
        for observer in self._observers:
            observer.began(plan, now_ns)
        run = self._repeat if self._depth == 1 and not plan.is_empty else self._send
        self._in_flight.append(run(plan, now_ns))
        return plan

    def _repeat(self, plan: Plan, now_ns: int) -> _Stretch:
        """Run a plan for as long as the decision stands."""
        k, until_ns, cut_on_arrival = self.scheduler.stable_for(plan)
        if k > 1:
            k = min(k, self._world.steps_left(plan), LONGEST_STRETCH)
        ends_ns = list(accumulate(self._executor.run(plan, k), initial=now_ns))
        del ends_ns[0]
        if until_ns is not None:
            del ends_ns[1 + bisect_left(ends_ns, until_ns) :]
        return _Stretch(plan, now_ns, ends_ns, cut_on_arrival)

    def _send(self, plan: Plan, now_ns: int) -> _Stretch:
        """Send a batch through the pipeline stages, behind those in flight."""
        ahead = [each.leaves_ns for each in self._in_flight if each.leaves_ns]
        left_ns = ahead[-1] if ahead else (now_ns,) * self._stages
        if plan.is_empty:
            return _Stretch(plan, now_ns, [max(now_ns, left_ns[-1])], False)
        start_ns = at_ns = max(now_ns, left_ns[0])
        (duration_ns,) = self._executor.run(plan, 1)
        leaves_ns = []
        for free_ns in left_ns:
            at_ns = max(at_ns, free_ns) + duration_ns // self._stages
            leaves_ns.append(at_ns)
        return _Stretch(plan, start_ns, [at_ns], False, tuple(leaves_ns))

    def _see_progress(self, plan: Plan, now_ns: int) -> None:
        for departure in plan.preempted:
            if departure.sequence.preemptions > MOST_PREEMPTIONS:
                raise Livelocked(self.replica, now_ns, departure.sequence)
        busy = any(not each.plan.is_empty for each in self._in_flight)
        idle = plan.is_empty and not plan.preempted and not busy
        self._idle_plans = self._idle_plans + 1 if idle else 0
        # Of several batches in flight, an empty one may be due before anybody can run.
        if self._idle_plans >= self._depth:
            raise Stalled(self.replica, now_ns, self.scheduler)

    def _wait(self, stretch: _Stretch, now_ns: int) -> None:
        """Wait for the end of this stretch, the oldest, and of no other."""
        self.events += 1
        self._landing = Moment(
            self._env,
            max(now_ns, stretch.ends_ns[-1]),
            self._land,
            kind=Kind.STEP_END,
            replica=self.replica,
        )

    def _cut(self, stretch: _Stretch, now_ns: int) -> None:
        """End the stretch with the step that is running."""
        steps = 1 + bisect_left(stretch.ends_ns, now_ns)
        if steps < len(stretch.ends_ns):
            cut = _Stretch(stretch.plan, stretch.start_ns, stretch.ends_ns[:steps], False)
            self._in_flight[0] = cut
            self._wait(cut, now_ns)

    def _land(self, moment: simpy.Event) -> None:
        """The oldest stretch is over, unless it was cut: then this moment is stale."""
        if moment is not self._landing:
            return
        stretch, now_ns = self._in_flight.popleft(), int(self._env.now)
        stretch.ends_ns[-1] = now_ns
        if stretch.plan.is_empty:
            for observer in self._observers:
                observer.ran(stretch.plan, now_ns, stretch.ends_ns, NO_TAKES)
        else:
            self._take_in(stretch, now_ns)
        if self._rests and self.scheduler.has_work:
            self._look_again(now_ns + self._sleep_ns)
        else:
            self._turn(now_ns)

    def _take_in(self, stretch: _Stretch, now_ns: int) -> None:
        """Give what ran its tokens, and let go of answers that end with them."""
        plan, start_ns, ends_ns, _, _ = stretch
        k = len(ends_ns)
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
    leaves_ns: tuple[int, ...] = ()
    """When it leaves each pipeline stage; nothing where it is not one of several in flight."""


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
