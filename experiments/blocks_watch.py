"""Runs a config up to the moments at which one wants to look at a replica's memory."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from experiments.blocks_snapshot import Snapshot, photograph
from experiments.build import build_latency, build_simulation
from experiments.build_trace import build_trace
from experiments.config import Config, check_repeatable
from experiments.custom import find_class
from experiments.custom_parts import CACHE
from experiments.deployment import Deployment, resolve
from experiments.engine_config import CustomCache, Engine
from experiments.errors import ConfigError
from experiments.follow import check_id, check_one_batch
from sim.kv.paged import Paged
from sim.latency import LatencyModel
from sim.moves import Takes
from sim.observer import Observer
from sim.parting import Fork
from sim.plan import Departure, Plan
from sim.request import Request, Sequence
from sim.scheduling.face import Scheduler
from traces.schema import Trace

See = Callable[[Snapshot], None]


class Seen(Exception):
    """Nothing that is still to come is of interest."""


class Watch(Observer):
    """An observer of one replica, run step by step, that shows its memory to `see`: at some
    times, or in one step. Raises Seen after the last of them.

    A time within a step shows that step; a time at which one step ends and another starts
    shows the later one.
    """

    def __init__(
        self, scheduler: Scheduler, see: See, *, times: Iterable[int] = (), step: int | None = None
    ) -> None:
        self._scheduler = scheduler
        self._see = see
        self._times = deque(times)
        """Still to come, earliest first."""
        self._step = step
        self._final_tokens: dict[int, int] = {}
        """Of everybody here: the last token of an answer is never computed."""
        self._in_step = False
        self._arrivals_ns: list[int] = []
        """Since the latest plan was made."""

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None:
        if self._in_step:
            self._arrivals_ns.append(now_ns)
        else:
            while self._times and self._times[0] < now_ns:
                self._show(self._times.popleft(), step=None, waiting=0)
        self._final_tokens[sequence.index] = sequence.prompt_tokens + answer_tokens - 1

    def began(self, plan: Plan, now_ns: int) -> None:
        self._in_step = True
        self._arrivals_ns.clear()

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        """Nothing was let go yet: memory is as it was while the step ran."""
        (end_ns,) = ends_ns
        self._in_step = False
        here = [start_ns] if plan.step == self._step else []
        while self._times and self._times[0] < end_ns:
            here.append(self._times.popleft())
        for at_ns in here:
            came_later = len(self._arrivals_ns) - bisect_right(self._arrivals_ns, at_ns)
            waiting = self._scheduler.num_waiting - came_later
            self._show(at_ns, step=plan.step, waiting=waiting)

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        for parent, child in forks:
            self._final_tokens[child.index] = self._final_tokens[parent.index]

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        for departure in departures:
            del self._final_tokens[departure.sequence.index]

    def close(self) -> None:
        """The run is over; from here on nobody comes."""
        while self._times:
            self._show(self._times.popleft(), step=None, waiting=0)

    def _show(self, at_ns: int, *, step: int | None, waiting: int) -> None:
        self._see(
            photograph(
                self._scheduler,
                at_ns=at_ns,
                step=step,
                waiting=waiting,
                final_tokens=self._final_tokens,
            )
        )
        if not self._times:
            raise Seen


class Census(Observer):
    """An observer of one replica that finds the first step in which most blocks are held, by
    everybody or by one request, and when the replica's last step ends."""

    def __init__(self, scheduler: Scheduler, *, request: str | None) -> None:
        self.fullest: int | None = None
        """The step; None where nobody ever held a block."""
        self.end_ns = 0
        self._scheduler = scheduler
        self._request = request
        self._sequence: Sequence | None = None
        self._most = 0

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None:
        if sequence.id == self._request:
            self._sequence = sequence

    def began(self, plan: Plan, now_ns: int) -> None:
        kv = self._scheduler.kv
        held = kv.num_blocks - 1 - kv.free_blocks
        if self._request is not None:
            held = 0 if self._sequence is None else len(self._sequence.blocks)
        if held > self._most:
            self._most, self.fullest = held, plan.step

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        self.end_ns = ends_ns[-1]

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        for _, child in forks:
            if child.id == self._request:
                self._sequence = child


@dataclass(frozen=True, slots=True)
class Theatre:
    """A config, ready to be run and watched as often as one likes, step by step."""

    deployment: Deployment
    latency: LatencyModel
    trace: Trace
    replica: int
    ids: list[str]
    """Of all requests, as they arrive."""
    several: frozenset[str]
    """Of those for more than one answer, or for a beam search."""
    last_arrival_ns: int
    notes: list[str]
    """What a user should know of deployment and trace."""

    @classmethod
    def of(cls, config: Config, *, replica: int = 0) -> Self:
        """Raises ConfigError for a replica that is not there, and what building raises."""
        if replica >= config.cluster.replicas:
            raise ConfigError(
                f"--replica: found {replica}; allowed: 0 to {config.cluster.replicas - 1}"
                " (cluster.replicas)"
            )
        check_one_batch(config.engine)
        _check_pool(config.engine)
        check_repeatable(config, wanted_by="a look at blocks, for which it runs twice")
        engine = config.engine.model_copy(update={"loop": "plain"})
        deployment = resolve(config.model_copy(update={"engine": engine}))
        latency, trace = build_latency(deployment), build_trace(config)
        ids, several, last_arrival_ns = [], set(), 0
        for request in trace:
            ids.append(request.id)
            if request.n > 1 or request.beam:
                several.add(request.id)
            last_arrival_ns = request.arrival_ns
        notes = [*deployment.notes]
        notes += [f"trace: {what}: {n:,}" for what, n in trace.notes.items() if n]
        at_ns = last_arrival_ns
        return cls(deployment, latency, trace, replica, ids, frozenset(several), at_ns, notes)

    def name_sequence(self, request: str) -> str:
        """What the map calls this request, or this answer to one for several: `1_r` is the
        second answer to `r`, and `r` alone stands for the first. Raises ConfigError."""
        if request in self.several:
            return f"0_{request}"
        branch, _, whole = request.partition("_")
        if not (branch.isdecimal() and whole in self.several):
            check_id(request, self.ids)
        return request

    def watch(
        self,
        see: See,
        *,
        times: Iterable[int] = (),
        step: int | None = None,
        beside: Iterable[Observer] = (),
    ) -> None:
        """Show the memory at these times (ascending), or in this step. Raises ConfigError where
        the run has no such step."""
        watches: list[Watch] = []

        def make(scheduler: Scheduler) -> Watch:
            chosen = len(watches) == self.replica
            watch = Watch(
                scheduler, see, times=times if chosen else (), step=step if chosen else None
            )
            watches.append(watch)
            return watch

        with suppress(Seen):
            steps = self._serve(make, beside)
            watches[self.replica].close()
            if step is not None:
                raise ConfigError(f"--step: found {step}; allowed: 0 to {steps - 1}")

    def count(self, *, request: str | None = None, beside: Iterable[Observer] = ()) -> Census:
        """Run to the end."""
        counts: list[Census] = []

        def make(scheduler: Scheduler) -> Census:
            counts.append(Census(scheduler, request=request))
            return counts[-1]

        self._serve(make, beside)
        return counts[self.replica]

    def _serve(self, make: Callable[[Scheduler], Observer], beside: Iterable[Observer]) -> int:
        """How many steps the replica ran, if nobody stopped it."""
        simulation = build_simulation(
            self.deployment, latency=self.latency, observers=beside, watch=make
        )
        simulation.serve(self.trace)
        return simulation.cluster.engines[self.replica].steps


def _check_pool(engine: Engine) -> None:
    """Raise ConfigError where memory is no pool of blocks."""
    kv_cache = engine.kv_cache
    is_pool = kv_cache.kind == "paged"
    if isinstance(kv_cache, CustomCache):
        is_pool = issubclass(find_class(kv_cache, at=CACHE).made_by, Paged)
    if not is_pool:
        raise ConfigError(
            f"engine.kv_cache.kind: found {kv_cache.kind}; allowed: paged, or custom with a"
            " subclass of sim.kv.paged.Paged, since a map shows blocks"
        )
