"""A plan: what one step computes. Plain data; whoever runs it needs nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from sim.moves import Copy, Swap
    from sim.request import Sequence


class Limit(IntEnum):
    """What closed a step.

    Tested in the order blocks (if somebody was preempted), tokens, seats, none, and only then
    by looking at the head of the queue: so the label does not depend on who is waiting behind
    the head, and can only change where the plan does, or where the queue was empty.
    """

    NONE = 0
    """Nobody was left waiting: more work would have been admitted."""
    SEATS = 1
    """max_num_seqs sequences run (or will, when those that are to fork have), or fewer seats
    are left than the head will take."""
    TOKENS = 2
    """The budget of the step is spent, or (chunking off) the head's prompt exceeds the rest."""
    BLOCKS = 3
    """Too few free KV blocks for the head's chunk, or a running sequence was preempted."""
    GATE = 4
    """All of the head's tokens, plus the watermark, do not fit (the whole-sequence gate)."""


class Chunk(NamedTuple):
    """Several tokens of one sequence (or the single one that is not a plain decode)."""

    sequence: Sequence
    computed_before: int
    n: int


class Admission(NamedTuple):
    """A sequence that entered the running list in this step."""

    sequence: Sequence
    hit_tokens: int
    """Tokens found in the prefix cache; its first chunk follows them and what is swapped in."""
    woken_blocks: int
    """Hit blocks that nobody held; the other hit blocks are shared with their holders."""


class Departure(NamedTuple):
    """A sequence that gave its blocks back, by preemption or because it finished or was given
    up."""

    sequence: Sequence
    computed: int
    """Tokens it held in the cache when it left."""
    blocks: list[int]
    """The block table it gave back."""
    shared_tokens: int
    """How many of these tokens stay, in blocks that others go on holding."""


class Decodes(Protocol):
    """The sequences that compute one token each, in admission order.

    A live view of the scheduler's decode group: valid until the next schedule().
    """

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Sequence]: ...

    @property
    def context_sum(self) -> int:
        """Tokens attended to by all of them in this step, each one's new token included."""
        ...

    @property
    def context_max(self) -> int:
        """The longest of these contexts; 0 for an empty group."""
        ...


class DecodeList:
    """Decodes gathered one by one: what a scheduler that walks its running list uses."""

    __slots__ = ("_members", "context_sum")

    def __init__(self) -> None:
        self._members: dict[Sequence, int] = {}
        self.context_sum = 0

    def add(self, sequence: Sequence, *, context: int) -> None:
        self._members[sequence] = context
        self.context_sum += context

    def withdraw(self, sequence: Sequence) -> bool:
        """Take a member out again; False if it was none."""
        context = self._members.pop(sequence, 0)
        self.context_sum -= context
        return context > 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._members)

    @property
    def context_max(self) -> int:
        return max(self._members.values(), default=0)


@dataclass(slots=True)
class Plan:
    """One step's work, in admission order within each part.

    `chunks` holds every row that is not a one-token decode; `decodes` is the decode group.
    What happened on the way to this plan stands beside them: who was preempted, who was
    admitted, and what kept the rest out.
    """

    decodes: Decodes
    step: int = 0
    """Number of the step on its replica, counted from 0."""
    chunks: list[Chunk] = field(default_factory=list)
    completing: list[Sequence] = field(default_factory=list)
    """Whose chunk is the last that was to be computed, so that the step gives them a token, as
    it gives one to every decode."""
    swaps: tuple[Swap, ...] = ()
    """To be made first of all, in this order: who is swapped out leaves its blocks to others."""
    copies: list[Copy] = field(default_factory=list)
    """To be made in this order: a block may be one's source, and then another's target."""
    preempted: list[Departure] = field(default_factory=list)
    admitted: list[Admission] = field(default_factory=list)
    limit: Limit = Limit.NONE
    refused: Sequence | None = None
    """The head of the queue, where it was looked at and found no room."""

    @property
    def is_empty(self) -> bool:
        """Nobody computes anything, and nothing is swapped: it takes no time."""
        return not (self.chunks or self.swaps or len(self.decodes))

    @property
    def is_idle(self) -> bool:
        """Nothing happens at all: it is no step."""
        return self.is_empty and not self.preempted

    def rows(self) -> list[Chunk]:
        """All rows in admission order, decodes written as chunks of one token.

        To be asked after schedule(), whose tokens count as computed already.
        """
        decodes = (Chunk(seq, seq.computed - 1, 1) for seq in self.decodes)
        return sorted((*self.chunks, *decodes), key=lambda row: row.sequence.admission)
