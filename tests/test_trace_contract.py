"""check_trace finds each broken promise; a contract that cannot fail is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from sim.request import Request
from traces.contract import check_trace

FIRST = Request("a", 5, ((0, 0, 3),), 4, 1)
SECOND = Request("b", 5, ((0, 0, 3), (1, 0, 4), (2, 0, 1)), 4, 3)


class Listed:
    """A trace of given requests that may break its promises."""

    name = "listed"
    shifted_by = None

    def __init__(self, *passes: list[Request], prints: str = "0") -> None:
        self.notes: Counter[str] = Counter()
        self._passes = passes
        self._prints = prints
        self._pass = 0
        self._printed = 0

    def __iter__(self) -> Iterator[Request]:
        requests = self._passes[min(self._pass, len(self._passes) - 1)]
        self._pass += 1
        return iter(requests)

    def fingerprint(self) -> str:
        self._printed += 1
        return self._prints[min(self._printed, len(self._prints)) - 1] * 64


def test_a_good_trace_passes() -> None:
    check_trace(Listed([FIRST, SECOND]))


@pytest.mark.parametrize(
    ("requests", "broken"),
    [
        ([], "the trace is empty"),
        ([FIRST, replace(SECOND, id="a")], "request 'a' comes twice"),
        ([FIRST, replace(SECOND, output_stream=1)], "two requests share an output_stream"),
        ([FIRST, replace(SECOND, arrival_ns=4)], "arrives at 4 ns, before 0 or the one before"),
        ([replace(FIRST, arrival_ns=-1)], "arrives at -1 ns"),
        (
            [replace(FIRST, arrival_ns=np.int64(5))],  # type: ignore[arg-type]
            "arrival_ns is int64, not int",
        ),
        ([replace(FIRST, id="")], "a request has no id"),
        ([replace(FIRST, prompt=())], "has no prompt"),
        ([replace(FIRST, prompt=((0, 0, 0),))], "is no run"),
        ([replace(FIRST, prompt=((-1, 0, 1),))], "is no run"),
        ([replace(FIRST, prompt=((0, 0),))], "is no run"),  # type: ignore[arg-type]
        ([replace(FIRST, output_tokens=0)], "output_tokens = 0 is no positive int"),
        ([replace(FIRST, output_stream=-1)], "output_stream = -1 is no int from 0"),
        ([replace(FIRST, n=0)], "n = 0 is no positive int"),
        ([replace(FIRST, max_tokens=3)], "max_tokens = 3 is below its 4 tokens"),
        ([replace(FIRST, prompt=((1, 0, 1),))], "quotes the answer of 'a', which arrives no"),
        ([replace(FIRST, output_tokens=3), SECOND], "quotes 4 tokens of the answer of 'a', which"),
    ],
)
def test_a_broken_promise_is_named(requests: list[Request], broken: str) -> None:
    with pytest.raises(AssertionError, match=broken):
        check_trace(Listed(requests))


def test_a_trace_that_changes_is_found() -> None:
    with pytest.raises(AssertionError, match=r"request 1 changed: .*, then None"):
        check_trace(Listed([FIRST, SECOND], [FIRST]))
    with pytest.raises(AssertionError, match="the fingerprint changed"):
        check_trace(Listed([FIRST], prints="01"))
    with pytest.raises(AssertionError, match="the fingerprint is no sha256 in hex"):
        check_trace(Listed([FIRST], prints="x"))


def test_notes_that_pile_up_are_found() -> None:
    class Forgetful(Listed):
        def __iter__(self) -> Iterator[Request]:
            self.notes["rows"] += 1
            return super().__iter__()

    with pytest.raises(AssertionError, match=r"the notes changed: \{'rows': 1\}"):
        check_trace(Forgetful([FIRST]))


def test_a_nameless_trace_is_found() -> None:
    trace = Listed([FIRST])
    trace.name = ""
    with pytest.raises(AssertionError, match="the trace has no name"):
        check_trace(trace)
