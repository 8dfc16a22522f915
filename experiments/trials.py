"""A trace on real kernels, twice, and simulated: five regimes of load.

What can differ between the two is the time of steps alone, since the same scheduler and cache
decide. So a trial asks how good a clock is, and of a machine how well it repeats itself. The
clock is fitted on steps of other traces of the regime (experiments/rehearsal.py), and keeps the
pace that the machine had when these were run (experiments/pace.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config import Config
from experiments.context import Frames
from experiments.fidelity import compare, compare_totals, error_pct
from experiments.metrics import read_latencies
from experiments.trials_bench import LOADS, Bench, Regime
from experiments.trials_runs import (
    Run,
    Side,
    find_rate,
    load_kernels,
    run_beside,
    serve_at_once,
    simulate,
)
from sim.latency import Replay

if TYPE_CHECKING:
    import pandas as pd

GATE_PCT = 5.0
REPEATS = 1.5
"""A mean may be off by GATE_PCT, or by so many times what two real runs differ by."""
JUDGED = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One regime: two real runs, and a prediction of each."""

    regime: Regime
    real: tuple[pd.DataFrame, ...]
    predicted: tuple[pd.DataFrame, ...]
    report: dict[str, Any]


def run_trials(
    bench: Bench, regimes: tuple[Regime, ...], *, say: Callable[[str], None] = lambda _: None
) -> Iterator[Trial]:
    """Each when it is finished; its load is found by a pilot of its own, run just before it.

    Raises ConfigError where the kernels cannot run.
    """
    for regime in regimes:
        at_once = bench.config(regime, rate=None)
        make_kernels = load_kernels(at_once)
        say(f"{regime}: pilot")
        pilot = run_beside(at_once, regime, make_kernels)
        pilot_ns = serve_at_once(at_once, pilot.clocks.paced)
        config = bench.config(regime, rate=find_rate(bench, regime, pilot_ns))
        say(f"{regime}: first run")
        first = run_beside(config, regime, make_kernels)
        say(f"{regime}: second run")
        second = run_beside(config, regime, make_kernels)
        loads = [
            LOADS[regime] * serve_at_once(at_once, side.clocks.paced) / pilot_ns
            for side in (first, second)
        ]
        yield _judge(regime, config, (first, second), loads)


def _judge(regime: Regime, config: Config, sides: tuple[Side, Side], loads: Rows[float]) -> Trial:
    """Each run beside what its clock makes of it."""
    runs = [side.run for side in sides]
    real = tuple(latencies_of(run.frames) for run in runs)
    predicted = tuple(latencies_of(simulate(config, side.clocks.paced)) for side in sides)
    plain = [latencies_of(simulate(config, side.clocks.plain)) for side in sides]
    gate = _gate(real, predicted)
    first, second = (_compare(*pair) for pair in zip(real, predicted, strict=True))
    report = {
        "regime": regime,
        "requests": len(real[0]),
        "load": {"pilot": LOADS[regime], "runs": loads},
        "gate": gate,
        "passed": all(each["passed"] for each in gate.values()),
        "plain_error_pct": {name: row["error_pct"] for name, row in _gate(real, plain).items()},
        "first": first,
        "second": second,
        "repeat": _compare(*real),
        "hit_tokens": int(runs[0].frames["requests"]["hit_tokens"].sum()),
        "steps": len(runs[0].durations_ns),
        "schedule_identical": all(is_identical(config, run) for run in runs),
        "rehearsal": [_describe(side) for side in sides],
        "clock_notes": dict(sum((side.clocks.paced.notes for side in sides), Counter())),
    }
    return Trial(regime=regime, real=real, predicted=predicted, report=report)


def _gate(real: Rows[pd.DataFrame], predicted: Rows[pd.DataFrame]) -> dict[str, Any]:
    return {
        f"{name}_ms": gate_mean(
            [each[name].mean() for each in real], [each[name].mean() for each in predicted]
        )
        for name in JUDGED
    }


def _describe(side: Side) -> dict[str, Any]:
    """`run_total`: predicted over measured sum of the run's steps, minus 1: what of an error is
    the clock's, before queues make it a multiple."""
    log, clock, errors = side.run.steps.log("run"), side.clocks.paced, side.clocks.fit.errors
    unseen = side.clocks.fit.random.errors
    return {
        "steps": errors.steps,
        "unseen_mape": unseen.mean,
        "unseen_total": unseen.total,
        "run_total": float(clock.priced(log).sum() / log.duration_ns.sum()) - 1,
        "pace": [float(clock.pace.min()), float(clock.pace.max())],
    }


def _compare(real: pd.DataFrame, predicted: pd.DataFrame) -> dict[str, Any]:
    return {**compare(real, predicted), **compare_totals(real, predicted)}


def gate_mean(real: Rows[float], predicted: Rows[float]) -> dict[str, Any]:
    """Are the means of two runs as near as they can be asked to be? In ns, as they come.

    Beside it the stricter question, which no difference between runs excuses since each is
    predicted at a pace of its own: is each within GATE_PCT by itself (`each_within`)?
    """
    each = [error_pct(*pair) or 0.0 for pair in zip(predicted, real, strict=True)]
    error = error_pct(sum(predicted), sum(real)) or 0.0
    repeat = error_pct(real[1], real[0]) or 0.0
    allowed = max(GATE_PCT, REPEATS * abs(repeat))
    return {
        "real": [mean / 1e6 for mean in real],
        "predicted": [mean / 1e6 for mean in predicted],
        "error_pct": error,
        "each_error_pct": each,
        "each_within": bool(max(map(abs, each)) <= GATE_PCT),
        "repeat_pct": repeat,
        "allowed_pct": allowed,
        "passed": bool(abs(error) <= allowed),
    }


def is_identical(config: Config, run: Run) -> bool:
    """Are the decisions those of a simulation whose steps take what these took? And do the
    steps and the time between them make up the makespan?"""
    replayed = simulate(config, Replay(run.durations_ns, source="real kernels"))
    same = all(
        run.frames[name].equals(replayed[name]) for name in ("events", "step_ends", "chunks")
    )
    steps = run.frames["steps"].sort_values("first_step")
    busy_ns = int((steps["end_ns"] - steps["start_ns"]).sum())
    starts, ends = steps["start_ns"].to_numpy(), steps["end_ns"].to_numpy()
    idle_ns = int(np.maximum(starts[1:] - ends[:-1], 0).sum())
    span_ns = int(ends[-1] - starts[0])
    return bool(same and busy_ns == sum(run.durations_ns) and busy_ns + idle_ns == span_ns)


def latencies_of(frames: Frames) -> pd.DataFrame:
    """By request id: METRICS in ns, and what `compare_totals` counts."""
    requests = frames["requests"]
    table = read_latencies(requests)[list(JUDGED)].astype("float64")
    table["ttft_from_queued"] = np.nan
    for column in ("arrival_ns", "output_tokens", "preemptions"):
        table[column] = requests[column]
    return table.set_index(requests["id"]).sort_index()
