"""A trace on real kernels, or simulated with a clock of other traces' steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from calibrate.step_fit import Fit, fit_steps
from calibrate.step_log import FitError
from calibrate.step_model import StepModel
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
from experiments.trials_bench import LOADS, Bench, Regime
from sim.latency import LatencyModel
from sim.observer import Observer


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Of the same steps."""

    paced: PacedSteps
    plain: StepModel
    """Fitted as if the machine had one pace."""
    fit: Fit
    """Of the paced one: its prices and errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A real run, and the clocks that were fitted on the steps in turn with it."""

    run: Run
    clocks: Clocks


def fit_clocks(steps: Steps, regime: Regime) -> Clocks:
    """Of a rehearsal's steps. Raises ConfigError where they are too few."""
    log, source = steps.log(regime), f"steps of other traces of {regime}"
    try:
        plain, (fit, pace, settled) = fit_steps(log), fit_paced(log)
    except FitError as error:
        raise ConfigError(f"{error}; allowed: more requests") from None
    paced = PacedSteps(fit.prices, fit.seen, pace, source=source)
    if not settled:
        paced.notes["fits of prices and pace that did not settle"] += 1
    return Clocks(
        paced=paced,
        plain=StepModel(plain.prices, plain.seen, source=source),
        fit=fit,
    )


def run_beside(config: Config, regime: Regime, make_kernels: MakeKernels) -> Side:
    """The trace on real kernels, in turn with others. Raises ConfigError as `fit_clocks`, and where
    the kernels cannot run."""
    rehearsal = Rehearsal(config, make_kernels)
    run = execute(config, make_kernels, rehearsal)
    return Side(run=run, clocks=fit_clocks(rehearsal.steps, regime))


def simulate(config: Config, clock: LatencyModel) -> Frames:
    """The same deployment and trace, with nothing computed."""
    deployment = resolve(config)
    plain = deployment.config.model_copy(update={"executor": SimulatedExecutor()})
    deployment = replace(deployment, config=plain)
    simulation = build_simulation(deployment, latency=clock)
    simulation.serve(build_trace(config))
    return make_frames(simulation.records)


def serve_at_once(config: Config, clock: PacedSteps) -> int:
    """Nanoseconds, at the clock's average pace, until all requests are answered that come at 0."""
    requests = simulate(config, clock.at_one_pace())["requests"]
    return int(requests["finish_ns"].max())


def find_rate(bench: Bench, regime: Regime, at_once_ns: int) -> float:
    """Requests per second at which the trace comes in `at_once_ns` / LOADS[regime].

    By the very gaps and lengths that were drawn: 300 of either may be 7 % off their expectation,
    and near saturation that is a multiple of TTFT.
    """
    *_, last = build_trace(bench.config(regime, rate=1.0))
    return LOADS[regime] * last.arrival_ns / at_once_ns
