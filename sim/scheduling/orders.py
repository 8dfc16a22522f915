"""Who is served first, and who gives way first: first come, first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from sim.request import Sequence


class Order(Protocol):
    """The waiting queue, and the choice of a victim when blocks run short."""

    overtakes: bool
    """Whether an arrival may become the head although others wait."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sequence]:
        """Who waits, in the order in which they would be served."""
        ...

    def add(self, sequence: Sequence) -> None:
        """Queue a new arrival."""
        ...

    def add_preempted(self, sequence: Sequence) -> None:
        """Queue a sequence that had to give way."""
        ...

    def head(self) -> Sequence | None:
        """Who is next; None when nobody waits."""
        ...

    def pop(self) -> Sequence:
        """Remove and return the head. IndexError when nobody waits."""
        ...

    def withdraw(self, sequence: Sequence) -> None:
        """Take one that waits out of the queue. ValueError where it does not. Slow."""
        ...

    def victim(self, running: list[Sequence]) -> int:
        """Index of the running sequence to preempt."""
        ...


class Fcfs(deque[Sequence]):
    """First come, first served; the latest admitted gives way and resumes first.

    It *is* a deque, some of whose verbs are named anew: nothing is called in between.
    """

    overtakes = False
    add = deque.append
    add_preempted = deque.appendleft
    pop = deque.popleft
    withdraw = deque.remove

    def head(self) -> Sequence | None:
        return self[0] if self else None

    def victim(self, running: list[Sequence]) -> int:
        return len(running) - 1
