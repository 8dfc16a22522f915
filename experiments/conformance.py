"""`python -m experiments.conformance RUN...`: does pagesim decide what a real engine did?

Replays recorded runs through the very classes that a simulation uses and compares every
step: rows in order, admissions, preemptions, finishes, free blocks, queue lengths, and the
physical ids of the blocks that each request gained; then every request's times.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from experiments.build import Simulation, build_latency, build_simulation
from experiments.deployment import resolve
from experiments.exits import DIFFERENT, exits, make_app
from experiments.logbook import Logbook, Reached
from experiments.recorded import RecordedRun, RecordedStep, read_run
from sim.kv.paged import Paged
from sim.latency import Replay

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
    logbook = Logbook()
    simulation = _prepare(run, logbook, loop=loop)
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


def _prepare(run: RecordedRun, logbook: Logbook, *, loop: Loop | None) -> Simulation:
    config = run.config
    if loop is not None:
        config = config.model_copy(
            update={"engine": config.engine.model_copy(update={"loop": loop})}
        )
    deployment = resolve(config)
    latency = (
        build_latency(deployment)
        if run.durations_ns is None
        else Replay(run.durations_ns, source=run.name)
    )
    simulation = build_simulation(deployment, latency=latency, observers=[logbook])
    (engine,) = simulation.cluster.engines
    logbook.scheduler = engine.scheduler
    return simulation


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
    rows = {id_: i for i, id_ in enumerate(simulation.records.ids)}
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
    logbook = Logbook(stop_at=step)
    simulation = _prepare(run, logbook, loop="plain")
    with suppress(Reached):
        simulation.serve(run.requests)
    scheduler = logbook.scheduler
    assert scheduler is not None
    running = [f"{seq.id} {seq.computed}/{seq.num_tokens}" for seq in scheduler.running]
    lines.append(f"  running (computed/tokens): {_short(running)}")
    lines.append(f"  waiting: {scheduler.num_waiting}, free blocks: {scheduler.kv.free_blocks}")
    if isinstance(scheduler.kv, Paged):
        lines.append(f"  head of the free queue: {list(islice(scheduler.kv.pool.queue(), 20))}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters)"


def conformance(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of recorded runs.")],
    loop: Annotated[
        str | None, typer.Option(help="plain or fast; the usual one if not given.")
    ] = None,
) -> None:
    """Replay recorded runs of real engines and compare every decision."""
    with exits():
        if loop not in (None, "plain", "fast"):
            raise typer.BadParameter(f"found {loop}; allowed: plain, fast")
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True)
        recorded = [read_run(folder) for folder in runs]
        differ = 0
        for run in recorded:
            verdict = compare(run, loop=loop)  # type: ignore[arg-type]
            differ += verdict.difference is not None
            style = "red" if verdict.difference else "green"
            blocks = f"{verdict.identical_block_rows}/{verdict.block_rows}"
            console.print(
                f"{verdict.name:28} {verdict.identical_steps}/{verdict.steps} steps,"
                f" {blocks if verdict.block_rows else 'no'} block rows,"
                f" {verdict.identical_requests}/{verdict.requests} requests identical",
                style=style,
            )
            if verdict.difference:
                console.print(verdict.difference, markup=False)
    raise typer.Exit(DIFFERENT if differ else 0)


main = make_app(conformance)

if __name__ == "__main__":
    main()
