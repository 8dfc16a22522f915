"""An address space, and three ways to find room in it: first fit, best fit, buddies."""

from __future__ import annotations

from bisect import bisect_left
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
    (first fit) or from the smallest one (best fit; the lowest of equals)."""

    def __init__(self, size: int, *, best: bool) -> None:
        self.size = self.free = size
        self._best = best
        self._starts = [0]
        """Of the holes, ascending; no two of them touch."""
        self._stops = [size]

    def fits(self, size: int) -> bool:
        return self._find(size) is not None

    def take(self, size: int) -> range | None:
        at = self._find(size)
        if at is None:
            return None
        start = self._starts[at]
        self._cut(at, size)
        return range(start, start + size)

    def above(self, piece: range) -> int:
        at = bisect_left(self._starts, piece.stop)
        touches = at < len(self._starts) and self._starts[at] == piece.stop
        return self._stops[at] - piece.stop if touches else 0

    def extend(self, piece: range, more: int) -> range | None:
        if self.above(piece) < more:
            return None
        self._cut(bisect_left(self._starts, piece.stop), more)
        return range(piece.start, piece.stop + more)

    def give_back(self, piece: range) -> None:
        starts, stops = self._starts, self._stops
        self.free += len(piece)
        at = bisect_left(starts, piece.start)
        below = at > 0 and stops[at - 1] == piece.start
        above = at < len(starts) and starts[at] == piece.stop
        if below and above:
            stops[at - 1] = stops[at]
            del starts[at], stops[at]
        elif below:
            stops[at - 1] = piece.stop
        elif above:
            starts[at] = piece.start
        else:
            starts.insert(at, piece.start)
            stops.insert(at, piece.stop)

    def check(self, pieces: list[range]) -> None:
        holes = [range(*ends) for ends in zip(self._starts, self._stops, strict=True)]
        _check_cover([*holes, *pieces], self.size)
        assert sum(map(len, holes)) == self.free
        assert all(map(len, holes)), "an empty hole"
        touching = zip(self._stops[:-1], self._starts[1:], strict=True)
        assert all(stop < start for stop, start in touching), "holes that touch"

    def _find(self, size: int) -> int | None:
        holes = enumerate(zip(self._starts, self._stops, strict=True))
        large_enough = ((stop - start, at) for at, (start, stop) in holes if stop - start >= size)
        if self._best:
            return min(large_enough, default=(0, None))[1]
        return next(large_enough, (0, None))[1]

    def _cut(self, at: int, size: int) -> None:
        """Take the lower end off a hole."""
        self.free -= size
        self._starts[at] += size
        if self._starts[at] == self._stops[at]:
            del self._starts[at], self._stops[at]


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
            self._insert(order, start + (1 << order))
        self.free -= 1 << order
        return range(start, start + (1 << order))

    def above(self, piece: range) -> int:
        return 0

    def extend(self, piece: range, more: int) -> range | None:
        return None

    def give_back(self, piece: range) -> None:
        self.free += len(piece)
        start, order = piece.start, _order(len(piece))
        while order + 1 < self._largest:
            buddy = start ^ (1 << order)
            holes = self._holes[order]
            at = bisect_left(holes, buddy)
            # The row's shorter pieces have no other half.
            if at == len(holes) or holes[at] != buddy:
                break
            del holes[at]
            start, order = min(start, buddy), order + 1
        self._insert(order, start)

    def check(self, pieces: list[range]) -> None:
        holes = [
            range(start, start + (1 << order))
            for order, starts in enumerate(self._holes)
            for start in starts
        ]
        _check_cover([*holes, *pieces], self.size)
        assert sum(map(len, holes)) == self.free
        assert all(starts == sorted(starts) for starts in self._holes)
        for piece in (*holes, *pieces):
            assert piece.start % len(piece) == 0, f"{piece} is no half of anything"

    def _insert(self, order: int, start: int) -> None:
        holes = self._holes[order]
        holes.insert(bisect_left(holes, start), start)


def _order(size: int) -> int:
    """Of the smallest power of two that holds so many."""
    return (size - 1).bit_length()


def _check_cover(pieces: list[range], size: int) -> None:
    """Pieces lie side by side from 0 to size."""
    at = 0
    for piece in sorted(pieces, key=lambda piece: piece.start):
        assert piece.start == at, f"{piece} after address {at}"
        at = piece.stop
    assert at == size
