"""Traces served on real kernels, held against the same trace under a latency table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calibrate.correction import plan_of
from calibrate.steptime import StepTime
from experiments.build import build_latency, build_simulation
from experiments.build_trace import build_trace
from experiments.config import Config, parse_config
from experiments.deployment import resolve
from experiments.errors import ConfigError
from experiments.fidelity import compare, compare_totals
from experiments.served_log import Served, ServedError, Spans
from experiments.tables import make_frames
from experiments.trials import JUDGED, gate_mean, latencies_of

Floats = NDArray[np.float64]

_MOST_STEPS = 1000
"""Of a kind, that are priced one by one."""


@dataclass(frozen=True, slots=True)
class StepErrors:
    """Steps of one kind, measured and priced. Times in ns; without the host's, but for the last."""

    where: str
    """random (before a run, by themselves) or run."""
    kind: str
    steps: int
    measured_ns: float
    """Median; so are"""
    priced_ns: float
    exposed_ns: float
    """measured less priced: what the table does not know, host time above all."""
    off: float
    """The mean of |priced + host / measured - 1|."""


@dataclass(frozen=True, slots=True)
class Host:
    """The time added to every step."""

    ns: int
    said: str


def group_runs(runs: Sequence[Served]) -> list[list[Served]]:
    """Runs of the same config, which repeat each other, in the order of the first of each."""
    groups: list[list[Served]] = []
    for run in runs:
        for group in groups:
            if group[0].config == run.config:
                group.append(run)
                break
        else:
            groups.append([run])
    return groups


def find_host(run: Served, table: str, asked_ns: int | None) -> Host:
    """What was asked for, or the median that random steps took longer than the table says."""
    if asked_ns is not None:
        return Host(asked_ns, "as asked for")
    if not run.random_steps:
        return Host(0, "no random steps were measured")
    clock = _clock(_settle(run.config, table, host_ns=0))
    exposed = np.median(_measured(run.random_steps) - _price(clock, run.random_steps))
    if exposed < 0:
        return Host(0, f"random steps took {-exposed / 1e6:.2f} ms less than the table says")
    return Host(round(exposed), f"median of {len(run.random_steps)} random steps before the run")


def judge(group: Sequence[Served], table: str, host: Host) -> dict[str, Any]:
    """A report as those of trials: means of the first two runs and of the prediction.

    Raises ServedError where a run did not end or served other requests than the config draws.
    """
    first, second = group[0], group[min(1, len(group) - 1)]
    config = _settle(first.config, table, host_ns=host.ns)
    predicted = _simulate(config)
    real = [_latencies_of(run) for run in (first, second)]
    for run, seen in zip((first, second), real, strict=True):
        if not seen["arrival_ns"].equals(predicted["arrival_ns"].reindex(seen.index)):
            raise ServedError(f"{run.path}: found other requests than its config draws here")
    gate = {
        f"{name}_ms": gate_mean([seen[name].mean() for seen in real], [predicted[name].mean()] * 2)
        for name in JUDGED
    }
    return {
        "regime": config.name,
        "files": [str(run.path) for run in group],
        "requests": len(predicted),
        "steps": len(first.steps) + first.moving,
        "hit_tokens": sum(each["hit_tokens"] for each in first.requests),
        "host_ns": host.ns,
        "gate": gate,
        "passed": all(each["passed"] for each in gate.values()),
        "first": {**compare(real[0], predicted), **compare_totals(real[0], predicted)},
        "repeat": {**compare(real[0], real[1]), **compare_totals(real[0], real[1])},
    }


def step_errors(run: Served, table: str, host: Host) -> list[StepErrors]:
    """Random steps, then those of the run that moved no blocks first, by kind: of many, every
    n-th."""
    clock = _clock(_settle(run.config, table, host_ns=0))
    found = []
    for where, steps in (("random", run.random_steps), ("run", run.steps)):
        for kind in ("decode", "prefill", "mixed"):
            chosen = [step for step in steps if _kind_of(step[0]) == kind]
            chosen = chosen[:: max(1, len(chosen) // _MOST_STEPS)]
            if not chosen:
                continue
            measured, priced = _measured(chosen), _price(clock, chosen)
            found.append(
                StepErrors(
                    where,
                    kind,
                    len(chosen),
                    float(np.median(measured)),
                    float(np.median(priced)),
                    float(np.median(measured - priced)),
                    float(np.abs((priced + host.ns) / measured - 1).mean()),
                )
            )
    return found


def _kind_of(spans: Spans) -> str:
    ones = sum(n == 1 for _, n in spans)
    return "decode" if ones == len(spans) else "mixed" if ones else "prefill"


def _measured(steps: Sequence[tuple[Spans, int]]) -> Floats:
    return np.array([ns for _, ns in steps], dtype=np.float64)


def _price(clock: StepTime, steps: Sequence[tuple[Spans, int]]) -> Floats:
    return np.array([clock.durations(plan_of(spans), 1)[0] for spans, _ in steps], dtype=np.float64)


def _settle(values: dict[str, Any], table: str, *, host_ns: int) -> Config:
    """The config of a run with nothing computed, and the table as its clock."""
    latency = {"kind": "table", "path": table, "host_ns": host_ns}
    return parse_config({**values, "executor": {"kind": "simulated"}, "latency": latency})


def _clock(config: Config) -> StepTime:
    clock = build_latency(resolve(config))
    if not isinstance(clock, StepTime):
        raise ConfigError("latency: found no table")
    return clock


def _simulate(config: Config) -> pd.DataFrame:
    deployment = resolve(config)
    simulation = build_simulation(deployment, latency=build_latency(deployment))
    simulation.serve(build_trace(config))
    return latencies_of(make_frames(simulation.records))


def _latencies_of(run: Served) -> pd.DataFrame:
    if not run.ended or not run.requests:
        raise ServedError(
            f"{run.path}: found a run that did not end, or answered nobody; allowed: whole ones"
        )
    rows = pd.DataFrame(run.requests).set_index("id")
    decode_ns = rows["finish_ns"] - rows["first_token_ns"]
    gaps = rows["output_tokens"] - 1
    table = pd.DataFrame(
        {
            "ttft": rows["ttft_ns"].astype("float64"),
            "tpot": (decode_ns / gaps.where(gaps > 0)).astype("float64"),
            "e2e": (rows["ttft_ns"] + decode_ns).astype("float64"),
        }
    )
    for column in ("arrival_ns", "output_tokens", "preemptions"):
        table[column] = rows[column]
    table["ttft_from_queued"] = np.nan
    return table.sort_index()
