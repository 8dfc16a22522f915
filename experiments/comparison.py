"""A recorded run, replayed through the very classes that a simulation uses, and compared.

Every step: rows in order, admissions, preemptions, finishes, free blocks, queue lengths, and
the physical ids of the blocks that each request gained; then every request's times.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Literal

from experiments.build import Simulation, build_latency, build_simulation
from experiments.deployment import resolve
from experiments.logbook import Logbook, Reached
from experiments.recorded import RecordedRun, RecordedStep
from sim.kv.paged import Paged
from sim.latency import Replay
from sim.scheduling.face import Scheduler
from sim.scheduling.vllm import VllmScheduler

Loop = Literal["plain", "fast"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How much of a recorded run was met."""

    name: str
    steps: int
    identical_steps: int
    block_rows: int
    """Steps whose gained blocks were recorded."""
    identical_block_rows: int
    requests: int
    """Requests whose times were recorded."""
    identical_requests: int
    difference: str | None
    """The first one, in words; None where everything is identical."""


def compare(run: RecordedRun, *, loop: Loop | None = None) -> Verdict:
    """Replay a recorded run and compare. `loop`: as in a config; None takes the usual one."""
    simulation, logbook = _prepare(run, loop=loop)
    simulation.serve(run.requests)
    pairs = list(zip(run.steps, logbook.steps, strict=False))
    same_blocks = [
        ours.blocks == theirs.blocks for theirs, ours in pairs if theirs.blocks is not None
    ]
    differing = [i for i, pair in enumerate(pairs) if _differences(*pair, ordered=run.ordered)]
    same_requests, wrong_request = _compare_requests(run, simulation)
    difference = wrong_request
    if len(run.steps) != len(logbook.steps):
        difference = f"{len(run.steps)} steps were recorded, {len(logbook.steps)} came"
    if differing:
        difference = _describe(run, pairs[differing[0]], step=differing[0])
    return Verdict(
        name=run.name,
        steps=len(run.steps),
        identical_steps=len(pairs) - len(differing),
        block_rows=sum(step.blocks is not None for step in run.steps),
        identical_block_rows=sum(same_blocks),
        requests=len(run.outcomes),
        identical_requests=same_requests,
        difference=difference,
    )


def _prepare(
    run: RecordedRun, *, loop: Loop | None, stop_at: int | None = None
) -> tuple[Simulation, Logbook]:
    config = run.config
    if loop is not None:
        engine = config.engine.model_copy(update={"loop": loop})
        config = config.model_copy(update={"engine": engine})
    deployment = resolve(config)
    latency = (
        build_latency(deployment)
        if run.durations_ns is None
        else Replay(run.durations_ns, source=run.name)
    )
    logbooks: list[Logbook] = []

    def watch(scheduler: Scheduler) -> Logbook:
        logbooks.append(Logbook(scheduler, stop_at=stop_at))
        return logbooks[-1]

    simulation = build_simulation(deployment, latency=latency, watch=watch)
    return simulation, logbooks[0]


def _differences(theirs: RecordedStep, ours: RecordedStep, *, ordered: bool) -> list[str]:
    """Names of the fields that were recorded and differ."""
    differing = []
    for each in fields(RecordedStep):
        expected, came = getattr(theirs, each.name), getattr(ours, each.name)
        if each.name == "rows" and not ordered:
            expected, came = sorted(expected), sorted(came)
        if expected is not None and expected != came:
            differing.append(each.name)
    return differing


def _compare_requests(run: RecordedRun, simulation: Simulation) -> tuple[int, str | None]:
    """How many requests have the recorded times, and the first that has not."""
    table = simulation.records.arrays("requests")
    rows = {id_: i for i, id_ in enumerate(simulation.records.texts()["id"])}
    identical, wrong = 0, None
    for id_, expected in run.outcomes.items():
        at = rows.get(id_)
        came = None if at is None else {name: int(table[name][at]) for name in expected}
        identical += came == expected
        if came != expected and wrong is None:
            wrong = f"request {id_}: expected {expected}, came {came}"
    return identical, wrong


def _describe(run: RecordedRun, pair: tuple[RecordedStep, RecordedStep], *, step: int) -> str:
    """The first difference, with queues and pool as the plain loop has them in that step."""
    lines = [f"step {step}:"]
    for name in _differences(*pair, ordered=run.ordered):
        expected, came = (_short(getattr(side, name)) for side in pair)
        lines += [f"  {name}: expected {expected}", f"  {' ' * len(name)}  came     {came}"]
    simulation, logbook = _prepare(run, loop="plain", stop_at=step)
    with suppress(Reached):
        simulation.serve(run.requests)
    scheduler = logbook.scheduler
    running = [f"{seq.id} {seq.computed}/{seq.num_tokens}" for seq in scheduler.running]
    lines.append(f"  running (computed/tokens): {_short(running)}")
    if isinstance(scheduler, VllmScheduler):
        lines.append(f"  waiting (next first): {_short([seq.id for seq in scheduler.order])}")
    lines.append(f"  free blocks: {scheduler.kv.free_blocks}")
    if isinstance(scheduler.kv, Paged):
        lines.append(f"  head of the free queue: {list(islice(scheduler.kv.pool.queue(), 20))}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters)"
