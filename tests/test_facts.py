"""Facts that contradict each other make no tables, and it is said which do: for one request as for
many."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from sim.kv.cache import KVCache
from sim.latency import Linear
from sim.record.log import Facts, Log
from sim.record.stays import Stays
from sim.record.ttft import explain_ttft
from tests.worlds import serve, small_world

LATENCY = Linear(base_ns=10, per_token_ns=1, per_context_token_ns=0)


@pytest.fixture(params=[1, 11])
def facts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Facts:
    """What is known when so many requests have been served."""
    noted: list[Facts] = []
    read = Log.read

    def keep(log: Log, kv: KVCache) -> Facts:
        noted.append(read(log, kv))
        return noted[-1]

    monkeypatch.setattr(Log, "read", keep)
    world = small_world(random.Random(5))
    serve(replace(world, requests=world.requests[: request.param]))
    assert len(noted[0].arrivals.sequence) == request.param
    return noted[0]


def without(rows: Any) -> Any:
    """A table of facts, but for its last row."""
    return type(rows)(*(column[:-1] for column in rows))


def explain(facts: Facts) -> None:
    chunks = facts.chunks
    alone_ns = LATENCY.alone(chunks.computed_before, chunks.tokens)
    explain_ttft(facts, Stays(facts), LATENCY, alone_ns)


def test_as_they_are(facts: Facts) -> None:
    explain(facts)
    Stays(facts).segments(facts)


def test_a_request_that_was_never_admitted(facts: Facts) -> None:
    with pytest.raises(AssertionError, match="a request was never admitted"):
        explain(facts._replace(admissions=without(facts.admissions)))


def test_a_request_without_a_first_token(facts: Facts) -> None:
    completes = facts.chunks.completes.copy()
    completes[completes.nonzero()[0][-1]] = 0
    with pytest.raises(AssertionError, match="a request has no first token"):
        explain(facts._replace(chunks=facts.chunks._replace(completes=completes)))


def test_a_request_that_never_ends(facts: Facts) -> None:
    changed = facts._replace(departures=without(facts.departures))
    with pytest.raises(AssertionError, match="segments that begin and never end"):
        Stays(changed).segments(changed)
