"""Who is served first, and who gives way first: vLLM's two scheduling policies."""

from __future__ import annotations

import heapq
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


class Priority:
    """The lowest priority value first, then the earliest arrival, then the id.

    The victim is the running sequence with the highest (priority, arrival), the first in
    the running list among equals: there the id does not count.
    """

    overtakes = True

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str, int, Sequence]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Sequence]:
        return (entry[-1] for entry in sorted(self._heap))

    def add(self, sequence: Sequence) -> None:
        heapq.heappush(self._heap, (*_rank(sequence), sequence))

    add_preempted = add

    def head(self) -> Sequence | None:
        return self._heap[0][-1] if self._heap else None

    def pop(self) -> Sequence:
        return heapq.heappop(self._heap)[-1]

    def withdraw(self, sequence: Sequence) -> None:
        self._heap.remove((*_rank(sequence), sequence))
        heapq.heapify(self._heap)

    def victim(self, running: list[Sequence]) -> int:
        return max(range(len(running)), key=lambda i: (running[i].priority, running[i].arrival_ns))


def _rank(sequence: Sequence) -> tuple[int, int, str, int]:
    return sequence.priority, sequence.arrival_ns, sequence.id, sequence.index
