"""What a run costs, in events and decisions: counts that no machine's speed can blur."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from benchmarks.workloads import LINEAR, synthetic
from calibrate.collector import uncollected
from experiments.build import Simulation, build_latency, build_simulation
from experiments.config import parse_config
from experiments.deployment import resolve
from sim.fast.group import Group
from sim.request import Sequence

REQUESTS = 1500
MOST = {
    # workload: (decisions, events) per request
    "light": (3.0, 5.0),
    "near saturation": (1.3, 2.4),
    "overload": (1.0, 2.1),
    "memory pressure": (2.1, 3.2),
    "chat": (2.4, 4.0),
}


def serve(name: str, *, loop: str = "fast") -> Simulation:
    workload = next(each for each in synthetic() if each.name == name)
    config = parse_config(
        {
            "engine": {**workload.engine, "loop": loop},
            "latency": LINEAR,
            "trace": {"kind": "chat"},
        }
    )
    deployment = resolve(config)
    simulation = build_simulation(deployment, latency=build_latency(deployment))
    simulation.serve(workload.requests(REQUESTS))
    return simulation


@pytest.mark.parametrize("name", MOST)
def test_decisions_and_events_per_request(name: str) -> None:
    (engine,) = serve(name).cluster.engines
    decisions, events = MOST[name]
    assert engine.decisions / REQUESTS <= decisions
    assert (engine.events + REQUESTS) / REQUESTS <= events


def test_the_plain_loop_decides_every_step() -> None:
    (engine,) = serve("light", loop="plain").cluster.engines
    assert engine.decisions == engine.steps
    assert engine.events >= engine.steps


def test_nothing_lists_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast run never walks its decode group, but for the recount of the books."""
    walks = []
    original = Group.__iter__

    def walk(self: Group) -> Iterator[Sequence]:
        walks.append(self.step)
        return original(self)

    monkeypatch.setattr(Group, "__iter__", walk)
    (engine,) = serve("near saturation").cluster.engines
    recounts = engine.steps // 1000 + 1
    assert 0 < len(walks) <= 2 * recounts


@pytest.mark.parametrize("name", ["chat", "memory pressure"])
def test_a_run_leaves_next_to_nothing_to_collect(name: str) -> None:
    """So it can do without the collector."""
    serve(name)  # what is imported, and what tests before this one left, does not count
    while gc.collect():
        pass
    with uncollected():
        simulation = serve(name)
        found = gc.collect()
        assert len(simulation.records.arrays("requests")["request"]) == REQUESTS
        del simulation
        found += gc.collect()
    assert found < REQUESTS  # a config leaves a few hundred, however many requests there are


def test_after_a_failed_run_the_collector_is_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    while_failing = []

    def fail(*_: object) -> None:
        while_failing.append(gc.isenabled())
        raise ArithmeticError

    monkeypatch.setattr(Group, "join", fail)
    with pytest.raises(ArithmeticError):
        serve("light")
    assert (while_failing, gc.isenabled()) == ([False], True)
