"""A Hypothesis state machine for the cache: anything in any order, several holders a block.

Beside the cache stands a model that is too simple to be wrong: for each sequence the list of
its tokens, and for each physical slot the token that was written there last.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from sim.kv.prefix import PrefixCached
from sim.request import Request, Sequence

Token = tuple[int, int]


class CacheMachine(RuleBasedStateMachine):
    sequences = Bundle("sequences")

    @initialize(
        block_size=st.sampled_from([1, 2, 4, 16]),
        num_blocks=st.integers(2, 40),
        all_last=st.booleans(),
    )
    def start(self, block_size: int, num_blocks: int, all_last: bool) -> None:
        order = "all_last" if all_last else "unkeyed_first"
        self.kv = PrefixCached(num_blocks, block_size=block_size, free_order=order)
        self.slots: dict[tuple[int, int], Token] = {}
        self.tokens: dict[Sequence, list[Token]] = {}
        self.made = 0

    def make(self, prompt: tuple[tuple[int, int, int], ...]) -> Sequence:
        self.made += 1
        request = Request(f"s{self.made}", 0, prompt, 10**6, 1000 + self.made)
        return Sequence.of(request, index=self.made)

    def write(self, sequence: Sequence, n: int) -> None:
        for copy in self.kv.take_copies():
            for offset in range(self.kv.block_size):
                if (copy.source, offset) in self.slots:
                    self.slots[copy.target, offset] = self.slots[copy.source, offset]
        for position in range(sequence.computed, sequence.computed + n):
            where = self.kv.translate(sequence, position)
            self.slots[where] = self.tokens[sequence][position]
        sequence.computed += n

    @rule(target=sequences, stream=st.integers(0, 2), length=st.integers(1, 60))
    def admit(self, stream: int, length: int) -> object:
        sequence = self.make(((stream, 0, length),))
        hit = self.kv.match(sequence)
        assert hit.tokens < length
        if not self.kv.has_room(sequence, length, hit=hit):
            return multiple()
        self.tokens[sequence] = [(stream, at) for at in range(length)]
        self.kv.admit(sequence, hit)
        sequence.computed = hit.tokens
        assert self.kv.grow(sequence, length - hit.tokens)
        self.write(sequence, length - hit.tokens)
        return sequence

    @rule(sequence=sequences, n=st.sampled_from([1, 1, 2, 7, 40]))
    def extend(self, sequence: Sequence, n: int) -> None:
        held, free, size = len(sequence.blocks), self.kv.free_blocks, self.kv.block_size
        answer = [(sequence.output_stream, sequence.generated + at) for at in range(n)]
        sequence.generated += n  # known before they are computed, so full blocks are published
        if not self.kv.grow(sequence, n):
            sequence.generated -= n
            assert (len(sequence.blocks), self.kv.free_blocks) == (held, free)
            return
        self.tokens[sequence] += answer
        self.write(sequence, n)
        crossed = -(-sequence.computed // size) - held
        assert len(sequence.blocks) - held == max(0, crossed), "blocks only on crossing"

    @rule(target=sequences, parent=sequences)
    def fork(self, parent: Sequence) -> Sequence:
        child = self.make(parent.prompt)
        child.generated = parent.generated
        # The child's answer goes on from its parent's: give it the parent's past as a prompt.
        self.tokens[child] = list(self.tokens[parent])
        free = self.kv.free_blocks
        self.kv.fork(parent, child)
        child.prompt = (*parent.prompt, (parent.output_stream, 0, parent.generated))
        child.prompt_tokens, child.generated = child.num_tokens, 0
        assert self.kv.free_blocks == free
        return child

    @rule(sequence=consumes(sequences))
    def release(self, sequence: Sequence) -> None:
        size, departure = self.kv.block_size, self.kv.release(sequence)
        others = {block for other in self.tokens if other is not sequence for block in other.blocks}
        assert departure.shared_tokens == sum(
            min(size, sequence.computed - at * size)
            for at, block in enumerate(departure.blocks)
            if block in others
        )
        del self.tokens[sequence]

    @precondition(lambda self: self.kv.pool.cached.idle > 0)
    @rule()
    def evict_everything(self) -> None:
        """One large newcomer takes all that is free, and goes."""
        sequence = self.make(((500 + self.made, 0, self.kv.free_blocks * self.kv.block_size),))
        self.kv.admit(sequence, self.kv.match(sequence))
        self.tokens[sequence] = [(500 + self.made, at) for at in range(sequence.prompt_tokens)]
        assert self.kv.grow(sequence, sequence.prompt_tokens)
        assert self.kv.free_blocks == self.kv.idle_blocks == 0
        self.write(sequence, sequence.prompt_tokens)
        self.kv.release(sequence)
        del self.tokens[sequence]

    @invariant()
    def every_token_is_read_back(self) -> None:
        for sequence, tokens in getattr(self, "tokens", {}).items():
            for position in range(sequence.computed):
                where = self.kv.translate(sequence, position)
                assert self.slots[where] == tokens[position]

    @invariant()
    def books_balance(self) -> None:
        if hasattr(self, "kv"):
            self.kv.check()


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCache = CacheMachine.TestCase


def test_a_thousand_tokens_one_by_one() -> None:
    kv = PrefixCached(80, block_size=16)
    sequence = Sequence.of(Request("s", 0, ((0, 0, 1),), 1000, 1), index=0)
    kv.admit(sequence, kv.match(sequence))
    seen = set()
    for position in range(1000):
        before = kv.free_blocks
        assert kv.grow(sequence, 1)
        assert before - kv.free_blocks == (position % 16 == 0)
        sequence.computed += 1
        sequence.generated += 1
        seen.add(kv.translate(sequence, position))
    assert len(seen) == 1000
    assert sequence.blocks == list(range(1, 64)), "in the order of the free queue"


def fork_and_write(fork_at: int) -> tuple[int, int]:
    """Fork at a position, write 50 tokens on each branch: (distinct blocks, copies)."""
    kv = PrefixCached(80, block_size=16)
    parent = Sequence.of(Request("p", 0, ((0, 0, fork_at),), 50, 1), index=0)
    kv.admit(parent, kv.match(parent))
    assert kv.grow(parent, fork_at)
    parent.computed = fork_at
    child = Sequence.of(Request("c", 0, ((0, 0, fork_at),), 50, 2), index=1)
    kv.fork(parent, child)
    copies = 0
    for _ in range(50):
        for branch in (parent, child):
            assert kv.grow(branch, 1)
            branch.computed += 1
            copies += len(kv.take_copies())
    kv.check()
    return len({*parent.blocks, *child.blocks}), copies


def test_forks_share_until_they_write() -> None:
    assert fork_and_write(100) == (14, 1)
    assert fork_and_write(96)[1] == 0
