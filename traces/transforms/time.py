"""Transforms of time: a part of it, and its pace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

from sim.request import Request
from traces.ranges import ARRIVALS, check_least, check_positive
from traces.schema import Trace, TraceError
from traces.transforms.transform import Transform


class Window(Transform):
    """The requests that arrive from `from_s` to before `to_s`, rounded to nanoseconds.

    With `rebase` arrivals count from `from_s`. What comes after the window is not read.
    """

    def __init__(
        self, trace: Trace, *, from_s: float = 0, to_s: float | None = None, rebase: bool = True
    ) -> None:
        super().__init__(trace)
        check_least(0, from_s=from_s)
        if to_s is not None:
            check_least(from_s, to_s=to_s)
        self._from_ns = round(exact(from_s) * 10**9)
        self._to_ns = ARRIVALS.stop if to_s is None else round(exact(to_s) * 10**9)
        self._origin_ns = self._from_ns if rebase else 0

    @property
    def parameters(self) -> Sequence[object]:
        return self._from_ns, self._to_ns, self._origin_ns

    def change(self, requests: Iterator[Request], notes: Counter[str]) -> Iterator[Request]:
        for request in requests:
            if request.arrival_ns >= self._to_ns:
                notes[f"cuts at {self._to_ns / 1e9:g} s, with the rest not read"] = 1
                return
            if request.arrival_ns < self._from_ns:
                notes[f"requests before {self._from_ns / 1e9:g} s dropped"] += 1
            elif self._origin_ns:
                notes[f"requests moved {self._origin_ns / 1e9:g} s ahead"] += 1
                yield replace(request, arrival_ns=request.arrival_ns - self._origin_ns)
            else:
                yield request


class ScaleRate(Transform):
    """The same requests at `factor` times the rate: arrivals are divided by the factor.

    The shape of bursts stays as it is: the CV of gaps, and the index of dispersion of counts
    in bins that are scaled alike. The quotient is exact and rounded once, half to even;
    equal arrivals stay equal, and their order stays.
    """

    def __init__(self, trace: Trace, *, factor: float | Fraction) -> None:
        super().__init__(trace)
        check_positive(factor=float(factor))
        self._factor = exact(factor)

    @property
    def parameters(self) -> Sequence[object]:
        return self._factor.numerator, self._factor.denominator

    def change(self, requests: Iterator[Request], notes: Counter[str]) -> Iterator[Request]:
        divisor, times = self._factor.numerator, self._factor.denominator
        for request in requests:
            arrival_ns = _divide(request.arrival_ns * times, divisor)
            if arrival_ns not in ARRIVALS:
                found = f"request {request.id!r} at {arrival_ns} ns after scaling"
                raise TraceError(self.name, None, found, "arrivals within 146 years (2**62 ns)")
            yield replace(request, arrival_ns=arrival_ns)


def exact(number: float | Fraction) -> Fraction:
    """A number as it is written: 1.1 is 11/10, not the nearest binary fraction."""
    return number if isinstance(number, Fraction) else Fraction(str(number))


def _divide(dividend: int, divisor: int) -> int:
    """Rounded half to even, as `round(Fraction(...))`, which is slower by far."""
    quotient, rest = divmod(dividend, divisor)
    return quotient + (2 * rest > divisor or (2 * rest == divisor and quotient % 2 == 1))
