"""A trace on real kernels, twice, and simulated: five regimes of load.

What can differ between the two is the time of steps alone, since the same scheduler and cache
decide. So a trial asks how good a clock is, and of a machine how well it repeats itself. The
clock is fitted on steps of other traces of the regime (experiments/rehearsal.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from experiments.build import build_latency, build_simulation
from experiments.build_executor import MakeKernels, kernel_executors
from experiments.build_trace import build_trace
from experiments.config import Config, parse_config
from experiments.context import Frames
from experiments.deployment import resolve
from experiments.errors import ConfigError
from experiments.executor_config import RealKernels, SimulatedExecutor
from experiments.fidelity import compare, compare_totals, error_pct
from experiments.metrics import read_latencies
from experiments.rehearsal import Rehearsal, Steps
from experiments.tables import make_frames
from sim.latency import LatencyModel, Replay
from sim.observer import Observer

if TYPE_CHECKING:
    import pandas as pd

    from calibrate.step_fit import Fit
    from calibrate.step_model import StepModel

Regime = Literal["light", "knee", "overload", "pressure", "hits"]
REGIMES: tuple[Regime, ...] = get_args(Regime)
LOADS: dict[Regime, float] = {
    "light": 0.3,
    "knee": 0.85,
    "overload": 1.5,
    "pressure": 1.5,
    "hits": 0.85,
}
"""Requests per second, as a share of what the pilot's clock serves when all come at once."""
GATE_PCT = 5.0
REPEATS = 1.5
"""A mean may be off by GATE_PCT, or by so many times what two real runs differ by."""
JUDGED = ("ttft", "tpot", "e2e")
_PILOT_REQUESTS = 100
_MANY_REQUESTS = 1000
"""So many that filling and draining the batch takes no part of the time worth a word."""
_FEW_BLOCKS = 3
"""Under memory pressure: room for so many sequences of max_model_len."""
_SHARED_TOKENS = 96

ENGINE: dict[str, Any] = {
    "block_size": 16,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 256,
    "max_model_len": 512,
    "num_gpu_blocks_override": 520,
}
LENGTHS: dict[str, Any] = {
    "prompt": {"kind": "lognormal", "median": 60, "sigma": 0.9, "max": 300},
    "output": {"kind": "lognormal", "median": 24, "sigma": 0.7, "max": 120},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One regime: two real runs, and a prediction of each."""

    regime: Regime
    real: tuple[pd.DataFrame, ...]
    predicted: tuple[pd.DataFrame, ...]
    report: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What trials run on."""

    kernels: RealKernels
    kv_cache_dtype: str = "auto"
    requests: int = 150
    seed: int = 0

    def config(self, regime: Regime, *, rate: float | None) -> Config:
        """`rate` in requests/s; None: all at once."""
        arrivals: dict[str, Any] = {"kind": "at_once"}
        if rate is not None:
            arrivals = {"kind": "poisson", "rate": rate * LOADS[regime]}
        engine = dict(ENGINE)
        if regime == "pressure":
            engine["num_gpu_blocks_override"] = 1 + _FEW_BLOCKS * ENGINE["max_model_len"] // 16
        sharing: dict[str, Any] = {"kind": "none"}
        if regime == "hits":
            sharing = {"kind": "system_prompts", "count": 3, "tokens": _SHARED_TOKENS}
        trace = {
            "kind": "synthetic",
            "requests": self.requests,
            "arrivals": arrivals,
            "lengths": {"kind": "independent", **LENGTHS},
            "sharing": sharing,
        }
        return parse_config(
            {
                "name": regime,
                "engine": {**engine, "kv_cache_dtype": self.kv_cache_dtype},
                "executor": self.kernels.model_dump(),
                "trace": trace,
                "seed": self.seed,
            }
        )


def run_trials(
    bench: Bench,
    regimes: tuple[Regime, ...],
    *,
    requests_per_s: float,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Trial]:
    """Each when it is finished; loads are shares of `requests_per_s`. Raises ConfigError where
    the kernels cannot run."""
    for regime in regimes:
        config = bench.config(regime, rate=requests_per_s)
        make_kernels = _load(config)
        sides = Rehearsal(config, make_kernels), Rehearsal(config, make_kernels)
        say(f"{regime}: first run")
        first = _execute(config, make_kernels, sides[0])
        say(f"{regime}: second run")
        second = _execute(config, make_kernels, sides[1])
        yield _judge(regime, config, (first, second), (sides[0].steps, sides[1].steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    frames: Frames
    durations_ns: list[int]
    steps: Steps


def _load(config: Config) -> MakeKernels:
    assert isinstance(config.executor, RealKernels)
    return kernel_executors(resolve(config), config.executor)


def _execute(config: Config, make_kernels: MakeKernels, *observers: Observer) -> _Run:
    """The trace on real kernels."""
    deployment, steps = resolve(config), Steps()
    simulation = build_simulation(
        deployment,
        latency=build_latency(deployment),
        observers=[steps, *observers],
        make_kernels=make_kernels,
    )
    simulation.serve(build_trace(config))
    (executor,) = simulation.kernels
    frames = make_frames(simulation.records)
    return _Run(frames=frames, durations_ns=executor.durations_ns, steps=steps)


def find_capacity(bench: Bench) -> float:
    """Requests per second that a clock of the pilot's steps serves when all come at once.

    Raises ConfigError where the kernels cannot run.
    """
    pilot, many = (
        replace(bench, requests=count).config("knee", rate=None)
        for count in (_PILOT_REQUESTS, _MANY_REQUESTS)
    )
    clock, _ = _fit(_execute(pilot, _load(pilot)).steps, "pilot")
    requests = _simulate(many, clock)["requests"]
    span_ns = int(requests["finish_ns"].max()) - int(requests["arrival_ns"].min())
    return len(requests) / span_ns * 1e9


def _fit(steps: Steps, name: str) -> tuple[StepModel, Fit]:
    from calibrate.step_fit import fit_steps
    from calibrate.step_log import FitError
    from calibrate.step_model import StepModel

    try:
        fit = fit_steps(steps.log(name))
    except FitError as error:
        raise ConfigError(f"{error}; allowed: more requests") from None
    return StepModel(fit.prices, fit.seen, source=f"steps of other traces of {name}"), fit


def _simulate(config: Config, clock: LatencyModel) -> Frames:
    """The same deployment and trace, with nothing computed."""
    deployment = resolve(config)
    plain = deployment.config.model_copy(update={"executor": SimulatedExecutor()})
    deployment = replace(deployment, config=plain)
    simulation = build_simulation(deployment, latency=clock)
    simulation.serve(build_trace(config))
    return make_frames(simulation.records)


def _judge(
    regime: Regime, config: Config, runs: tuple[_Run, _Run], rehearsed: tuple[Steps, Steps]
) -> Trial:
    """Each run beside what a clock makes of it that was fitted on the steps in turn with it."""
    clocks, fits = zip(*(_fit(steps, regime) for steps in rehearsed), strict=True)
    predicted = tuple(latencies_of(_simulate(config, clock)) for clock in clocks)
    real = tuple(latencies_of(run.frames) for run in runs)
    gate = {
        f"{name}_ms": gate_mean(
            [each[name].mean() for each in real], [each[name].mean() for each in predicted]
        )
        for name in JUDGED
    }
    first, second = (_compare(*pair) for pair in zip(real, predicted, strict=True))
    report = {
        "regime": regime,
        "requests": len(real[0]),
        "gate": gate,
        "passed": all(each["passed"] for each in gate.values()),
        "first": first,
        "second": second,
        "repeat": _compare(*real),
        "hit_tokens": int(runs[0].frames["requests"]["hit_tokens"].sum()),
        "steps": len(runs[0].durations_ns),
        "schedule_identical": all(is_identical(config, run) for run in runs),
        "rehearsal": [
            {
                "steps": fit.errors.steps,
                "unseen_mape": fit.random.errors.mean,
                "unseen_total": fit.random.errors.total,
                "run_total": _total(fit, run.steps),
            }
            for fit, run in zip(fits, runs, strict=True)
        ],
        "clock_notes": dict(sum((clock.notes for clock in clocks), Counter())),
    }
    return Trial(regime=regime, real=real, predicted=predicted, report=report)


def _total(fit: Fit, steps: Steps) -> float:
    """Predicted over measured sum of these steps, minus 1: what of an error is the clock's, before
    queues make it a multiple."""
    log = steps.log("run")
    return float(fit.prices.engine_ns(*log.features.T).sum() / log.duration_ns.sum()) - 1


def _compare(real: pd.DataFrame, predicted: pd.DataFrame) -> dict[str, Any]:
    return {**compare(real, predicted), **compare_totals(real, predicted)}


def gate_mean(real: Rows[float], predicted: Rows[float]) -> dict[str, Any]:
    """Are the means of two runs as near as they can be asked to be? In ns, as they come."""
    error = error_pct(sum(predicted), sum(real)) or 0.0
    repeat = error_pct(real[1], real[0]) or 0.0
    allowed = max(GATE_PCT, REPEATS * abs(repeat))
    return {
        "real": [mean / 1e6 for mean in real],
        "predicted": [mean / 1e6 for mean in predicted],
        "error_pct": error,
        "repeat_pct": repeat,
        "allowed_pct": allowed,
        "passed": bool(abs(error) <= allowed),
    }


def is_identical(config: Config, run: _Run) -> bool:
    """Are the decisions those of a simulation whose steps take what these took? And do the
    steps and the time between them make up the makespan?"""
    replayed = _simulate(config, Replay(run.durations_ns, source="real kernels"))
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
