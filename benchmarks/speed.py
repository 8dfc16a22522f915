"""`python -m benchmarks.speed`: requests, steps and blocks per CPU-second, against the plain loop.

Everything is recorded, as in any run. Each workload runs in a process of its own, fast loop
and plain loop (on fewer requests) one after the other, three times each, and their ratio is
that of CPU time per request on the same requests. CPU-seconds are this machine's; compare ratios.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.workloads import LINEAR, Workload, public, synthetic
from experiments.build import Simulation, build_latency, build_simulation
from experiments.config import parse_config
from experiments.deployment import resolve
from sim.request import Request

PEERS = {
    "Vidur": "400-800",
    "inference-sim (BLIS)": "578",
    "Dynamo mocker": "about 770",
    "LLMServingSim 2.0": "0.8-1.9",
}
"""Requests per CPU-second, measured on snapshots of late 2026 with workloads of their own."""

_PIPE_COLUMNS = 120


def measure(workload: Workload) -> dict[str, Any]:
    """Serve a workload with both loops; figures by name."""
    requests = workload.requests(workload.count)
    some = requests[: workload.plain_count]
    simulation, cpu_s = _serve(workload, requests, "fast")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # The best of three: whatever else a shared machine does only ever adds time.
    cpu_s = min(cpu_s, *(_serve(workload, requests, "fast")[1] for _ in range(2)))
    some_fast_s, some_plain_s = (
        min(_serve(workload, some, loop)[1] for _ in range(3)) for loop in ("fast", "plain")
    )
    (engine,) = simulation.cluster.engines
    steps = simulation.records.arrays("steps")
    table = simulation.records.arrays("requests")
    n = len(requests)
    blocks = -(-(table["prompt_tokens"] + table["output_tokens"] - 1) // 16)
    return {
        "workload": workload.name,
        "requests": n,
        "requests_per_cpu_s": n / cpu_s,
        "steps_per_cpu_s": engine.steps / cpu_s,
        "blocks_per_cpu_s": int(blocks.sum()) / cpu_s,
        "times_plain": some_plain_s / some_fast_s,
        "decisions_per_request": engine.decisions / n,
        "events_per_request": (engine.events + n) / n,
        "steps_per_decision": engine.steps / engine.decisions,
        "preemptions_per_request": float(table["preemptions"].mean()),
        "mean_batch": float((steps["running"] * steps["steps"]).sum() / engine.steps),
        "mean_prompt_tokens": float(table["prompt_tokens"].mean()),
        "hit_rate": float(table["hit_tokens"].sum() / table["prompt_tokens"].sum()),
        "peak_mb": peak_mb,
    }


def _serve(workload: Workload, requests: list[Request], loop: str) -> tuple[Simulation, float]:
    config = parse_config(
        {
            "engine": {**workload.engine, "loop": loop},
            "latency": workload.latency or LINEAR,
            "trace": {"kind": "chat"},
        }
    )
    deployment = resolve(config)
    simulation = build_simulation(deployment, latency=build_latency(deployment))
    gc.collect()
    gc.freeze()
    started = time.process_time()
    simulation.serve(requests)
    return simulation, time.process_time() - started


def speed(
    traces: Annotated[
        Path | None, typer.Option(help="Folder with azure-2023/ and mooncake/.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
    only: Annotated[str | None, typer.Option(help="Workloads whose name contains this.")] = None,
) -> None:
    """Measure how fast pagesim simulates."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)
    table = Table(
        "workload", "requests", "req/CPU-s", "steps/CPU-s", "blocks/CPU-s", "x plain",
        "decisions/req", "events/req", "peak MB",
    )  # fmt: skip
    figures = []
    workloads = synthetic() + (public(traces) if traces else [])
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        chosen = [each for each in workloads if only is None or only in each.name]
        names = [each.name for each in workloads]
        for workload in chosen:
            with console.status(workload.name):
                index = names.index(workload.name)
                figures.append(pool.apply(_measure_nth, (index, traces)))
            row = figures[-1]
            table.add_row(
                row["workload"],
                f"{row['requests']:,}",
                f"{row['requests_per_cpu_s']:,.0f}",
                f"{row['steps_per_cpu_s']:,.0f}",
                f"{row['blocks_per_cpu_s']:,.0f}",
                f"{row['times_plain']:.1f}",
                f"{row['decisions_per_request']:.2f}",
                f"{row['events_per_request']:.2f}",
                f"{row['peak_mb']:.0f}",
            )
    console.print(table)
    peers = "; ".join(f"{name} {figure}" for name, figure in PEERS.items())
    console.print(f"Requests per CPU-second of others, each on its own workload: {peers}.")
    if traces is None:
        console.print("The Azure and Mooncake traces were left out: give --traces FOLDER.")
    if out is not None:
        out.write_text(json.dumps(figures, indent=2) + "\n")


def _measure_nth(index: int, traces: Path | None) -> dict[str, Any]:
    return measure((synthetic() + (public(traces) if traces else []))[index])


if __name__ == "__main__":
    typer.run(speed)
