"""Small random worlds, and a way to run one: what the property tests and the law share.

Rare rules show in one world of a hundred, so the worlds are drawn to be awkward: arrivals on
a coarse grid that coincides with step ends, budgets of a few tokens, pools a few blocks
larger than the longest request, prompts that quote each other's answers in part, answers of
one token, two requests that give the same answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import simpy

from sim.beams import Searches
from sim.branching import Branching, ByForking, Separately
from sim.cluster import Cluster, LeastOutstanding, RoundRobin
from sim.engine import Engine
from sim.executor import Simulated
from sim.fast.steady import Steady, SteadyStatic
from sim.fast.vllm import FastVllm
from sim.kv.cache import KVCache
from sim.kv.contiguous import (
    Contiguous,
    Reserve,
    oracle_exact,
    oracle_pow2,
    reserve_max,
    reserve_now,
)
from sim.kv.paged import Paged
from sim.kv.prefix import PrefixCached
from sim.kv.space import Buddies, Holes, Space
from sim.kv.swap import HostTier, Swapped, SwappedPrefix
from sim.latency import Counts, Linear, Nanoseconds
from sim.observer import Observer
from sim.parting import Fork
from sim.plan import Departure, Plan
from sim.record.recorder import Recorder
from sim.record.records import COLUMNS, Records
from sim.request import Request
from sim.scheduling.in_flight import BatchesInFlight
from sim.scheduling.orders import Fcfs
from sim.scheduling.priority import Priority
from sim.scheduling.static import StaticBatching
from sim.scheduling.versions import VERSIONS
from sim.scheduling.vllm import Limits, VllmScheduler
from sim.world import CalendarWorld, World

BLOCK_SIZES = (1, 2, 3, 4, 5, 8, 16, 32)
SPACES: dict[str, Callable[[int], Space]] = {
    "first_fit": lambda size: Holes(size, best=False),
    "best_fit": lambda size: Holes(size, best=True),
    "buddy": Buddies,
}
RESERVES: dict[str, Callable[[World, int], Reserve]] = {
    "max_model_len": lambda world, longest: reserve_max(longest),
    "oracle_pow2": lambda world, longest: oracle_pow2(world.answer_tokens, longest),
    "oracle_exact": lambda world, longest: oracle_exact(world.answer_tokens),
    "prompt": lambda world, longest: reserve_now,
}


@dataclass(frozen=True)
class SmallWorld:
    """Everything that a run depends on."""

    requests: list[Request]
    limits: Limits
    num_blocks: int
    block_size: int
    max_model_len: int
    prefix_caching: bool
    priority: bool
    version: str
    latency: tuple[int, int, int]
    replicas: int
    router: str
    asynchronous: bool = False
    stages: int = 1
    sleep_ns: int = 0
    forks: bool = False
    """What becomes of requests for several answers: one that forks, or several requests."""
    contiguous: tuple[str, str] | None = None
    """Of RESERVES and SPACES, over `num_blocks` slots; None for a paged cache."""
    static: bool = False
    host_blocks: int | None = None
    """Of host memory to swap to; None where victims are computed anew."""

    @property
    def suits_fast_vllm(self) -> bool:
        unruly = self.priority and VERSIONS[self.version].self_preemption_stops
        return not (unruly or self.forks or self.contiguous or self.static or self.depth > 1)

    def make_cache(self, world: World) -> KVCache:
        if self.contiguous:
            reserve, space = self.contiguous
            room = RESERVES[reserve](world, self.max_model_len)
            return Contiguous(SPACES[space](self.num_blocks), reserve=room)
        free_order = VERSIONS[self.version].free_order
        if self.host_blocks is not None:
            swapped = SwappedPrefix if self.prefix_caching else Swapped
            host = HostTier(self.host_blocks)
            return swapped(
                self.num_blocks, block_size=self.block_size, free_order=free_order, host=host
            )
        cache = PrefixCached if self.prefix_caching else Paged
        return cache(self.num_blocks, block_size=self.block_size, free_order=free_order)

    def policy(self, *, fast: bool) -> Callable[..., VllmScheduler | FastVllm]:
        if fast and self.suits_fast_vllm:
            return FastVllm
        if self.static:
            return SteadyStatic if fast else StaticBatching
        return Steady if fast else VllmScheduler

    @property
    def depth(self) -> int:
        return self.stages + self.asynchronous


@dataclass
class Trail(Observer):
    """An observer that keeps what the records leave out: physical blocks, in order."""

    replica: int
    entries: list[tuple[Any, ...]] = field(default_factory=list)

    def began(self, plan: Plan, now_ns: int) -> None:
        for departure in plan.preempted:
            self._note(now_ns, "preempt", departure)
        for sequence, *swap in plan.swaps:
            self.entries.append((self.replica, now_ns, "swap", sequence.id, repr(swap)))
        for sequence, hit_tokens, woken in plan.admitted:
            entry = (self.replica, now_ns, "admit", sequence.id, hit_tokens, woken)
            self.entries.append((*entry, tuple(sequence.blocks)))

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        for parent, child in forks:
            entry = (self.replica, now_ns, "fork", parent.id, child.id, tuple(child.blocks))
            self.entries.append(entry)

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        for departure in departures:
            self._note(now_ns, "finish", departure)

    def _note(self, now_ns: int, event: str, departure: Departure) -> None:
        sequence, computed, blocks, shared = departure
        entry = (self.replica, now_ns, event, sequence.id, computed, shared, tuple(blocks))
        self.entries.append(entry)


class Bumpy(Linear):
    """A clock that is no straight line: some contexts cost more than longer ones."""

    def durations(self, plan: Plan, k: int) -> list[int]:
        return [self._bend(straight) for straight in super().durations(plan, k)]

    def alone(self, computed_before: Counts, n: Counts) -> Nanoseconds:
        return self._bend(super().alone(computed_before, n))

    def _bend(self, straight: Any) -> Any:
        return straight + 7919 * straight % 13 if self.per_context_token_ns else straight


@dataclass
class Outcome:
    records: Records
    trails: list[Trail]
    engines: list[Engine]

    def content(self) -> dict[str, Any]:
        """Everything that must not depend on how the engine got there."""
        records = self.records
        tables = {
            (name, column): values.tolist()
            for name in COLUMNS
            for column, values in records.arrays(name).items()
        }
        return {
            **tables,
            "texts": records.texts(),
            "refused": [(request.id, reason) for request, reason in records.refused],
            "slot_ns": records.slot_ns,
            "blocks": [trail.entries for trail in self.trails],
            "free": [_free(engine.scheduler.kv) for engine in self.engines],
        }


def _free(kv: Any) -> Any:
    """The order in which blocks will go out, or the holes."""
    if isinstance(kv, Contiguous):
        return vars(kv._space)
    return list(kv.pool.queue()), kv.host._free if isinstance(kv, Swapped) else []


def serve(
    world: SmallWorld,
    *,
    fast: bool = False,
    check_every: int = 1,
    scheduler: Callable[..., Any] | None = None,
    watch: Callable[[Any], Any] | None = None,
    execute: Callable[[Any], Any] | None = None,
) -> Outcome:
    """Run a world. `fast` takes a scheduler that makes promises; `watch` makes one more observer
    for each scheduler, `execute` what runs its plans, and observes them."""
    env = simpy.Environment()
    records = Records()
    trails, engines = [], []
    base_ns, per_token_ns, per_context_token_ns = world.latency
    latency = Bumpy(
        base_ns=base_ns,
        per_token_ns=per_token_ns,
        per_context_token_ns=per_context_token_ns,
        per_copied_block_ns=17,
        per_swapped_block_ns=23,
    )
    rules = VERSIONS[world.version]
    for replica in range(world.replicas):
        calendar = fast and world.suits_fast_vllm
        engine_world = (CalendarWorld if calendar else World)(max_model_len=world.max_model_len)
        policy = scheduler or world.policy(fast=fast)
        if world.depth > 1:
            policy = flying(world)
        planner = policy(
            kv=world.make_cache(engine_world),
            order=Priority() if world.priority else Fcfs(),
            limits=world.limits,
            rules=rules,
        )
        recorder = Recorder(
            records, scheduler=planner, latency=latency, replica=replica, check_every=check_every
        )
        trails.append(Trail(replica))
        own = [] if watch is None else [watch(planner)]
        executor: Any = Simulated(latency)
        if execute is not None:
            executor = execute(planner)
            own.append(executor)
        engines.append(
            Engine(
                env,
                scheduler=planner,
                executor=executor,
                world=engine_world,
                observers=[recorder, trails[-1], *own],
                branching=branching_of(world.limits, engine_world, forks=world.forks),
                replica=replica,
                depth=world.depth,
                stages=world.stages,
                empty_step_sleep_ns=world.sleep_ns,
            )
        )
        engines[-1].recorder = recorder  # type: ignore[attr-defined]
    router = RoundRobin() if world.router == "round_robin" else LeastOutstanding()
    Cluster(env, engines, router=router).serve(world.requests)
    for engine in engines:
        engine.recorder.close()  # type: ignore[attr-defined]
    return Outcome(records, trails, engines)


def flying(world: Any) -> Callable[..., BatchesInFlight]:
    """The scheduler of a world, or of a server, with several batches in flight."""
    return partial(
        BatchesInFlight,
        max_model_len=world.max_model_len,
        asynchronous=world.asynchronous,
        stages=world.stages,
    )


def differences(world: SmallWorld) -> list[Any]:
    """What the two loops leave behind, where it is not the same."""
    plain = serve(world, check_every=50).content()
    fast = serve(world, fast=True, check_every=7).content()
    return [name for name in plain if plain[name] != fast[name]]


def tell_apart(worlds: Iterable[SmallWorld]) -> bool:
    """Do the loops differ, or does one of them fail, in any of these worlds?"""
    for world in worlds:
        try:
            if differences(world):
                return True
        except (AssertionError, IndexError, KeyError, ValueError, RuntimeError):
            return True
    return False


def branching_of(
    limits: Limits, world: World, *, forks: bool, spread: float = 1.0, replica: int = 0
) -> Branching:
    if not forks:
        return Separately()
    searches = Searches(answer_tokens=world.answer_tokens, spread=spread, seed=(0, replica))
    return ByForking(max_num_seqs=limits.max_num_seqs, searches=searches)


def several_answers(rng: random.Random, *, forks: bool, priority: bool | None = None) -> SmallWorld:
    """A small world in which requests ask for up to four answers, or search with as many beams."""
    world = small_world(rng, priority=priority)
    if world.priority:  # twins that preempt each other's half-computed prompts never end
        world = replace(world, limits=replace(world.limits, scheduler_reserve_full_isl=True))
    numbers = rng.choice([(1, 1, 2), (1, 2, 3, 4), (4,)])
    requests = [
        replace(request, n=rng.choice(numbers), output_tokens=min(request.output_tokens, 70))
        for request in world.requests
    ]
    if forks and rng.random() < 0.5:
        requests = [replace(r, n=1, beam=r.n if r.n > 1 else 0) for r in requests]
    return replace(world, requests=requests, forks=forks)


def swapping(rng: random.Random, *, priority: bool | None = None) -> SmallWorld:
    """A small world with little room, whose victims are swapped: into a host with room for all,
    for some, or for none."""
    world = small_world(rng, priority=priority)
    need = -(-world.max_model_len // world.block_size)
    seats, hurry = rng.choice([3, 5, 8, 20]), rng.choice([1, 8, 100])
    requests = [
        replace(request, arrival_ns=request.arrival_ns // hurry) for request in world.requests[:14]
    ]
    return replace(
        world,
        requests=requests,
        num_blocks=1 + need + rng.choice([0, 1, need // 4, need // 2]),
        limits=replace(world.limits, max_num_seqs=seats, watermark_blocks=rng.choice([0, 0, 1])),
        host_blocks=rng.choice([0, need // 2, need, 2 * need, 100 * need, 100 * need]),
    )


def in_flight(rng: random.Random) -> SmallWorld:
    """A small world with two to four batches in flight; some answers end by stop tokens."""
    world = small_world(rng)
    longest = world.max_model_len
    requests = [
        replace(r, max_tokens=rng.choice([None, r.output_tokens, rng.randint(1, longest)]))
        for r in world.requests
    ]
    asynchronous, stages = rng.choice([(True, 1), (True, 1), (True, 2), (False, 2), (False, 4)])
    if world.priority:
        limits = replace(world.limits, scheduler_reserve_full_isl=True)
        world = replace(world, limits=limits, version="0.33")
    return replace(
        world,
        requests=requests,
        asynchronous=asynchronous,
        stages=stages,
        sleep_ns=rng.choice([0, 7, 50, 1000]),
    )


def small_world(rng: random.Random, *, priority: bool | None = None) -> SmallWorld:
    """Draw a world; every third one is crowded: a refused head shares what others write.

    FCFS or priority as asked, else one in seven has priority."""
    if not priority and rng.random() < 0.06:
        return _long_head(rng)
    crowded = rng.random() < 0.35
    block_size = rng.choice(BLOCK_SIZES[:6] if crowded else BLOCK_SIZES)
    latency = rng.choice([(100, 0, 0), (100, 0, 0), (40, 20, 0), (100, 7, 1), (1, 3, 0)])
    sharing = 0.9 if crowded else rng.choice([0.0, 0.5, 0.9])
    longest_answer = rng.choice([5, 5, 70, 70, 70, 70, 70, 600])
    requests = _requests(
        rng, tick_ns=rng.choice([50, 100, 20, 350]), sharing=sharing, longest_answer=longest_answer
    )
    priority = rng.random() < 0.15 if priority is None else priority
    reserve_full_isl = crowded or rng.random() < 0.8
    if priority and not reserve_full_isl:
        # Equals preempt each other's half-computed prompts for ever: vLLM livelocks there.
        requests = [
            replace(request, arrival_ns=request.arrival_ns + index)
            for index, request in enumerate(requests)
        ]
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    max_model_len = longest if rng.random() < 0.85 else max(4, longest - rng.randint(1, 20))
    need = -(-max_model_len // block_size)
    spares = [need // 4, need // 3, need // 2, need]
    spare = rng.choice(spares if crowded else [0, 0, 1, 2, 3, 3 * need, *spares])
    chunked = rng.random() < (0.4 if longest_answer == 5 else 0.9)
    budget = rng.choice([rng.randint(2, 12), rng.randint(8, 40), rng.randint(30, 120)])
    limits = Limits(
        max_num_seqs=20 if crowded else rng.choice([1, 2, 3, 5, 8, 20, 20]),
        max_num_batched_tokens=budget if chunked else max(budget, max_model_len),
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=rng.choice([0, 0, 0, rng.randint(1, 20)]),
        scheduler_reserve_full_isl=reserve_full_isl,
        watermark_blocks=rng.choice([0, 0, 0, 1, 3]),
    )
    return SmallWorld(
        requests=requests,
        limits=limits,
        num_blocks=1 + need + spare,
        block_size=block_size,
        max_model_len=max_model_len,
        prefix_caching=crowded or rng.random() < 0.6,
        priority=priority,
        version=rng.choice(["0.33", "0.33", "0.32", "0.19"]),
        latency=latency,
        replicas=rng.choice([1, 1, 1, 2, 3]),
        router=rng.choice(["round_robin", "least_outstanding"]),
    )


def _long_head(rng: random.Random) -> SmallWorld:
    """Chunking off, and a head of almost max_model_len tokens whose idle hits are evicted while
    it waits: at first too many blocks, then too many tokens."""
    block_size = rng.choice([2, 3, 4])
    length = rng.randint(40, 60)
    shared, prompt_tokens = rng.randint(block_size, 24), length - rng.randint(1, 4)
    decoding = range(1, rng.randint(3, 7))
    requests = [
        Request("first", 0, ((0, 0, shared),), rng.randint(1, 2), 100),
        *(
            Request(f"r{i}", 0, ((i, 0, rng.randint(1, 6)),), rng.randint(15, 33), 100 + i)
            for i in decoding
        ),
        Request(
            "head", rng.randint(150, 900), ((0, 0, shared), (50, 0, prompt_tokens - shared)), 2, 150
        ),
    ]
    need = -(-length // block_size)
    return SmallWorld(
        requests=requests,
        limits=Limits(max_num_seqs=20, max_num_batched_tokens=length, enable_chunked_prefill=False),
        num_blocks=1 + need + rng.randint(0, need),
        block_size=block_size,
        max_model_len=length,
        prefix_caching=True,
        priority=False,
        version=rng.choice(["0.33", "0.19"]),
        latency=(100, 0, 0),
        replicas=1,
        router="round_robin",
    )


def _requests(
    rng: random.Random, *, tick_ns: int, sharing: float, longest_answer: int
) -> list[Request]:
    """Requests that arrive in bursts on a grid and share what they can."""
    documents = [(stream, rng.randint(1, 60)) for stream in range(4)]
    requests: list[Request] = []
    at_ns = 0
    for index in range(rng.randint(4, 30)):
        at_ns += tick_ns * rng.choice([0, 0, 0, 1, 1, 2, 3, rng.randint(0, 30)])
        prompt = []
        if rng.random() < sharing:
            stream, length = rng.choice(documents)
            prompt.append((stream, 0, rng.choice([length, rng.randint(1, length)])))
        if requests and rng.random() < sharing:
            # Quote an answer, most often a recent one that may still be in the making.
            quoted = rng.choice(requests[-4:] if rng.random() < 0.7 else requests)
            length = rng.choice([quoted.output_tokens, rng.randint(1, quoted.output_tokens)])
            before = list(quoted.prompt) if rng.random() < 0.7 else prompt
            prompt = [*before, (quoted.output_stream, 0, length)]
        if requests and rng.random() < sharing / 6:
            requests.append(replace(requests[-1], id=f"r{index:02}"))  # a twin
            continue
        if not prompt or rng.random() < 0.6:
            prompt.append(
                (1000 + index, 0, rng.choice([1, rng.randint(1, 10), rng.randint(1, 40)]))
            )
        output_tokens = rng.randint(1, rng.choice([1, 6, longest_answer, longest_answer]))
        output_stream = 2000 + index
        if requests and rng.random() < sharing / 3:
            output_stream = rng.choice(requests).output_stream
        requests.append(
            Request(
                id=f"r{index:02}",
                arrival_ns=at_ns,
                prompt=tuple(prompt),
                output_tokens=output_tokens,
                output_stream=output_stream,
                max_tokens=rng.choice([None, None, output_tokens + 3, (output_tokens + 1) // 2]),
                priority=rng.randint(0, 2),
            )
        )
    return requests
