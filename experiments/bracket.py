"""A search in few steps: from a start to the edge between what keeps a promise and what fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Generic, NamedTuple, TypeVar

X = TypeVar("X", int, float)

_DIGITS = 6
"""Of a rate between two others, so that a config that holds it can be read."""


class Bracket(NamedTuple, Generic[X]):
    """What was found. All that was seen to keep is no harder than `kept`, and all that was seen to
    fail no easier than `failed`; in between, and where nobody looked, nothing is claimed."""

    kept: X | None
    """The hardest that keeps; None where nothing does."""
    failed: X | None
    """The easiest that fails; None where nothing does."""


@dataclass(frozen=True, slots=True)
class Ladder(Generic[X]):
    """Where to look next. Each is None where there is nothing more to look at."""

    easier: Callable[[X], X | None]
    harder: Callable[[X], X | None]
    between: Callable[[X, X], X | None]
    """Of (kept, failed)."""


def search(keeps: Callable[[X], bool], start: X, ladder: Ladder[X]) -> Bracket[X]:
    """Go easier or harder until both sides are seen, then close in. Asks for nothing twice.

    Nothing is assumed of `keeps`: where it goes to and fro, one of its edges is found.
    """
    kept: X | None = None
    failed: X | None = None
    at: X | None = start
    while at is not None:
        if keeps(at):
            kept = at
        else:
            failed = at
        if kept is None:
            at = ladder.easier(at)
        elif failed is None:
            at = ladder.harder(at)
        else:
            at = ladder.between(kept, failed)
    return Bracket(kept, failed)


def rates(start: float, *, within: float, most: float) -> Ladder[float]:
    """Rates: doubled and halved, at most `most` times the start and no less than a `most`-th of
    it; then by geometric means, until failed / kept <= 1 + `within`."""

    def halve(at: float) -> float | None:
        return at / 2 if at / 2 >= start / most else None

    def double(at: float) -> float | None:
        return at * 2 if at * 2 <= start * most else None

    def divide(kept: float, failed: float) -> float | None:
        if failed <= kept * (1 + within):
            return None
        middle = float(f"{sqrt(kept) * sqrt(failed):.{_DIGITS}g}")
        return middle if kept < middle < failed else None

    return Ladder(easier=halve, harder=double, between=divide)


def counts(*, most: int) -> Ladder[int]:
    """Replicas, of which more are easier: doubled up to `most`, halved down to 1, then halfway
    until kept and failed are neighbours."""

    def double(at: int) -> int | None:
        return min(at * 2, most) if at < most else None

    def halve(at: int) -> int | None:
        return at // 2 if at > 1 else None

    def divide(kept: int, failed: int) -> int | None:
        return (kept + failed) // 2 if kept - failed > 1 else None

    return Ladder(easier=double, harder=halve, between=divide)
