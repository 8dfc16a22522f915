"""The cache against a pool that has one entry for each block, and one key: all tokens so far."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter, defaultdict
from itertools import takewhile

import pytest

from sim.kv.books import list_names
from sim.kv.prefix import PrefixCached
from sim.request import Request, Run, Sequence

Key = tuple[tuple[int, int], ...]
BATCHES, WORLDS = 8, 240


class OneByOne:
    """vLLM's rules a block at a time: the queue is a list, as are the blocks of one content."""

    def __init__(self, num_blocks: int, *, all_last: bool) -> None:
        self.queue = list(range(1, num_blocks))
        self.all_last = all_last
        self.holders: Counter[int] = Counter()
        self.key: dict[int, Key] = {}
        self.copies: defaultdict[Key, list[int]] = defaultdict(list)
        self.evicted = 0

    @property
    def idle(self) -> int:
        return sum(block in self.key for block in self.queue)

    def take(self, n: int) -> list[int]:
        blocks, self.queue = self.queue[:n], self.queue[n:]
        for block in blocks:
            self.holders[block] = 1
            if block in self.key:
                self.copies[self.key.pop(block)].remove(block)
                self.evicted += 1
        return blocks

    def find(self, keys: list[Key]) -> list[int]:
        return [self.copies[key][0] for key in takewhile(self.copies.__getitem__, keys)]

    def hold(self, blocks: list[int]) -> None:
        self.holders.update(blocks)
        self.queue = [block for block in self.queue if block not in blocks]

    def publish(self, block: int, key: Key) -> None:
        if block not in self.key:
            self.key[block] = key
            self.copies[key].append(block)

    def release(self, blocks: list[int]) -> None:
        self.holders.subtract(blocks)
        left = [block for block in reversed(blocks) if not self.holders[block]]
        rest = [block for block in left if block not in self.key]
        self.queue = self.queue + rest if self.all_last else rest + self.queue
        self.queue += [block for block in left if block in self.key]


class Both:
    """Does everything twice, and compares."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.size = rng.choice([1, 1, 2, 3, 4])
        num_blocks, all_last = rng.choice([2, 5, 12, 30, 80]), rng.random() < 0.3
        order = "all_last" if all_last else "unkeyed_first"
        self.kv = PrefixCached(num_blocks, block_size=self.size, free_order=order)
        self.plain = OneByOne(num_blocks, all_last=all_last)
        self.tables: dict[Sequence, list[int]] = {}
        self.contents: dict[Sequence, list[tuple[int, int]]] = {}
        self.given_back: list[tuple[list[int], list[int]]] = []
        self.made = 0

    def go(self, times: int) -> None:
        for _ in range(times):
            if not self.tables or self.rng.random() < 0.4:
                self.admit()
            else:
                sequence = self.rng.choice([*self.tables])
                self.rng.choice([self.extend, self.extend, self.fork, self.release])(sequence)
            self.compare()

    def compare(self) -> None:
        pool, plain = self.kv.pool, self.plain
        assert {sequence: sequence.blocks for sequence in self.tables} == self.tables
        assert list(pool.queue()) == plain.queue
        assert all(told == table for told, table in self.given_back), "told tables change"
        assert (pool.free, pool.cached.idle) == (len(plain.queue), plain.idle)
        assert pool.cached.evicted == plain.evicted
        takes = [len(plain.queue) // 3, len(plain.queue) // 2]
        idle = [sum(block in plain.key for block in plain.queue[sum(takes[:n]) :]) for n in (1, 2)]
        assert pool.idle_after(takes) == idle
        names = list_names(pool.cached)
        assert names.keys() == plain.key.keys()
        for sequence, table in self.tables.items():
            for index, block in enumerate(table[: sequence.published]):
                assert names[block] == (sequence.names and sequence.names.name(index))
        self.kv.check()

    def admit(self) -> None:
        """Documents from any place, in part; answers of others; what others asked."""
        rng, prompt = self.rng, list[Run]()
        if self.tables and rng.random() < 0.5:
            other = rng.choice([*self.tables])
            prompt += other.prompt
            prompt.append((other.output_stream, rng.choice([0, 0, 1]), rng.randint(0, 6)))
        for _ in range(rng.choice([0, 1, 2]) or not prompt):
            prompt.append((rng.randint(0, 1), rng.choice([0, 0, 0, 1, 4]), rng.randint(1, 9)))
        self.made += 1
        stream = rng.choice([0, 50, 100 + self.made])
        sequence = Sequence.of(Request(f"{self.made}", 0, tuple(prompt), 99, stream), index=0)
        tokens = [(of, at) for of, start, n in prompt for at in range(start, start + n)]
        keys = self.keys(tokens)[: (len(tokens) - 1) // self.size]
        hit, found = self.kv.match(sequence), self.plain.find(keys)
        idle = len({*found} & {*self.plain.queue})
        assert (hit.blocks, hit.idle) == (found, idle)
        if not self.kv.has_room(sequence, len(tokens), hit=hit):
            return
        assert self.kv.admit(sequence, hit) == idle
        self.plain.hold(found)
        self.tables[sequence], self.contents[sequence] = found, tokens
        sequence.computed = hit.tokens
        self.grow(sequence, rng.randint(1, len(tokens) - hit.tokens))

    def extend(self, sequence: Sequence) -> None:
        missing = sequence.num_tokens - sequence.computed
        n = self.rng.randint(1, missing or 9)
        if not missing:
            at = sequence.generated
            self.contents[sequence] += [(sequence.output_stream, at + i) for i in range(n)]
            sequence.generated += n
            n = self.rng.randint(1, n)
        self.grow(sequence, n)

    def grow(self, sequence: Sequence, n: int) -> None:
        table, plain = self.tables[sequence], self.plain
        index, part = divmod(sequence.computed, self.size)
        copies = part > 0 and plain.holders[table[index]] > 1
        needed = -(-(sequence.computed + n) // self.size) - len(table)
        fits = needed + copies <= len(plain.queue)
        assert self.kv.grow(sequence, n) == fits
        if not fits:
            self.release(sequence)
            return
        if copies:
            (own,) = plain.take(1)
            plain.release([table[index]])
            table[index] = own
        table += plain.take(needed)
        sequence.computed += n
        for block, key in zip(table, self.keys(self.contents[sequence]), strict=False):
            if len(key) <= sequence.computed:
                plain.publish(block, key)

    def fork(self, parent: Sequence) -> None:
        """The child goes on where its parent has computed to, whatever that will say next."""
        answered = parent.computed - parent.prompt_tokens
        if answered < 0:
            return
        self.made += 1
        prompt = (*parent.prompt, (parent.output_stream, 0, answered))
        request = Request(f"{self.made}", 0, prompt, 99, 100 + self.made)
        child = Sequence.of(request, index=0)
        self.kv.fork(parent, child)
        self.tables[child] = list(self.tables[parent])
        self.contents[child] = self.contents[parent][: parent.computed]
        self.plain.hold(self.tables[child])

    def release(self, sequence: Sequence) -> None:
        departure, table = self.kv.release(sequence), self.tables.pop(sequence)
        self.given_back.append((departure.blocks, table))
        self.plain.release(table)
        del self.contents[sequence]

    def keys(self, tokens: list[tuple[int, int]]) -> list[Key]:
        ends = range(self.size, len(tokens) + 1, self.size)
        return [tuple(tokens[:end]) for end in ends]


@pytest.mark.parametrize("batch", range(BATCHES))
def test_nodes_answer_as_blocks_do(batch: int) -> None:
    for seed in range(batch, WORLDS, BATCHES):
        Both(random.Random(seed)).go(250)


def serve(kv: PrefixCached, prompts: list[tuple[Run, ...]]) -> None:
    """One after the other, with 30 tokens of answer each."""
    for at, prompt in enumerate(prompts):
        sequence = Sequence.of(Request("s", 0, prompt, 99, 1000 + at), index=0)
        kv.admit(sequence, hit := kv.match(sequence))
        sequence.computed = hit.tokens
        assert kv.grow(sequence, sequence.prompt_tokens - hit.tokens)
        sequence.computed, sequence.generated = sequence.prompt_tokens, 30
        for _ in range(30):
            assert kv.grow(sequence, 1)
            sequence.computed += 1
        kv.release(sequence)


def bytes_used(kv: PrefixCached, prompts: list[tuple[Run, ...]]) -> int:
    """At most, while they are served: who walks or copies what waits needs room for it."""
    tracemalloc.start()
    try:
        serve(kv, prompts)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_copies_that_wait_cost_nothing() -> None:
    """Each of these has its last block twice, so that the pool fills with copies."""
    same: tuple[Run, ...] = ((0, 0, 1024),)
    kv = PrefixCached(5000, block_size=16)
    serve(kv, [same] * 1500)
    assert kv.pool.cached.idle > 3000
    assert sum(len(lot.blocks) for lot in kv.pool.cached.line) == kv.pool.cached.idle, "gaps"
    assert bytes_used(kv, [same]) < 20_000


def test_a_block_is_evicted_without_a_look_at_those_that_wait_with_it() -> None:
    kv = PrefixCached(100_001, block_size=1)
    serve(kv, [((0, 0, 99_900),)])
    newcomers: list[tuple[Run, ...]] = [((at, 0, 1),) for at in range(1, 31)]
    evicted = kv.pool.cached.evicted
    assert bytes_used(kv, newcomers) < 200_000
    assert kv.pool.cached.evicted - evicted > 500
