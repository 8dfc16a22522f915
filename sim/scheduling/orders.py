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


class Fcfs:
    """First come, first served; the latest admitted gives way and resumes first."""

    overtakes = False

    def __init__(self) -> None:
        self._queue: deque[Sequence] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._queue)

    def add(self, sequence: Sequence) -> None:
        self._queue.append(sequence)

    def add_preempted(self, sequence: Sequence) -> None:
        self._queue.appendleft(sequence)

    def head(self) -> Sequence | None:
        return self._queue[0] if self._queue else None

    def pop(self) -> Sequence:
        return self._queue.popleft()

    def withdraw(self, sequence: Sequence) -> None:
        self._queue.remove(sequence)

    def victim(self, running: list[Sequence]) -> int:
        return len(running) - 1
