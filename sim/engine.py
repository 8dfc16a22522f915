"""The loop of one replica: schedule, run, commit, with one batch in flight or several."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import cast

import simpy

from sim.branching import Branching, Separately
from sim.executor import Executor
from sim.flight import EMPTY_STEP_SLEEP_NS, Flight, Stretch
from sim.latency import LONGEST_STRETCH
from sim.moment import Kind, Moment
from sim.moves import NO_TAKES
from sim.observer import Observer
from sim.plan import Plan
from sim.request import Request, Sequence
from sim.scheduling.face import ONE_STEP, ForkingScheduler, Scheduler
from sim.stuck import Watchdog
from sim.world import World


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
        self._watchdog = Watchdog(scheduler, replica=replica, depth=depth)
        self._sleep_ns = empty_step_sleep_ns
        self._awake = False
        self._in_flight = Flight(depth=depth, stages=stages)
        self._landing: Moment | None = None
        """When the oldest one ends."""
        self._rests = False
        """The latest turn put nothing on the device."""

    def submit(self, request: Request, *, index: int) -> None:
        """A request arrives now, at its `arrival_ns`, as the index-th of the trace."""
        now_ns = request.arrival_ns
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
            self._look_again(now_ns)
        elif self._in_flight and self._in_flight[0].cut_on_arrival:
            self._cut(self._in_flight[0], now_ns)

    def _turn(self, now_ns: int) -> None:
        """Plan until there is no more room in flight, then wait for the oldest batch."""
        in_flight, self._rests = self._in_flight, True
        while self.scheduler.has_work:
            self._rests = self._plan(now_ns)
            if in_flight.is_full():
                break
            if self._rests and self.scheduler.has_work:
                self._look_again(now_ns, self._sleep_ns)
                return
        if in_flight:
            self._wait(in_flight[0], now_ns)
        else:
            self._awake = False

    def _look_again(self, now_ns: int, delay_ns: int = 0) -> None:
        def turn(_: simpy.Event) -> None:
            self._turn(now_ns + delay_ns)

        self.events += 1
        Moment(self._env, delay_ns, turn, Kind.WAKE_UP + self.replica)

    def _plan(self, now_ns: int) -> bool:
        """Decide the next step, see for how long the decision stands, and put it in flight. Is it
        an empty one?"""
        in_flight, plan = self._in_flight, self.scheduler.schedule(now_ns)
        plan.step = self.steps + (in_flight.steps() if in_flight else 0)
        is_empty = plan.is_empty
        if is_empty or plan.preempted:
            self._watchdog.see(plan, now_ns, steps_in_flight=in_flight.steps())
        self.decisions += 1
        for observer in self._observers:
            observer.began(plan, now_ns)
        if is_empty or in_flight.depth > 1:
            in_flight.send(plan, now_ns, 0 if is_empty else self._executor.run(plan, 1)[0])
            return is_empty
        once = self._branching.forks and self._branching.may_part(plan)
        k, until_ns, cut_on_arrival = ONE_STEP if once else self.scheduler.stable_for(plan)
        if k > 1:
            k = min(k, self._world.steps_left(plan), LONGEST_STRETCH)
        _, *ends_ns = accumulate(self._executor.run(plan, k), initial=now_ns)
        if until_ns is not None:
            del ends_ns[1 + bisect_left(ends_ns, until_ns) :]
        in_flight.append(Stretch(plan, now_ns, ends_ns, cut_on_arrival))
        return False

    def _wait(self, stretch: Stretch, now_ns: int) -> None:
        """Wait for the end of this stretch, the oldest, and of no other."""
        end_ns = stretch.ends_ns[-1]
        if end_ns < now_ns:  # tokens that came while the engine slept are there when it wakes
            stretch.ends_ns[-1] = end_ns = now_ns
        self.events += 1
        self._landing = Moment(self._env, end_ns - now_ns, self._land, Kind.STEP_END + self.replica)

    def _cut(self, stretch: Stretch, now_ns: int) -> None:
        """End the stretch with the step that is running."""
        steps = 1 + bisect_left(stretch.ends_ns, now_ns)
        if steps < len(stretch.ends_ns):
            del stretch.ends_ns[steps:]
            self._wait(stretch, now_ns)

    def _land(self, moment: simpy.Event) -> None:
        """The oldest stretch is over, unless it was cut: then this moment is stale."""
        if moment is not self._landing:
            return
        stretch = self._in_flight.popleft()
        plan, ends_ns = stretch.plan, stretch.ends_ns
        k, now_ns = len(ends_ns), ends_ns[-1]
        self.steps += k if stretch.is_step else 0
        takes = self.scheduler.extend_by(plan, k) if k > 1 else NO_TAKES
        for observer in self._observers:
            observer.ran(plan, stretch.start_ns, ends_ns, takes)
        pruned = self._part(plan, now_ns) if self._branching.forks else []
        ended = self._world.ended(plan, k)
        self.outstanding -= len(ended)
        if pruned:
            self._world.forget(pruned)
            ended = sorted([*ended, *pruned], key=lambda sequence: sequence.admission)
        departures = self.scheduler.commit(plan, ended)
        if departures:
            for observer in self._observers:
                observer.ended(departures, now_ns)
        if self._rests and self.scheduler.has_work:
            self._look_again(now_ns, self._sleep_ns)
        else:
            self._turn(now_ns)

    def _part(self, plan: Plan, now_ns: int) -> list[Sequence]:
        """Fork whom the step's tokens part; returns who is given up."""
        forks, pruned = self._branching.part(plan)
        scheduler = cast(ForkingScheduler, self.scheduler)
        for parent, child in forks:
            scheduler.fork(parent, child)
            self._world.fork(parent, child)
        if forks:
            for observer in self._observers:
                observer.forked(forks, now_ns)
        return pruned
