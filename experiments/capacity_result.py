"""What a search for a capacity asks and finds, and how it is written down."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.config import Config
from experiments.identity import read_versions
from experiments.results import RunResult
from experiments.simulate import Survey
from experiments.slo import Goal, Judgement

Axis = Literal["rate", "replicas"]


class Case(NamedTuple):
    """A config that can be searched."""

    config: Config
    trace: Survey
    own_rate: float
    """Of its trace as it stands, in requests per second."""
    most_replicas: int


@dataclass(frozen=True, slots=True)
class Point:
    """A run of the search."""

    rate: float
    """Requests per second that arrive."""
    replicas: int
    keeps: bool
    judged: Judgement
    result: RunResult
    reused: bool


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a search found."""

    axis: Axis
    """What was varied."""
    goal: Goal
    case: Case
    points: tuple[Point, ...]
    """In the order in which they were simulated."""
    kept: Point | None
    failed: Point | None
    futile: bool
    """The search ended early: half the load did not help."""
    path: Path
    """The folder with capacity.json and the figure."""

    def by_load(self) -> list[Point]:
        """From the least load of a replica to the most."""
        return sorted(self.points, key=lambda point: point.rate / point.replicas)


def describe(capacity: Capacity) -> dict[str, Any]:
    """All that was found, ready for JSON; points in the order of their load."""
    kept, failed = capacity.kept, capacity.failed
    return {
        "capacity": {"id": capacity.path.name, "versions": read_versions()},
        "varied": capacity.axis,
        "goal": {
            "share": capacity.goal.share,
            "within": capacity.goal.within,
            "slo": capacity.points[0].judged.limits,
        },
        "trace_requests_per_s": capacity.case.own_rate,
        "kept": None if kept is None else _locate(kept),
        "failed": None if failed is None else _locate(failed),
        "futile": capacity.futile,
        "points": [_describe_point(point) for point in capacity.by_load()],
    }


def _locate(point: Point) -> dict[str, Any]:
    return {
        "requests_per_s": point.rate,
        "replicas": point.replicas,
        "run": point.result.path.name,
    }


def _describe_point(point: Point) -> dict[str, Any]:
    judged, latency_ms = point.judged, point.result.summary["latency_ms"]
    low, high = judged.bounds
    return {
        **_locate(point),
        "keeps": point.keeps,
        "arrived": judged.arrived,
        "refused": judged.refused,
        "share": judged.share,
        "share_low": low,
        "share_high": high,
        "missed": judged.missed,
        "doomed": judged.doomed,
        "ttft_cause": None if judged.cause is None else judged.cause._asdict(),
        "backlog": judged.backlog._asdict(),
        "latency_ms": {
            name: {number: latency_ms[name].get(number) for number in ("p50", "p99")}
            for name in ("ttft", "tpot", "e2e")
        },
        "limits": point.result.summary["limits"]["share_of_busy_time"],
    }
