"""The decode group: everybody who computes one token in each step, without listing them."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from operator import attrgetter

from sim.kv.node import Name
from sim.request import Sequence

ADMISSION = attrgetter("admission")
FOR_EVER = 1 << 62


class Group:
    """Sequences that decode, filed by the step in which each needs its next block.

    A member's progress is not counted but known: in step s it has computed
    `base + s` tokens before and one more after, with a base that never changes. So it takes
    a block in the steps s with (base + s) mod block_size = 0, and fills one in the step
    before. Each residue has its list, in admission order::

        takers(s)  = bucket[s mod block_size]
        fillers(s) = bucket[(s + 1) mod block_size]

    `Sequence.computed` and `generated` of a member are stale; iterating, and leaving, brings
    them up to date.
    """

    def __init__(self, block_size: int) -> None:
        self.step = -1
        """The latest step that was decided."""
        self._block_size = block_size
        self._base: dict[Sequence, int] = {}
        self._base_sum = 0
        self._base_max: int | None = None
        self._buckets: list[list[Sequence]] = [[] for _ in range(block_size)]
        self._answers: dict[int, list[Sequence]] = {}
        """Members with names, by the stream that their answers are."""

    # --- the view that a plan shows

    def __len__(self) -> int:
        return len(self._base)

    def __iter__(self) -> Iterator[Sequence]:
        """In admission order, each brought up to date: as it is while the step runs."""
        for sequence in sorted(self._base, key=ADMISSION):
            self.refresh(sequence, in_step=True)
            yield sequence

    @property
    def context_sum(self) -> int:
        return self._base_sum + len(self._base) * (self.step + 1)

    @property
    def context_max(self) -> int:
        if not self._base:
            return 0
        if self._base_max is None:
            self._base_max = max(self._base.values())
        return self._base_max + self.step + 1

    # --- membership

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._base

    def join(self, sequence: Sequence) -> None:
        """The sequence decodes from the next step on; all its tokens but one are computed."""
        base = sequence.computed - self.step - 1
        self._base[sequence] = base
        self._base_sum += base
        if self._base_max is not None and base > self._base_max:
            self._base_max = base
        bucket = self._buckets[-base % self._block_size]
        if bucket and bucket[-1].admission > sequence.admission:
            insort(bucket, sequence, key=ADMISSION)
        else:
            bucket.append(sequence)
        if sequence.names is not None:
            self._answers.setdefault(sequence.output_stream, []).append(sequence)

    def withdraw(self, sequence: Sequence, *, in_step: bool) -> bool:
        """Bring a member up to date, and let it go; False if it was none."""
        if sequence not in self._base:
            return False
        self.refresh(sequence, in_step=in_step)
        base = self._base.pop(sequence)
        self._base_sum -= base
        if base == self._base_max:
            self._base_max = None
        self._buckets[-base % self._block_size].remove(sequence)
        if sequence.names is not None:
            answers = self._answers[sequence.output_stream]
            answers.remove(sequence)
            if not answers:
                del self._answers[sequence.output_stream]
        return True

    def refresh(self, sequence: Sequence, *, in_step: bool) -> None:
        """Write a member's progress down: before the latest step, or while it runs."""
        sequence.computed = self._base[sequence] + self.step + in_step
        sequence.generated = sequence.computed + (not in_step) - sequence.prompt_tokens

    # --- blocks

    def takers(self, step: int) -> list[Sequence]:
        """Members that need a new block in this step. Not a copy."""
        return self._buckets[step % self._block_size]

    def next_takers(self, steps: int) -> list[list[Sequence]]:
        """`takers` of so many steps after the latest."""
        at = (self.step + 1) % self._block_size
        around = self._buckets[at:] + self._buckets[:at]
        cycles, rest = divmod(steps, self._block_size)
        return around * cycles + around[:rest]

    def fillers(self, step: int) -> list[Sequence]:
        """Members that fill a block in this step. Not a copy."""
        return self._buckets[(step + 1) % self._block_size]

    def steps_within(self, free_blocks: int) -> int:
        """For how many steps, the latest included, the blocks last if nobody joins or
        leaves (or fewer: counting stops where nobody cares)."""
        cycles, left = divmod(free_blocks, len(self._base))
        steps = 1 + cycles * self._block_size
        if cycles >= _CYCLES_ENOUGH:
            return steps
        for bucket in self.next_takers(self._block_size):
            left -= len(bucket)
            if left < 0:
                break
            steps += 1
        return steps

    def steps_before_key(self, key: Name | None, index: int) -> int:
        """For how many steps, the latest included, nobody publishes `key` as its block number
        `index`. Only an answer of the stream that fills such a block can end in it."""
        if key is None:
            return FOR_EVER
        bounds = [
            (index + 1) * self._block_size - self._base[sequence] - self.step - 1
            for sequence in self._answers.get(key[0].stream, ())
            if sequence.published <= index
            and sequence.names is not None
            and sequence.names.name(index) == key
        ]
        return min(bounds, default=FOR_EVER)

    def check(self) -> None:
        """Raise AssertionError where lists and sums disagree. Slow."""
        filed = [sequence for bucket in self._buckets for sequence in bucket]
        assert len(filed) == len(self._base)
        assert set(filed) == set(self._base)
        assert self._base_sum == sum(self._base.values())
        for bucket in self._buckets:
            assert bucket == sorted(bucket, key=ADMISSION), "a bucket is out of order"
        named = sum(sequence.names is not None for sequence in self._base)
        assert sum(map(len, self._answers.values())) == named


_CYCLES_ENOUGH = 8
