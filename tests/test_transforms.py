"""Transforms of traces: laws, contracts, and what they note."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.request import Request
from tests.trace_files import refusal
from traces.chat import ChatWorkload
from traces.contract import check_trace
from traces.schema import Trace
from traces.transforms.content import Relabel, Truncate
from traces.transforms.merge import Merge
from traces.transforms.selection import Head, Thin
from traces.transforms.time import ScaleRate, Window

CHAT = ChatWorkload(requests=400, think_mean_s=5)


class Listed:
    """A trace of given requests."""

    shifted_by: str | None = None

    def __init__(self, requests: list[Request], *, name: str = "listed") -> None:
        self.name = name
        self.notes: Counter[str] = Counter()
        self._requests = requests

    def __iter__(self) -> Iterator[Request]:
        self.notes.clear()
        self.notes["rows dropped"] = 2
        return iter(self._requests)

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self._requests).encode()).hexdigest()


def arriving(*arrivals_ns: int, name: str = "listed") -> Listed:
    requests = [
        Request(f"r{index}", arrival_ns, ((2 * index, 0, 5),), 3, 2 * index + 1)
        for index, arrival_ns in enumerate(arrivals_ns)
    ]
    return Listed(requests, name=name)


def times(trace: Trace) -> list[int]:
    return [request.arrival_ns for request in trace]


some_arrivals = st.lists(st.integers(0, 10**12), min_size=1, max_size=30).map(sorted)
seconds = st.integers(0, 1000)

ALL: list[Trace] = [
    Window(CHAT, from_s=10, to_s=60),
    Window(CHAT, from_s=10, rebase=False),
    ScaleRate(CHAT, factor=1.7),
    Thin(CHAT, keep=0.3),
    Thin(CHAT, keep=0.3, by="request"),
    Head(CHAT, requests=50),
    Truncate(CHAT, max_prompt_tokens=700, max_output_tokens=90),
    Truncate(CHAT, max_prompt_tokens=700, max_output_tokens=90, longer="drop"),
    Relabel(CHAT, tenant="t", priority=-1, forget=["session"]),
    Merge({"a": CHAT, "b": Window(CHAT, to_s=30), "c": CHAT}),
    Head(Truncate(Thin(Merge({"a": CHAT}), keep=0.5), max_output_tokens=20), requests=9),
]


@pytest.mark.parametrize("trace", ALL, ids=lambda trace: type(trace).__name__)
def test_a_transform_is_a_trace(trace: Trace) -> None:
    check_trace(trace)


def test_fingerprints_tell_transforms_apart() -> None:
    other = ChatWorkload(requests=400, think_mean_s=6)
    further: list[Trace] = [
        *(Head(other, requests=50), Head(CHAT, requests=51), Thin(CHAT, keep=0.3, seed=1)),
        *(Window(CHAT, from_s=10), Window(CHAT, from_s=10, to_s=61), ScaleRate(CHAT, factor=1.8)),
        *(Relabel(CHAT, tenant="u"), Truncate(CHAT, max_prompt_tokens=90), Merge({"a": CHAT})),
        *(Truncate(CHAT, max_output_tokens=90), Merge({"b": CHAT}), Relabel(CHAT, session="u")),
    ]
    prints = {trace.fingerprint() for trace in (*ALL, *further, CHAT)}
    assert len(prints) == len(ALL) + len(further) + 1


def test_notes_are_those_within_and_its_own() -> None:
    trace = Head(Window(arriving(0, 5 * 10**9, 6 * 10**9, 9 * 10**9), from_s=2), requests=2)
    assert times(trace) == [3 * 10**9, 4 * 10**9]
    assert trace.notes == {
        "rows dropped": 2,
        "requests before 2 s dropped": 1,
        "requests moved 2 s ahead": 3,
        "cuts after 2 requests, with the rest not read": 1,
    }


def test_nothing_left_is_a_mistake() -> None:
    said = refusal(Window(arriving(1, 2), from_s=1))
    assert said == (
        "listed: found no requests after window (rows dropped: 2, requests before 1 s dropped: 2);"
        " allowed: at least one request"
    )


def test_a_window_includes_its_beginning_and_not_its_end() -> None:
    trace = arriving(999_999_999, 10**9, 2 * 10**9 - 1, 2 * 10**9)
    assert times(Window(trace, from_s=1, to_s=2)) == [0, 10**9 - 1]
    assert times(Window(trace, from_s=1, to_s=2, rebase=False)) == [10**9, 2 * 10**9 - 1]
    assert times(Window(trace, from_s=0.999999999)) == [0, 1, 10**9, 10**9 + 1]


@given(some_arrivals, seconds, seconds, seconds, seconds)
def test_a_window_of_a_window_is_a_window(
    arrivals: list[int], start: int, length: int, later: int, inner: int
) -> None:
    trace = arriving(*arrivals)
    end = min(start + length, start + later + inner)
    expected = [
        at - (start + later) * 10**9
        for at in arrivals
        if (start + later) * 10**9 <= at < end * 10**9
    ]
    twice = Window(
        Window(trace, from_s=start, to_s=start + length), from_s=later, to_s=later + inner
    )
    once = Window(trace, from_s=start + later, to_s=max(end, start + later))
    for window in (once, twice):
        if expected:
            assert times(window) == expected
        else:
            assert "found no requests" in refusal(window)


@given(some_arrivals, st.fractions(Fraction(1, 1000), 1000, max_denominator=1000))
def test_scaling_is_exact_and_keeps_order_and_ties(arrivals: list[int], factor: Fraction) -> None:
    scaled = times(ScaleRate(arriving(*arrivals), factor=factor))
    assert scaled == [round(Fraction(at) / factor) for at in arrivals]
    assert all(a <= b for a, b in pairwise(scaled))
    for (before, after), (first, second) in zip(pairwise(arrivals), pairwise(scaled), strict=True):
        if before == after:
            assert first == second


@given(some_arrivals, st.fractions(Fraction(1, 1000), 1, max_denominator=1000))
def test_slower_and_as_fast_again_is_the_same(arrivals: list[int], factor: Fraction) -> None:
    slower = ScaleRate(arriving(*arrivals), factor=factor)
    assert times(ScaleRate(slower, factor=1 / factor)) == arrivals


@given(st.lists(st.integers(0, 10**9), min_size=3, max_size=200).map(sorted), st.integers(2, 9))
def test_scaling_keeps_the_shape_of_bursts(arrivals: list[int], slower: int) -> None:
    """CV of gaps, and dispersion of counts in bins scaled alike: exactly."""
    scaled = times(ScaleRate(arriving(*arrivals), factor=Fraction(1, slower)))
    assert scaled == [at * slower for at in arrivals]
    gaps, wider = ([Fraction(b - a) for a, b in pairwise(t)] for t in (arrivals, scaled))
    assert squared_cv(gaps) == squared_cv(wider)
    bin_ns = 10**8
    counts = [
        np.bincount([at // b for at in t]).tolist()
        for t, b in ((arrivals, bin_ns), (scaled, bin_ns * slower))
    ]
    assert counts[0] == counts[1]


def squared_cv(gaps: list[Fraction]) -> Fraction | None:
    mean = sum(gaps, Fraction()) / len(gaps)
    return (
        sum(((gap - mean) ** 2 for gap in gaps), Fraction()) / len(gaps) / mean**2 if mean else None
    )


def test_a_factor_is_taken_as_written() -> None:
    """1.1 is 11/10: with the nearest binary fraction this would be a nanosecond less."""
    assert times(ScaleRate(arriving(11 * 10**17), factor=1.1)) == [10**18]
    assert times(ScaleRate(arriving(1, 3), factor=2)) == [0, 2]


def test_scaling_beyond_a_lifetime_is_refused() -> None:
    assert "allowed: arrivals within 146 years" in refusal(ScaleRate(arriving(2**61), factor=0.1))


@pytest.mark.parametrize("keep", [0.2, 0.5])
def test_thinning_keeps_sessions_whole(keep: float) -> None:
    chat = ChatWorkload(requests=3000, think_mean_s=1)
    whole = Counter(request.session for request in chat)
    thin = Thin(chat, keep=keep)
    kept = Counter(request.session for request in thin)
    assert all(whole[session] == count for session, count in kept.items())
    sessions = len(whole)
    assert len(kept) == pytest.approx(
        sessions * keep, abs=3 * (sessions * keep * (1 - keep)) ** 0.5
    )
    note = f"requests dropped to keep {keep:g} of the sessions"
    assert thin.notes[note] == 3000 - kept.total()


def test_a_smaller_share_is_part_of_a_larger_one() -> None:
    ids = [
        {request.id for request in Thin(CHAT, keep=keep, by="request")} for keep in (0.2, 0.6, 1)
    ]
    assert ids[0] < ids[1] < ids[2]
    assert len(ids[2]) == 400
    other = {request.id for request in Thin(CHAT, keep=0.2, by="request", seed=1)}
    assert other != ids[0]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), some_arrivals, min_size=1))
def test_merging_is_ordered_and_complete(arrivals: dict[str, list[int]]) -> None:
    merged = Merge({name: arriving(*each) for name, each in arrivals.items()})
    requests = list(merged)
    # Equal arrivals: in the order of the traces, and within a trace in its own.
    expected = sorted(
        (at, place, index, f"{name}/r{index}")
        for place, (name, each) in enumerate(arrivals.items())
        for index, at in enumerate(each)
    )
    assert [(r.arrival_ns, r.id) for r in requests] == [(at, name) for at, _, _, name in expected]
    check_trace(merged)
    streams = [stream for r in requests for stream in (r.prompt[0][0], r.output_stream)]
    assert len(set(streams)) == len(streams)


def test_a_merge_keeps_what_is_shared_within_a_trace() -> None:
    merged = list(Merge({"a": CHAT, "b": CHAT}))
    for name in "ab":
        mine = [r for r in merged if r.id.startswith(name)]
        for one, original in zip(mine, CHAT, strict=True):
            assert one.session == f"{name}/{original.session}"
            lengths = [run[1:] for run in original.prompt]
            assert [run[1:] for run in one.prompt] == lengths
        firsts = Counter(r.prompt[0][0] for r in mine)
        assert sorted(firsts.values()) == sorted(Counter(r.prompt[0][0] for r in CHAT).values())


def test_a_merge_says_whose_notes_and_shifts_are_whose() -> None:
    shifted = arriving(1, name="other")
    shifted.shifted_by = "18:00"
    merged = Merge({"a": arriving(5), "b": shifted})
    list(merged)
    assert merged.notes == {"a: rows dropped": 2, "b: rows dropped": 2}
    assert merged.shifted_by == "18:00 (b)"
    assert merged.name == "listed + other"
    assert Merge({"a": CHAT}).shifted_by is None


def test_streams_too_high_to_merge_are_refused() -> None:
    high = Listed([Request("r", 0, ((2**62, 0, 1),), 1, 1)])
    said = refusal(Merge({"a": CHAT, "b": high}))
    assert said.startswith(f"b: found the stream {2**62} in request 'r', one of 2 traces; allowed")


TALK = [
    Request("s-t0", 0, ((0, 0, 4), (1, 0, 6)), 10, 2, session="s"),
    Request("s-t1", 5, ((0, 0, 4), (1, 0, 6), (2, 0, 10), (3, 0, 5)), 3, 4, session="s"),
    Request("s-t2", 9, ((2, 8, 2),), 3, 5, session="s"),
]


def truncated(longer: Literal["clip", "drop"], **limits: int) -> tuple[list[Request], Counter[str]]:
    trace = Truncate(Listed(TALK), longer=longer, **limits)
    requests = list(trace)
    check_trace(trace)
    notes = Counter(trace.notes)
    del notes["rows dropped"]
    return requests, notes


def test_a_clipped_answer_is_quoted_as_it_is_now() -> None:
    requests, notes = truncated("clip", max_output_tokens=7)
    assert requests == [
        replace(TALK[0], output_tokens=7),
        replace(TALK[1], prompt=((0, 0, 4), (1, 0, 6), (2, 0, 7), (3, 0, 5))),
    ]
    assert notes == {
        "answers over 7 tokens clipped": 1,
        "prompts shortened that quote clipped answers": 1,
        "prompts dropped that quote clipped answers": 1,
    }


def test_a_clipped_prompt_keeps_its_beginning() -> None:
    requests, notes = truncated("clip", max_prompt_tokens=9)
    assert [request.prompt for request in requests] == [
        ((0, 0, 4), (1, 0, 5)),
        ((0, 0, 4), (1, 0, 5)),
        ((2, 8, 2),),
    ]
    assert notes == {"prompts over 9 tokens clipped": 2}


def test_what_is_too_long_can_be_dropped() -> None:
    requests, notes = truncated("drop", max_prompt_tokens=10, max_output_tokens=5)
    assert requests == [TALK[2]]
    assert notes == {"prompts over 10 tokens dropped": 1, "answers over 5 tokens dropped": 1}


def test_relabelling() -> None:
    (first, *_) = Relabel(Listed(TALK), tenant="t", priority=3)
    assert first == replace(TALK[0], tenant="t", priority=3)
    again = Relabel(
        Relabel(Listed(TALK), tenant="t", priority=3), session="u", forget=["tenant", "priority"]
    )
    assert list(again) == [replace(request, session="u") for request in TALK]
