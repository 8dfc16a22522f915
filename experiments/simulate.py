"""One run from config to published result."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from calibrate.device import Device
from calibrate.host_link import PricesSwaps
from calibrate.roofline import Roofline
from calibrate.step_model import StepModel
from calibrate.steptime import StepTime
from calibrate.table_peak import device_of
from experiments.build import Simulation, build_latency, build_simulation, build_work
from experiments.build_trace import build_trace
from experiments.config import Config
from experiments.context import Context, Frames
from experiments.custom_parts import describe_custom
from experiments.deployment import Deployment, count_block_bytes, resolve
from experiments.durations import Recording, write_durations
from experiments.executed import Executed
from experiments.executor_config import RealKernels
from experiments.identity import name_run, read_versions
from experiments.metrics import NS_PER_S, check, summarize
from experiments.results import DURATIONS, FIGURES, Draft, RunResult, is_finished, load_result
from experiments.tables import make_frames
from sim.latency import LatencyModel, Linear
from sim.observer import Observer
from traces.schema import Trace


class Survey(NamedTuple):
    """What is known of a trace before it is served; reading all of it also proves it valid."""

    requests: int
    first_arrival_ns: int
    last_arrival_ns: int
    in_sessions: int
    """Requests that belong to one."""

    @property
    def rate(self) -> float | None:
        """Requests per second, of the gaps between them; None where no time passes."""
        span_ns = self.last_arrival_ns - self.first_arrival_ns
        return (self.requests - 1) / span_ns * NS_PER_S if span_ns else None


class Watcher(Observer, AbstractContextManager["Watcher"], Protocol):
    """An observer that is there while a simulation runs."""


class Outcome(NamedTuple):
    result: RunResult
    reused: bool
    """The same run had been made before, and was not made again."""


def simulate(
    config: Config,
    *,
    out: Path,
    force: bool = False,
    figures: bool = True,
    watch: Callable[[Survey], Watcher] | None = None,
) -> Outcome:
    """Run a config, unless `out` has its result already, and leave the result in `out`.

    `force` runs in any case; `watch` makes an observer of the simulation. Without `figures`, which
    take longer than a short run, none are drawn; whoever wants them of that run later has them
    drawn then. Raises ConfigError, ModelError, DeviceError, DoesNotFit, TraceError, TableError and
    ResultError, all of them ValueErrors made for a user's eyes.
    """
    deployment = resolve(config)
    latency = build_latency(deployment)
    trace = build_trace(config)
    run_id = name_run(deployment, trace_fingerprint=trace.fingerprint(), latency=latency)
    if is_finished(out / run_id) and not force:
        result = load_result(out / run_id)
        if figures and not (result.path / FIGURES).is_dir():
            with Draft(result.path, run_id=FIGURES) as drawn:
                _draw(result.frames, result.summary, drawn.path)
                drawn.publish()
        return Outcome(result, reused=True)
    with Draft(out, run_id=run_id) as draft:
        seen = survey(trace)
        simulation, cost = _serve(deployment, latency, trace, watch and watch(seen))
        frames = make_frames(simulation.records)
        context = _context(deployment, latency, trace, simulation, cost)
        check(frames, context)
        notes = list(deployment.notes)
        if trace.shifted_by is not None:
            notes.append(f"arrivals count from the first request, at {trace.shifted_by}")
        notes += describe_custom(deployment.config)
        notes += describe_stages(deployment.config.engine.pipeline_parallel_size)
        notes += describe_clock(latency, frames, deployment.device)
        if deployment.config.engine.preemption.kind == "swap":
            notes += describe_swaps(latency)
        notes += describe_execution(simulation, config)
        run = {"id": run_id, "versions": read_versions(), "notes": notes}
        summary = {"run": run, **summarize(frames, context)}
        draft.write_tables(frames, config=context["config"])
        draft.write_texts(summary, config=context["config"])
        if len(simulation.kernels) == 1:
            write_durations(draft.path / DURATIONS, simulation.kernels[0].durations_ns)
        if figures or (draft.final / FIGURES).is_dir():  # nobody loses what was drawn
            (draft.path / FIGURES).mkdir()
            _draw(frames, summary, draft.path / FIGURES)
        draft.publish()
    return Outcome(load_result(draft.final), reused=False)


def _draw(frames: Frames, summary: dict[str, Any], folder: Path) -> None:
    from experiments.figures import draw  # seaborn is slow to import

    draw(frames, summary, folder)


def describe_stages(stages: int) -> list[str]:
    """What is assumed of a pipeline."""
    if stages == 1:
        return []
    return [
        f"pipeline: each stage takes 1/{stages} of a step, whatever layers it has, and the way from"
        " one to the next no time"
    ]


def describe_clock(latency: LatencyModel, frames: Frames, device: Device | None) -> list[str]:
    """What a clock does not know or assumes, and where the run, now over, left what it knows."""
    if isinstance(latency, Roofline):
        return [f"latency: {note}" for note in latency.notes]
    if isinstance(latency, StepModel):
        return [f"latency: {what}: {n:,}" for what, n in latency.notes.items()]
    if not isinstance(latency, StepTime):
        return []
    steps, chunks = (
        {str(name): column.to_numpy() for name, column in frames[table].items()}
        for table in ("steps", "chunks")
    )
    counted = latency.outside(steps, chunks)
    return [
        *_name_devices(device_of(latency.table), device),
        *(f"latency table: {note}" for note in latency.notes),
        *(f"latency table: {what}: {n:,}" for what, n in counted.items()),
    ]


def describe_swaps(latency: LatencyModel) -> list[str]:
    """What a clock takes for swaps, where it is no measured part of the steps."""
    if isinstance(latency, PricesSwaps) and latency.swaps is not None:
        return [f"latency: {latency.swaps.note}"]
    if isinstance(latency, Linear) and not latency.per_swapped_block_ns:
        return ["latency: swaps take no time (latency.per_swapped_block_ns is 0)"]
    if isinstance(latency, Recording):
        return ["latency: swaps change no time, since steps take what was recorded"]
    if not (isinstance(latency, Executed) or latency.swap(1, 1)):
        return ["latency: swaps take no time (swap of its class)"]
    return []


def describe_execution(simulation: Simulation, config: Config) -> list[str]:
    """What a user should know of steps that real kernels ran."""
    if not simulation.kernels:
        return []
    assert isinstance(config.executor, RealKernels)
    notes = ["steps were executed: another run measures other times, and has another name"]
    run, planned = config.executor.model, config.model
    if run is not None and planned is not None and run != planned:
        notes.append(f"executed with the shape of {run}; memory was planned for {planned}")
    if forced := sum(executor.ids.forced for executor in simulation.kernels):
        notes.append(f"answer tokens that a prompt or a twin had settled before: {forced:,}")
    if stale := sum(executor.stale_tokens for executor in simulation.kernels):
        notes.append(
            "tokens of prefix hits that were published and never computed (as vLLM does under"
            f" policy priority), so that what follows them is wrong: {stale:,}"
        )
    return notes


def _name_devices(measured_on: Device | None, device: Device | None) -> list[str]:
    """A clock of one GPU beside the memory of another is not what either would do."""
    if measured_on is None or device is None or measured_on == device:
        return []
    return [f"latency table: measured on {measured_on.name}; the memory is that of {device.name}"]


def survey(trace: Trace) -> Survey:
    """Read all of a trace. Raises TraceError."""
    requests = first_arrival_ns = last_arrival_ns = in_sessions = 0
    for request in trace:
        first_arrival_ns = first_arrival_ns if requests else request.arrival_ns
        requests += 1
        last_arrival_ns = request.arrival_ns
        in_sessions += request.session is not None
    return Survey(requests, first_arrival_ns, last_arrival_ns, in_sessions)


class _Cost(NamedTuple):
    wall_s: float
    cpu_s: float


def _serve(
    deployment: Deployment, latency: LatencyModel, trace: Trace, watcher: Watcher | None
) -> tuple[Simulation, _Cost]:
    """Simulate; the cost is that of the simulation alone, reading the trace included."""
    observers = [] if watcher is None else [watcher]
    simulation = build_simulation(deployment, latency=latency, observers=observers)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    with watcher or nullcontext():
        simulation.serve(trace)
    return simulation, _Cost(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def _context(
    deployment: Deployment,
    latency: LatencyModel,
    trace: Trace,
    simulation: Simulation,
    cost: _Cost,
) -> Context:
    config, device = deployment.config, deployment.device
    memory = [] if deployment.memory is None else deployment.memory.rows()
    swaps, model = config.engine.preemption.kind == "swap", deployment.model
    block_bytes = count_block_bytes(config.engine, model) if swaps and model else None
    return {
        "config": config.model_dump(mode="json"),
        "arrived": simulation.cluster.arrived,
        "deployment": {
            "num_gpu_blocks": deployment.num_gpu_blocks,
            "block_size": config.engine.block_size,
            "num_cpu_blocks": deployment.num_cpu_blocks if swaps else None,
            "block_bytes": block_bytes,
            "memory": [row._asdict() for row in memory],
        },
        "latency": {
            "source": latency.source,
            "modelled": latency.modelled,
            "knows_alone": latency.knows_alone,
            "ridge_flop_per_byte": None if device is None else device.ridge_flop_per_byte,
        },
        "trace": {"name": trace.name, "notes": dict(trace.notes)},
        "slot_ns": simulation.records.slot_ns,
        "model_work": build_work(deployment),
        "wall_s": cost.wall_s,
        "cpu_s": cost.cpu_s,
    }
