"""The order of vLLM's policy `priority`."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from sim.request import Sequence


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
