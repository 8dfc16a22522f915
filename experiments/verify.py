"""`--verify`: the same run once more, one event per step, and where it first differs.

Compares what a run leaves behind (all tables, and the memory integrals) and what it leaves
out: the physical blocks of each sequence whenever it is admitted, preempted, or finishes.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np

from experiments.build import Simulation, build_latency, build_simulation
from experiments.build_trace import build_trace
from experiments.config import Config, check_repeatable
from experiments.deployment import resolve
from sim.observer import Observer
from sim.plan import Departure, Plan
from sim.record.records import Records

Entry = tuple[int, str, int, int]
"""(ns, event, request, checksum of its block table)"""


@dataclass(slots=True)
class BlockTrail(Observer):
    """An observer that notes which blocks a sequence holds when it comes and goes."""

    entries: list[Entry] = field(default_factory=list)

    def began(self, plan: Plan, now_ns: int) -> None:
        self._note(now_ns, "preempted", plan.preempted)
        for admission in plan.admitted:
            sequence = admission.sequence
            self.entries.append((now_ns, "admitted", sequence.index, _checksum(sequence.blocks)))

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        self._note(now_ns, "finished", departures)

    def _note(self, now_ns: int, event: str, departures: Iterable[Departure]) -> None:
        for sequence, _, blocks, _ in departures:
            self.entries.append((now_ns, event, sequence.index, _checksum(blocks)))


def _checksum(blocks: list[int]) -> int:
    return zlib.crc32(array("q", blocks).tobytes())


@dataclass(frozen=True, slots=True)
class Verification:
    steps: int
    fast_decisions: int
    difference: str | None
    """The first one, in words; None where both loops agree in everything."""


def verify(config: Config) -> Verification:
    """Run a config with both loops and compare. Raises what `simulate` raises, and ConfigError
    for an executor that no run repeats."""
    check_repeatable(config, wanted_by="--verify")
    trails = {loop: BlockTrail() for loop in ("fast", "plain")}
    fast, plain = (serve(config, loop, trail) for loop, trail in trails.items())
    difference = compare_records(fast, plain)
    if difference is None:
        difference = compare_trails(trails["fast"], trails["plain"])
    return Verification(
        steps=sum(engine.steps for engine in plain.cluster.engines),
        fast_decisions=sum(engine.decisions for engine in fast.cluster.engines),
        difference=difference,
    )


def serve(config: Config, loop: str, trail: BlockTrail) -> Simulation:
    """Run a config with one of the loops."""
    engine = config.engine.model_copy(update={"loop": loop})
    deployment = resolve(config.model_copy(update={"engine": engine}))
    simulation = build_simulation(deployment, latency=build_latency(deployment), observers=[trail])
    simulation.serve(build_trace(config))
    return simulation


def compare_records(fast: Simulation, plain: Simulation) -> str | None:
    """The first table and row in which the records differ; None where they are equal."""
    for name in ("step_ends", "events", "chunks", "steps", "memory", "segments", "requests"):
        ours, theirs = fast.records.arrays(name), plain.records.arrays(name)
        rows = [len(next(iter(columns.values()))) for columns in (ours, theirs)]
        shorter = min(rows)
        wrong = [
            (int(np.argmax(differs)), column)
            for column in ours
            if (differs := ours[column][:shorter] != theirs[column][:shorter]).any()
        ]
        if wrong:
            row, column = min(wrong)
            return (
                f"table {name}, row {row}, column {column}: the fast loop has"
                f" {ours[column][row]}, the plain one {theirs[column][row]}"
            )
        if rows[0] != rows[1]:
            return f"table {name}: the fast loop has {rows[0]} rows, the plain one {rows[1]}"
    if fast.records.slot_ns != plain.records.slot_ns:
        return "the memory integrals differ"
    return _compare_texts(fast.records, plain.records)


def _compare_texts(fast: Records, plain: Records) -> str | None:
    """What the records hold beside integers."""
    turned_away = (
        [(request.id, reason) for request, reason in records.refused] for records in (fast, plain)
    )
    for what, pairs in (
        ("answered", zip_longest(fast.texts()["id"], plain.texts()["id"])),
        ("refused", zip_longest(*turned_away)),
    ):
        for row, (ours, theirs) in enumerate(pairs):
            if ours != theirs:
                return f"{what} request {row}: the fast loop has {ours}, the plain one {theirs}"
    return None


def compare_trails(fast: BlockTrail, plain: BlockTrail) -> str | None:
    """The first entry in which they differ; None where they are equal."""
    for ours, theirs in zip_longest(fast.entries, plain.entries):
        if ours is None or theirs is None or ours[:-1] != theirs[:-1]:
            return f"the fast loop has {_say(ours)}, the plain one {_say(theirs)}"
        if ours != theirs:
            return f"{_say(theirs)} with other blocks"
    return None


def _say(entry: Entry | None) -> str:
    if entry is None:
        return "nothing more"
    now_ns, event, request, _ = entry
    return f"at {now_ns} ns request {request} {event}"
