"""What every KV cache, scheduler and latency model must do: tests that strangers can call.

    from sim.contract import check_scheduler
    def test_mine() -> None:
        check_scheduler(lambda kv: MyScheduler(kv=kv, ...))

Each raises AssertionError and says what was violated. They draw random cases from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import cast

import numpy as np
import simpy

from sim.cluster import Cluster, RoundRobin
from sim.engine import Engine
from sim.executor import Simulated
from sim.kv.cache import ForkingCache, KVCache
from sim.kv.prefix import PrefixCached
from sim.kv.swap import HostTier, SwappedPrefix
from sim.latency import LatencyModel, Linear
from sim.moves import Copy
from sim.plan import Chunk, DecodeList, Plan
from sim.plan_watch import PlanWatch
from sim.record import Records
from sim.recorder import Recorder
from sim.request import Request, Sequence
from sim.scheduling.face import Scheduler
from sim.world import World

Token = tuple[int, int]


class _Memory:
    """Slots of real memory behind a cache: what was written is what must be read."""

    def __init__(self, kv: KVCache) -> None:
        self._kv = kv
        self._slots: dict[tuple[int, int, int], Token] = {}
        """By (device or host, block, offset)."""

    def write(self, sequence: Sequence, tokens: list[Token], n: int) -> None:
        """Compute the next n tokens, after the swaps and copies that are due."""
        for swap in self._kv.take_swaps():
            for block, host in zip(swap.blocks, swap.host_blocks, strict=True):
                if swap.out:
                    self._move((0, block), (1, host))
                else:
                    self._move((1, host), (0, block))
        for copy in self._kv.take_copies():
            self._move((0, copy.source), (0, copy.target))
        for position in range(sequence.computed, sequence.computed + n):
            self._slots[0, *self._kv.translate(sequence, position)] = tokens[position]
        sequence.computed += n

    def _move(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        """Blocks of the device (0) or the host (1), whatever they hold."""
        for offset in range(self._kv.block_size):
            if (*source, offset) in self._slots:
                self._slots[*target, offset] = self._slots[*source, offset]

    def read(self, sequence: Sequence, tokens: list[Token]) -> None:
        for position in range(sequence.computed):
            slot = self._kv.translate(sequence, position)
            found = self._slots.get((0, *slot))
            assert found == tokens[position], (
                f"{sequence.id}: token {position} is {tokens[position]}, but block and offset"
                f" {slot} hold {found}"
            )


def check_kv_cache(make: Callable[[], KVCache], *, seed: int = 0, rounds: int = 400) -> None:
    """Admit, grow, fork, preempt and release sequences at random, on a memory that is really
    written.

    Whatever was computed is read back after every operation, through hits, forks, copies and
    evictions, and swaps where the cache keeps what is preempted; a refusal to grow changes
    nothing; released sequences hold nothing; the pool is as free at the end as in the beginning.
    Forks are left out where the cache is no `ForkingCache`.
    """
    rng = random.Random(seed)
    kv = make()
    memory = _Memory(kv)
    free, size, forks = kv.free_blocks, kv.block_size, hasattr(kv, "fork")
    inside: dict[Sequence, list[Token]] = {}
    preempted: list[tuple[Sequence, list[Token]]] = []
    for index in range(rounds):
        action = rng.random()
        if action < 0.35 or not inside:
            if preempted and rng.random() < 0.5:
                sequence, tokens = preempted.pop(rng.randrange(len(preempted)))
            else:
                sequence, tokens = _draw_sequence(rng, index, list(inside.values()))
            hit = kv.match(sequence)
            assert hit.tokens < sequence.num_tokens, "one token must be left to compute"
            assert hit.tokens - hit.host_tokens == len(hit.blocks) * kv.block_size
            before = kv.free_blocks
            fits = kv.has_room(sequence, sequence.num_tokens, hit=hit)
            woken = kv.admit(sequence, hit)
            assert woken == hit.idle == before - kv.free_blocks
            sequence.computed = hit.tokens
            inside[sequence] = tokens
            n = sequence.num_tokens - hit.tokens
            grown = kv.grow(sequence, n)
            assert grown == fits, "has_room and grow disagree"
            if grown:
                memory.write(sequence, tokens, n)
            else:
                del inside[sequence]
                kv.release(sequence)
        elif action < 0.75:
            sequence = rng.choice(list(inside))
            _grow(kv, memory, sequence, inside[sequence], rng.choice([1, 1, 1, 2, 9]))
        elif action < 0.85 and forks:
            _fork(cast(ForkingCache, kv), inside, rng.choice(list(inside)), index)
        else:
            sequence = rng.choice(list(inside))
            gives_way = rng.random() < 0.5
            departure = kv.preempt(sequence) if gives_way else kv.release(sequence)
            assert departure.blocks or not departure.computed
            assert sequence.blocks == []
            answered = inside.pop(sequence)
            others = {block for other in inside for block in other.blocks}
            left = [
                min(size, departure.computed - at * size)
                for at, block in enumerate(departure.blocks)
                if block in others
            ]
            assert departure.shared_tokens == sum(left), "tokens that others hold are miscounted"
            if gives_way:
                preempted.append((sequence, answered))
                sequence.computed = 0
                sequence.generated += 1  # the token to compute when it is back
        kv.check()
        for sequence, tokens in inside.items():
            memory.read(sequence, tokens)
    for sequence in inside:
        kv.release(sequence)
    kv.check()
    assert kv.free_blocks == free, "blocks were lost"


def _draw_sequence(
    rng: random.Random, index: int, others: list[list[Token]]
) -> tuple[Sequence, list[Token]]:
    """A sequence that may begin like others, or quote all that one of them may ever say; and
    all tokens it may ever have."""
    shared = [(rng.randint(0, 3), 0, rng.randint(1, 40))] if rng.random() < 0.6 else []
    if others and rng.random() < 0.3:
        quoted = rng.choice(others)[: rng.randint(1, 90)]
        shared = [(stream, at, 1) for stream, at in quoted]
    prompt = (*shared, (100 + index, 0, rng.randint(1, 30)))
    request = Request(f"s{index}", 0, prompt, 1000, 10_000 + index)
    tokens = [(stream, at) for stream, start, n in prompt for at in range(start, start + n)]
    answer = [(request.output_stream, at) for at in range(1000)]
    return Sequence.of(request, index=index), tokens + answer


def _grow(kv: KVCache, memory: _Memory, sequence: Sequence, tokens: list[Token], n: int) -> None:
    table, free, size = list(sequence.blocks), kv.free_blocks, kv.block_size
    sequence.generated += n
    if kv.grow(sequence, n):
        memory.write(sequence, tokens, n)
        crossed = -(-sequence.computed // size) - len(table)
        more = len(sequence.blocks) - len(table)
        assert more == max(0, crossed) or kv.reserves, "a block too many or too few"
    else:
        sequence.generated -= n
        assert (sequence.blocks, kv.free_blocks) == (table, free), "a refusal changed something"


def _fork(
    kv: ForkingCache, inside: dict[Sequence, list[Token]], parent: Sequence, index: int
) -> None:
    child = Sequence.of(Request(f"f{index}", 0, parent.prompt, 1000, 20_000 + index), index=index)
    child.generated = parent.generated
    free = kv.free_blocks
    kv.fork(parent, child)
    assert kv.free_blocks == free, "a fork shares all, so it takes nothing"
    answered = inside[parent][: parent.computed]
    inside[child] = answered + [(child.output_stream, at) for at in range(1000)]


def check_scheduler(
    make: Callable[[KVCache], Scheduler], *, max_num_batched_tokens: int, seed: int = 0
) -> None:
    """Serve random requests under tight memory, with and without swapping, and watch every plan.

    Each plan computes what comes next of sequences that hold room for it, and no more tokens
    than the budget; everybody is answered in full; blocks balance at every step. The cache
    that `make` is given holds at least one request of 60 tokens.
    """
    rng = random.Random(seed)
    for blocks, host_blocks in ((5, 0), (8, 0), (20, 0), (200, 0), (5, 100), (6, 9)):
        kv = PrefixCached(1 + blocks, block_size=16)
        if host_blocks:
            kv = SwappedPrefix(1 + blocks, block_size=16, host=HostTier(host_blocks))
        scheduler = make(kv)
        latency = Linear(base_ns=100, per_token_ns=1, per_context_token_ns=0)
        recorder = Recorder(Records(), scheduler=scheduler, latency=latency, check_every=1)
        watch = PlanWatch(scheduler, max_num_batched_tokens)
        env = simpy.Environment()
        engine = Engine(
            env,
            scheduler=scheduler,
            executor=Simulated(latency),
            world=World(max_model_len=64),
            observers=[recorder, watch],
        )
        requests = [
            Request(
                id=f"r{index}",
                arrival_ns=100 * (index // 3),
                prompt=((index % 4, 0, rng.randint(1, 16)), (100 + index, 0, rng.randint(1, 24))),
                output_tokens=rng.randint(1, 20),
                output_stream=1000 + index,
                priority=rng.randint(0, 2),
            )
            for index in range(40)
        ]
        Cluster(env, [engine], router=RoundRobin()).serve(requests)
        recorder.close()
        assert not scheduler.has_work, "requests were left behind"
        assert watch.answered == len(requests)


def check_latency_model(latency: LatencyModel) -> None:
    """One code path: k durations are k times one, each a whole number of nanoseconds; a
    chunk by itself costs nothing where it is empty, and many are priced as each of them; no swap
    costs nothing."""
    for chunks, contexts in (((), (17, 900)), (((0, 512),), ()), (((512, 100), (0, 1)), (5,) * 40)):
        together = latency.durations(_plan(chunks, contexts, step=0), 9)
        assert all(type(duration) is int for duration in together)
        assert min(together) > 0, "a step that takes no time"
        for j in range(len(together)):
            later = _plan(chunks, tuple(context + j for context in contexts), step=j)
            (alone,) = latency.durations(later, 1)
            assert alone == together[j], f"step {j} of a stretch costs {together[j]}, not {alone}"
    plan = _plan((), (17, 900), step=0)
    (without,) = latency.durations(plan, 1)
    plan.copies = [Copy(1, 2, sequence, 900) for sequence in plan.decodes]
    assert latency.durations(plan, 1)[0] >= without, "copies that take less than no time"
    before, n = np.array([0, 64, 100, 7]), np.array([64, 64, 0, 1])
    alone_ns = latency.alone(before, n)
    assert alone_ns.dtype == np.int64
    assert alone_ns.tolist() == [latency.alone(*each) for each in zip(before, n, strict=True)]
    assert alone_ns[2] == 0, "an empty chunk costs time"
    swap_ns = latency.swap(0 * n, 0 * n)
    assert swap_ns.dtype == np.int64
    assert not swap_ns.any(), "nothing is swapped, and takes time"
    if latency.knows_alone:
        assert (alone_ns[[0, 1, 3]] > 0).all(), "a chunk costs no time"


def _plan(chunks: tuple[tuple[int, int], ...], contexts: tuple[int, ...], *, step: int) -> Plan:
    decodes = DecodeList()
    nobody = Request("nobody", 0, ((0, 0, 1),), 1, 1)
    for index, context in enumerate(contexts):
        decodes.add(Sequence.of(nobody, index=index), context=context)
    rows = [Chunk(Sequence.of(nobody, index=0), before, n) for before, n in chunks]
    return Plan(decodes=decodes, chunks=rows, step=step)
