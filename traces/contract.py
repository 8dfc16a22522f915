"""The contract of traces, as a test that anybody can run on his own."""

from __future__ import annotations

import re
from itertools import zip_longest

from sim.request import Request
from traces.schema import Trace


def check_trace(trace: Trace) -> None:
    """Assert that a trace keeps its promises; reads it about three times.

    Raises AssertionError naming the request and the promise: arrivals are whole, start at
    or after 0 and never fall; ids and answer streams are unique; lengths are positive; runs
    are well-formed; an answer is quoted only after its request, and no further than it
    goes; iterating again, also after giving up half-way, yields the same and notes the
    same; the fingerprint is a stable sha256.
    """
    _require(bool(trace.name), "the trace has no name")
    fingerprint = trace.fingerprint()
    _require(
        re.fullmatch("[0-9a-f]{64}", fingerprint) is not None,
        f"the fingerprint is no sha256 in hex: {fingerprint!r}",
    )
    requests = list(trace)
    notes = dict(trace.notes)
    _require(bool(requests), "the trace is empty")
    _check_requests(requests)
    next(iter(trace))
    for index, (first, again) in enumerate(zip_longest(requests, trace)):
        _require(first == again, f"request {index} changed: {first}, then {again}")
    _require(dict(trace.notes) == notes, f"the notes changed: {notes}, then {dict(trace.notes)}")
    _require(
        trace.fingerprint() == fingerprint,
        f"the fingerprint changed: {fingerprint}, then {trace.fingerprint()}",
    )


def _check_requests(requests: list[Request]) -> None:
    ids: set[str] = set()
    answers = {request.output_stream: request for request in requests}
    _require(len(answers) == len(requests), "two requests share an output_stream")
    arrived: set[int] = set()
    last_ns = 0
    for request in requests:
        _check_request(request)
        who = f"request {request.id!r}"
        _require(request.id not in ids, f"{who} comes twice")
        ids.add(request.id)
        _require(
            request.arrival_ns >= last_ns,
            f"{who} arrives at {request.arrival_ns} ns, before 0 or the one before ({last_ns} ns)",
        )
        last_ns = request.arrival_ns
        for stream, start, length in request.prompt:
            if stream not in answers:
                continue
            quoted = answers[stream]
            _require(
                stream in arrived,
                f"{who} quotes the answer of {quoted.id!r}, which arrives no earlier",
            )
            _require(
                start + length <= quoted.output_tokens,
                f"{who} quotes {start + length} tokens of the answer of {quoted.id!r},"
                f" which has {quoted.output_tokens}",
            )
        arrived.add(request.output_stream)


def _check_request(request: Request) -> None:
    who = f"request {request.id!r}"
    _require(bool(request.id), "a request has no id")
    _require(
        type(request.arrival_ns) is int,
        f"{who}: arrival_ns is {type(request.arrival_ns).__name__}, not int",
    )
    _require(bool(request.prompt), f"{who} has no prompt")
    for run in request.prompt:
        whole = len(run) == 3 and all(type(number) is int for number in run)
        _require(
            whole and run[0] >= 0 and run[1] >= 0 and run[2] > 0,
            f"{who}: {run} is no run (stream >= 0, start >= 0, length > 0) of ints",
        )
    _require(
        type(request.output_tokens) is int and request.output_tokens > 0,
        f"{who}: output_tokens = {request.output_tokens!r} is no positive int",
    )
    _require(
        type(request.output_stream) is int and request.output_stream >= 0,
        f"{who}: output_stream = {request.output_stream!r} is no int from 0",
    )
    _require(
        type(request.n) is int and request.n > 0,
        f"{who}: n = {request.n!r} is no positive int",
    )
    _require(
        type(request.beam) is int and request.beam >= 0 and (request.beam == 0 or request.n == 1),
        f"{who}: beam = {request.beam!r} is no int from 0, or n is above 1 beside it",
    )
    _require(
        request.max_tokens is None or request.max_tokens >= request.output_tokens,
        f"{who}: max_tokens = {request.max_tokens} is below its {request.output_tokens} tokens",
    )


def _require(kept: bool, broken: str) -> None:
    # Not an assert statement: python -O would drop the contract.
    if not kept:
        raise AssertionError(broken)
