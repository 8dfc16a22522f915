"""What every KV cache must do: keep what was written, and count right."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import cast

from sim.kv.cache import ForkingCache, KVCache
from sim.request import Request, Sequence

Token = tuple[int, int]


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
    free, trial, forks = kv.free_blocks, _Trial(kv, rng), hasattr(kv, "fork")
    for index in range(rounds):
        action = rng.random()
        if action < 0.35 or not trial.inside:
            trial.admit(index)
        else:
            sequence = rng.choice(list(trial.inside))
            if action < 0.75:
                trial.grow(sequence, rng.choice([1, 1, 1, 2, 9]))
            elif action < 0.85 and forks:
                trial.fork(sequence, index)
            else:
                trial.let_go(sequence, gives_way=rng.random() < 0.5)
        kv.check()
        trial.read_back()
    for sequence in trial.inside:
        kv.release(sequence)
    kv.check()
    assert kv.free_blocks == free, "blocks were lost"


class _Trial:
    """Does one thing after the other to a cache, and doubts every answer."""

    def __init__(self, kv: KVCache, rng: random.Random) -> None:
        self.inside: dict[Sequence, list[Token]] = {}
        """Who is in the cache, with all tokens it may ever have."""
        self._preempted: list[tuple[Sequence, list[Token]]] = []
        self._kv = kv
        self._rng = rng
        self._memory = _Memory(kv)

    def admit(self, index: int) -> None:
        """A new sequence, or one that was preempted, if there is room for it."""
        kv, preempted = self._kv, self._preempted
        if preempted and self._rng.random() < 0.5:
            sequence, tokens = preempted.pop(self._rng.randrange(len(preempted)))
        else:
            sequence, tokens = self._draw(index)
        hit = kv.match(sequence)
        assert hit.tokens < sequence.num_tokens, "one token must be left to compute"
        assert hit.tokens - hit.host_tokens == len(hit.blocks) * kv.block_size
        before = kv.free_blocks
        fits = kv.has_room(sequence, sequence.num_tokens, hit=hit)
        woken = kv.admit(sequence, hit)
        assert woken == hit.idle == before - kv.free_blocks
        sequence.computed = hit.tokens
        n = sequence.num_tokens - hit.tokens
        assert kv.grow(sequence, n) == fits, "has_room and grow disagree"
        if fits:
            self.inside[sequence] = tokens
            self._memory.write(sequence, tokens, n)
        else:
            kv.release(sequence)

    def grow(self, sequence: Sequence, n: int) -> None:
        kv, table = self._kv, list(sequence.blocks)
        free = kv.free_blocks
        sequence.generated += n
        if kv.grow(sequence, n):
            self._memory.write(sequence, self.inside[sequence], n)
            crossed = -(-sequence.computed // kv.block_size) - len(table)
            more = len(sequence.blocks) - len(table)
            assert more == max(0, crossed) or kv.reserves, "a block too many or too few"
        else:
            sequence.generated -= n
            assert (sequence.blocks, kv.free_blocks) == (table, free), "a refusal changed something"

    def fork(self, parent: Sequence, index: int) -> None:
        request = Request(f"f{index}", 0, parent.prompt, 1000, 20_000 + index)
        child = Sequence.of(request, index=index)
        child.generated = parent.generated
        free = self._kv.free_blocks
        cast(ForkingCache, self._kv).fork(parent, child)
        assert self._kv.free_blocks == free, "a fork shares all, so it takes nothing"
        self.inside[child] = self.inside[parent][: parent.computed] + _answer(child.output_stream)

    def let_go(self, sequence: Sequence, *, gives_way: bool) -> None:
        """Preempt it, or release it."""
        kv = self._kv
        departure = kv.preempt(sequence) if gives_way else kv.release(sequence)
        assert departure.blocks or not departure.computed
        assert sequence.blocks == []
        tokens = self.inside.pop(sequence)
        others = {block for other in self.inside for block in other.blocks}
        left = [
            min(kv.block_size, departure.computed - at * kv.block_size)
            for at, block in enumerate(departure.blocks)
            if block in others
        ]
        assert departure.shared_tokens == sum(left), "tokens that others hold are miscounted"
        if gives_way:
            self._preempted.append((sequence, tokens))
            sequence.computed = 0
            sequence.generated += 1  # the token to compute when it is back

    def read_back(self) -> None:
        for sequence, tokens in self.inside.items():
            self._memory.read(sequence, tokens)

    def _draw(self, index: int) -> tuple[Sequence, list[Token]]:
        """A sequence that may begin like others, or quote all that one of them may ever say."""
        rng, others = self._rng, list(self.inside.values())
        shared = [(rng.randint(0, 3), 0, rng.randint(1, 40))] if rng.random() < 0.6 else []
        if others and rng.random() < 0.3:
            quoted = rng.choice(others)[: rng.randint(1, 90)]
            shared = [(stream, at, 1) for stream, at in quoted]
        prompt = (*shared, (100 + index, 0, rng.randint(1, 30)))
        request = Request(f"s{index}", 0, prompt, 1000, 10_000 + index)
        tokens = [(stream, at) for stream, start, n in prompt for at in range(start, start + n)]
        return Sequence.of(request, index=index), tokens + _answer(request.output_stream)


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


def _answer(stream: int) -> list[Token]:
    return [(stream, at) for at in range(1000)]
