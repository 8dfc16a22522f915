"""The public contracts, run on everything we ship and on things that are broken."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibrate.device import load_device
from calibrate.model import load_model
from calibrate.roofline import Roofline
from sim.cluster import LeastOutstanding, RoundRobin, Router
from sim.contract import check_kv_cache, check_latency_model, check_router, check_scheduler
from sim.engine import Engine
from sim.fast.steady import Steady, SteadyStatic
from sim.fast.vllm import FastVllm
from sim.kv.books import check_pool
from sim.kv.cache import KVCache
from sim.kv.cached import Cached
from sim.kv.forks import Forks
from sim.kv.names import Names
from sim.kv.paged import Paged
from sim.kv.pool import Pool
from sim.kv.prefix import PrefixCached
from sim.kv.swap import HostTier, Swapped, SwappedPrefix
from sim.latency import Counts, Linear, Replay
from sim.moves import Swap
from sim.plan import Plan
from sim.request import Request, Sequence
from sim.scheduling.orders import Fcfs
from sim.scheduling.priority import Priority
from sim.scheduling.vllm import Limits, VllmScheduler

LIMITS = Limits(max_num_seqs=8, max_num_batched_tokens=48)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("order", ["unkeyed_first", "all_last"])
@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("cache", [Paged, PrefixCached])
def test_caches(cache: type[Paged], block_size: int, order: str, seed: int) -> None:
    blocks = 1 + 320 // block_size
    make = partial(cache, blocks, block_size=block_size, free_order=order)  # type: ignore[arg-type]
    check_kv_cache(make, seed=seed, rounds=150)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("host_blocks", [0, 40, 10_000])
@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("cache", [Swapped, SwappedPrefix])
def test_swapping_caches(
    cache: type[Swapped], block_size: int, host_blocks: int, seed: int
) -> None:
    def make() -> KVCache:
        return cache(1 + 320 // block_size, block_size=block_size, host=HostTier(host_blocks))

    check_kv_cache(make, seed=seed, rounds=150)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scheduler", [VllmScheduler, FastVllm, Steady, SteadyStatic])
@pytest.mark.parametrize("order", [Fcfs, Priority])
def test_schedulers(scheduler: type, order: type, seed: int) -> None:
    if scheduler is FastVllm and order is Priority:
        return  # FCFS only

    def make(kv: KVCache) -> VllmScheduler:
        return scheduler(kv=kv, order=order(), limits=LIMITS)  # type: ignore[no-any-return]

    check_scheduler(make, max_num_batched_tokens=48, seed=seed)


def test_latency_models() -> None:
    check_latency_model(Linear(base_ns=100, per_token_ns=3, per_context_token_ns=2))
    check_latency_model(Replay(list(range(1, 10)), source="here"))
    model = load_model("Llama-3.1-8B")
    check_latency_model(Roofline(model, load_device("H200"), host_ns=1000))


@pytest.mark.parametrize("make", [RoundRobin, LeastOutstanding])
def test_routers(make: Callable[[], Router]) -> None:
    check_router(make)


def answers_nothing(engines: list[Engine], request: Request) -> Any:
    return None


def drops_engines(engines: list[Engine], request: Request) -> Engine:
    del engines[1:]
    return engines[0]


def serves_by_itself(engines: list[Engine], request: Request) -> Engine:
    engines[0].submit(request, index=10**6 + request.output_stream)
    return engines[0]


def draws(engines: list[Engine], request: Request) -> Engine:
    return random.choice(engines)


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (answers_nothing, "request r0 goes to None, which is none of the engines"),
        (drops_engines, "the list of engines was changed"),
        (serves_by_itself, "an engine was changed: a router reads only"),
        (draws, "goes to engine ., and to engine ."),
    ],
)
def test_broken_routers_are_caught(router: Router, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_router(lambda: router)


class NobodyShares(Forks):
    def shares_last(self, sequence: Sequence) -> bool:
        return False


class WithoutCopyOnWrite(Paged):
    def __init__(self, num_blocks: int, *, block_size: int) -> None:
        super().__init__(num_blocks, block_size=block_size)
        self._forks = NobodyShares(self.pool, block_size)


class Overpromising(Paged):
    def has_room(self, *_: object, **__: object) -> bool:
        return True


class BringsNothingBack(Swapped):
    def take_swaps(self) -> tuple[Swap, ...]:
        return tuple(swap for swap in super().take_swaps() if swap.out)


class SwapsTooLate(Swapped):
    """What the blocks hold when others have written to them."""

    def take_swaps(self) -> tuple[Swap, ...]:
        late, self._late = getattr(self, "_late", ()), super().take_swaps()
        return late


class NothingEvicted(Cached):
    def take(self, n: int) -> list[int]:
        kept = [(node, [*node.blocks]) for node in self.nodes]
        taken = super().take(n)
        for node, blocks in kept:
            node.blocks[:] = blocks
        return taken


class ForgetsKeys(PrefixCached):
    """Hands blocks out anew without forgetting what they held."""

    def __init__(self) -> None:
        super().__init__(81, block_size=4)
        self.pool.cached = NothingEvicted()


@pytest.mark.parametrize(
    "make",
    [
        lambda: WithoutCopyOnWrite(81, block_size=4),
        lambda: Overpromising(81, block_size=4),
        ForgetsKeys,
        lambda: BringsNothingBack(81, block_size=4, host=HostTier(400)),
        lambda: SwapsTooLate(81, block_size=4, host=HostTier(400)),
    ],
)
def test_broken_caches_are_caught(make: type[KVCache]) -> None:
    with pytest.raises(AssertionError):
        check_kv_cache(make)


class Greedy(VllmScheduler):
    """Ignores the budget."""

    def _cap(self) -> int:
        object.__setattr__(self.limits, "max_num_batched_tokens", 10_000)
        return 10_000


class Idle(VllmScheduler):
    """Skips everybody in every third step, and says so by an empty plan."""

    def schedule(self, now_ns: int) -> Plan:
        plan = super().schedule(now_ns)
        if len(plan.chunks) > 1:
            sequence, _, n = plan.chunks.pop()
            sequence.computed -= n
        return plan


@pytest.mark.parametrize("scheduler", [Greedy, Idle])
def test_broken_schedulers_are_caught(scheduler: type[VllmScheduler]) -> None:
    limits = Limits(max_num_seqs=8, max_num_batched_tokens=48)
    with pytest.raises(AssertionError):
        check_scheduler(
            lambda kv: scheduler(kv=kv, order=Fcfs(), limits=limits), max_num_batched_tokens=48
        )


GUIDE = (Path(__file__).parents[1] / "docs/guides/write-a-scheduler.md").read_text()
STATIC = GUIDE.partition("```python static_batching.py\n")[2].partition("```")[0]


def check_static(source: str) -> None:
    """The contract on a text of the guide's scheduler."""
    module: dict[str, Any] = {}
    exec(source, module)
    check_scheduler(
        lambda kv: module["StaticBatching"](kv=kv, limits=LIMITS, max_model_len=64),
        max_num_batched_tokens=48,
    )


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "grown = self.kv.grow(sequence, n)",
            "grown = True",
            r"without room for them",
        ),
        ("sequence.computed += n", "pass", r"computes \d+ tokens from 0, and .*computed is 0"),
        ("sequence.computed = hit.tokens", "sequence.computed = 0", "though 16 were found in the"),
        ("sequence.decoding = True", "pass", r"not in plan\.decodes"),
        ("budget -= n", "pass", "over the token budget"),
        ("plan.completing.append(sequence)", "pass", "plan.completing is not whose"),
        ("plan.admitted.append(Admission(sequence, hit.tokens, woken))", "pass", "plan.admitted"),
    ],
)
def test_what_a_scheduler_does_wrong_is_said(right: str, wrong: str, said: str) -> None:
    check_static(STATIC)
    assert STATIC.count(right) == 1
    with pytest.raises(AssertionError, match=said):
        check_static(STATIC.replace(right, wrong))


class SlowerInStretches(Linear):
    def durations(self, plan: Plan, k: int) -> list[int]:
        return [duration + (k > 1) for duration in super().durations(plan, k)]


class OfNumpy(Linear):
    def durations(self, plan: Plan, k: int) -> list[int]:
        return list(np.array(super().durations(plan, k)))


class Fractional(Linear):
    def alone(self, computed_before: Counts, n: Counts) -> Any:
        return super().alone(computed_before, n) / 2


class MostlyHost(Linear):
    host_ns = 10_000


class HalfAHost(Linear):
    host_ns: Any = 0.5


class Nameless(Linear):
    modelled: Any = "linear"


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (SlowerInStretches, "step 0 of a stretch"),
        (OfNumpy, r"takes np.int64\(\d+\) ns, which is no int"),
        (Fractional, "alone gives float64, not int64"),
        (MostlyHost, r"a step takes \d+ ns, and its host 10000"),
        (HalfAHost, "host_ns is 0.5, and no int"),
        (Nameless, "modelled is 'linear', neither True nor False"),
    ],
)
def test_broken_latency_is_caught(broken: type[Linear], why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        check_latency_model(broken(base_ns=100, per_token_ns=3, per_context_token_ns=2))


def test_pool_hands_out_in_vllm_order() -> None:
    names = Names(4).chain(((0, 0, 8),), output_stream=1)
    pool = Pool(9)
    first, second = pool.take(3), pool.take(2)
    assert (first, second) == ([1, 2, 3], [4, 5])
    pool.cached.publish(first[:2], names.between(0, 2))
    pool.release(first, names.leading(2))
    assert list(pool.queue()) == [3, 6, 7, 8, 2, 1]
    old = Pool(9, free_order="all_last")
    table = old.take(3)
    names = Names(4).chain(((0, 0, 8),), output_stream=1)
    old.cached.publish(table[:2], names.between(0, 2))
    old.release(table, names.leading(2))
    assert list(old.queue()) == [4, 5, 6, 7, 8, 3, 2, 1]


def test_content_that_is_there_twice_is_found_until_both_are_gone() -> None:
    names = Names(4).chain(((0, 0, 12),), output_stream=1)
    pool, parts = Pool(9), names.leading(3)
    first, second = pool.take(3), pool.take(3)
    for table in (first, second):
        pool.cached.publish(table, names.between(0, 3))
    check_pool(pool, [first, second])
    assert pool.cached.find(parts) == (first, 0)
    pool.release(first, parts)
    assert pool.cached.find(parts) == (first, 3)
    assert pool.take(3) == [7, 8, 3]  # all that is unkeyed, and the last of the table
    check_pool(pool, [second, [7, 8, 3]])
    assert pool.cached.find(parts) == ([1, 2, 6], 2)
    assert pool.wake([1, 2, 6], parts) == 2
    check_pool(pool, [second, [7, 8, 3], [1, 2, 6]])
    assert pool.release([1, 2, 6], parts) == 1
    pool.release(second, parts)
    assert list(pool.queue()) == [2, 1, 6, 5, 4]
    assert [pool.take(1) for _ in range(3)] == [[2], [1], [6]]
    assert pool.cached.find(parts) == ([4, 5], 2)
    pool.take(2)
    assert pool.cached.find(parts) == ([], 0)
    assert pool.cached.evicted == 6
    assert parts[0][0].tangle is None, "an empty node is tangled"
