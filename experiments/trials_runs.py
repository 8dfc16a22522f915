"""A trace on real kernels, or simulated with a clock of other traces' steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from calibrate.step_fit import Fit
from calibrate.step_log import FitError
from experiments.build import build_latency, build_simulation
from experiments.build_executor import MakeKernels, kernel_executors
from experiments.build_trace import build_trace
from experiments.config import Config
from experiments.context import Frames
from experiments.deployment import resolve
from experiments.errors import ConfigError
from experiments.executor_config import RealKernels, SimulatedExecutor
from experiments.pace import PacedSteps, fit_paced
from experiments.rehearsal import Rehearsal, Steps
from experiments.tables import make_frames
from experiments.trials_bench import Bench, Regime
from sim.latency import LatencyModel
from sim.observer import Observer

_MANY_REQUESTS = 1000
"""So many that filling and draining the batch takes no part of the time worth a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    frames: Frames
    durations_ns: list[int]
    steps: Steps


def load_kernels(config: Config) -> MakeKernels:
    assert isinstance(config.executor, RealKernels)
    return kernel_executors(resolve(config), config.executor)


def execute(config: Config, make_kernels: MakeKernels, *observers: Observer) -> Run:
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
    return Run(frames=frames, durations_ns=executor.durations_ns, steps=steps)


def fit_clock(steps: Steps, regime: Regime) -> tuple[PacedSteps, Fit]:
    """Of a rehearsal's steps. Raises ConfigError where they are too few."""
    try:
        fit, pace = fit_paced(steps.log(regime))
    except FitError as error:
        raise ConfigError(f"{error}; allowed: more requests") from None
    source = f"steps of other traces of {regime}"
    return PacedSteps(fit.prices, fit.seen, pace, source=source), fit


def simulate(config: Config, clock: LatencyModel) -> Frames:
    """The same deployment and trace, with nothing computed."""
    deployment = resolve(config)
    plain = deployment.config.model_copy(update={"executor": SimulatedExecutor()})
    deployment = replace(deployment, config=plain)
    simulation = build_simulation(deployment, latency=clock)
    simulation.serve(build_trace(config))
    return make_frames(simulation.records)


def find_capacity(bench: Bench, regime: Regime, make_kernels: MakeKernels) -> float:
    """Requests per second that a regime's own engine serves of its own trace when all come at
    once, by the clock of a pilot that is run as a trial is: as many requests, in turn with others.

    Raises ConfigError where the kernels cannot run.
    """
    config = bench.config(regime, rate=None)
    rehearsal = Rehearsal(config, make_kernels)
    execute(config, make_kernels, rehearsal)
    clock, _ = fit_clock(rehearsal.steps, regime)
    return serve_at_once(bench, regime, clock)


def serve_at_once(bench: Bench, regime: Regime, clock: PacedSteps) -> float:
    """Requests per second that are served when all come at once, at the clock's average pace."""
    many = replace(bench, requests=_MANY_REQUESTS).config(regime, rate=None)
    requests = simulate(many, clock.at_one_pace())["requests"]
    span_ns = int(requests["finish_ns"].max()) - int(requests["arrival_ns"].min())
    return len(requests) / span_ns * 1e9
