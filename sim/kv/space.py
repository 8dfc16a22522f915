"""An address space, and three ways to find room in it: first fit, best fit, buddies."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from operator import lt
from typing import Protocol


class Space(Protocol):
    """Addresses 0 .. size - 1, given out in pieces."""

    free: int
    """Addresses that belong to no piece."""

    def fits(self, size: int) -> bool:
        """Would a piece of this size be found? Does not modify."""
        ...

    def take(self, size: int) -> range | None:
        """A piece of at least this size, or None where there is none."""
        ...

    def above(self, piece: range) -> int:
        """By how many addresses `extend` can grow the piece."""
        ...

    def extend(self, piece: range, more: int) -> range | None:
        """The piece grown upwards in place, or None, and unchanged, where its neighbour is
        not free."""
        ...

    def give_back(self, piece: range) -> None: ...

    def check(self, pieces: list[range]) -> None:
        """Raise AssertionError where the books do not balance with these pieces, which are
        all there are."""
        ...


class Holes:
    """Pieces of just the size asked for, cut from the lowest hole that is large enough
    (first fit) or from the smallest one (best fit; the lowest of equals)::

        |<- a ->|   hole   |<- b ->|<- c ->|  hole  |
        0       8          19      27      35       44       bounds 8, 19, 35, 44

    What is taken or given back flips its two ends: each becomes a bound of a hole, or is one no
    more. That holes join, shrink and vanish follows.
    """

    def __init__(self, size: int, *, best: bool) -> None:
        self.size = self.free = size
        self._best = best
        self._bounds = [0, size]
        """Where each hole starts and stops, ascending; no two of them touch."""

    def fits(self, size: int) -> bool:
        return self._find(size) is not None

    def take(self, size: int) -> range | None:
        start = self._find(size)
        return None if start is None else self.extend(range(start, start), size)

    def above(self, piece: range) -> int:
        at = bisect_left(self._bounds, piece.stop)
        touches = self._bounds[at : at + 1] == [piece.stop]
        return self._bounds[at + 1] - piece.stop if touches else 0

    def extend(self, piece: range, more: int) -> range | None:
        if self.above(piece) < more:
            return None
        self.free -= more
        self._flip(piece.stop, piece.stop + more)
        return range(piece.start, piece.stop + more)

    def give_back(self, piece: range) -> None:
        self.free += len(piece)
        self._flip(piece.start, piece.stop)

    def check(self, pieces: list[range]) -> None:
        assert all(map(lt, self._bounds, self._bounds[1:])), "an empty hole, or holes that touch"
        holes = [range(start, stop) for start, stop in self._holes()]
        _check_cover(self, holes, pieces)

    def _holes(self) -> Iterator[tuple[int, int]]:
        bounds = iter(self._bounds)
        return zip(bounds, bounds, strict=True)

    def _find(self, size: int) -> int | None:
        """Where the hole starts that a piece of this size is cut from."""
        fitting = ((stop - start, start) for start, stop in self._holes() if stop - start >= size)
        if self._best:
            return min(fitting, default=(0, None))[1]
        return next(fitting, (0, None))[1]

    def _flip(self, *ends: int) -> None:
        """Holes start or stop here, or do not any more."""
        for end in ends:
            at = bisect_left(self._bounds, end)
            if self._bounds[at : at + 1] == [end]:
                del self._bounds[at]
            else:
                self._bounds.insert(at, end)


class Buddies:
    """Pieces of 2, 4, 8, ... addresses, halved as often as needed; a piece given back joins its
    other half when that is free too (Knowlton, CACM 8(10), 1965).

    A size that is no power of two is a row of powers of two, the largest first.
    """

    def __init__(self, size: int) -> None:
        self.size = self.free = size
        self._largest = size.bit_length()
        self._holes: list[list[int]] = [[] for _ in range(self._largest)]
        """By order: starts of free pieces of 2**order addresses, ascending."""
        start = 0
        for order in reversed(range(self._largest)):
            if size >> order & 1:
                self._holes[order].append(start)
                start += 1 << order

    def fits(self, size: int) -> bool:
        return any(self._holes[_order(size) :])

    def take(self, size: int) -> range | None:
        wanted = _order(size)
        order = next((o for o in range(wanted, self._largest) if self._holes[o]), None)
        if order is None:
            return None
        start = self._holes[order].pop(0)
        while order > wanted:
            order -= 1
            insort(self._holes[order], start + (1 << order))
        self.free -= 1 << order
        return range(start, start + (1 << order))

    def above(self, piece: range) -> int:
        return 0

    def extend(self, piece: range, more: int) -> range | None:
        return None

    def give_back(self, piece: range) -> None:
        self.free += len(piece)
        start, order = piece.start, _order(len(piece))
        while True:
            holes, half = self._holes[order], start ^ 1 << order
            at = bisect_left(holes, half)
            if holes[at : at + 1] != [half]:  # the row's shorter pieces have no other half
                break
            del holes[at]
            start, order = min(start, half), order + 1
        insort(holes, start)

    def check(self, pieces: list[range]) -> None:
        holes = [
            range(start, start + (1 << order))
            for order, starts in enumerate(self._holes)
            for start in starts
        ]
        _check_cover(self, holes, pieces)
        assert all(starts == sorted(starts) for starts in self._holes)
        for piece in (*holes, *pieces):
            assert piece.start % len(piece) == 0, f"{piece} is no half of anything"


def _order(size: int) -> int:
    """Of the smallest power of two that holds so many."""
    return (size - 1).bit_length()


def _check_cover(space: Holes | Buddies, holes: list[range], pieces: list[range]) -> None:
    """They lie side by side, and fill the space."""
    at = 0
    for piece in sorted([*holes, *pieces], key=lambda piece: piece.start):
        assert piece.start == at, f"{piece} after address {at}"
        at = piece.stop
    assert at == space.size
    assert sum(map(len, holes)) == space.free
