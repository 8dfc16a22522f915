"""The composition root: the one place where a config becomes objects that know each other."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import simpy

from calibrate.collector import uncollected
from calibrate.host_link import PricesSwaps
from calibrate.model import ModelError
from calibrate.roofline import Roofline
from experiments.build_clock import build_custom_clock
from experiments.build_executor import describe_kernels, explain_kernels, kernel_executors
from experiments.build_router import build_router
from experiments.build_schedulers import build_scheduler, build_world, count_seats
from experiments.build_swaps import price_swaps
from experiments.build_table import build_table_latency
from experiments.config import Config
from experiments.deployment import Deployment
from experiments.durations import Recording
from experiments.errors import ConfigError
from experiments.executor_config import RealKernels
from experiments.latency_config import (
    CustomLatency,
    ExecutedLatency,
    ImportedLatency,
    LinearLatency,
    ReplayLatency,
    RooflineLatency,
    StepsLatency,
    TableLatency,
)
from experiments.step_file import read_step_model
from sim.beams import Searches
from sim.branching import Branching, ByForking, Separately
from sim.cluster import Cluster
from sim.engine import Engine
from sim.executor import Executor, Simulated
from sim.latency import LatencyModel, Linear
from sim.observer import Observer
from sim.record.recorder import CHECK_EVERY_STEPS, Recorder
from sim.record.records import Records
from sim.request import Request
from sim.scheduling.face import Scheduler
from sim.world import World

if TYPE_CHECKING:
    from calibrate.executor import KernelExecutor
    from experiments.build_executor import MakeKernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """Everything one run consists of, ready to serve requests once."""

    cluster: Cluster
    recorders: list[Recorder]
    records: Records
    kernels: list[KernelExecutor]
    """Of all replicas, where real kernels run their steps."""

    def serve(self, requests: Iterable[Request]) -> None:
        """Run until every request is answered or refused; the records are complete then.

        Raises ConfigError where simulated time outgrows the 64 bits that tables have for it, and
        where kernels run out of memory.
        """
        try:
            with explain_kernels() if self.kernels else uncollected(stays=True):
                self.cluster.serve(requests)
        except (OverflowError, struct.error):  # an array's and a packed row's
            raise ConfigError(
                "found a simulated time beyond 2**63 ns (292 years); allowed: shorter steps, or"
                " fewer of them (latency), and earlier arrivals (trace)"
            ) from None
        for recorder in self.recorders:
            recorder.close()


def build_simulation(
    deployment: Deployment,
    *,
    latency: LatencyModel,
    observers: Iterable[Observer] = (),
    watch: Callable[[Scheduler], Observer] | None = None,
    make_kernels: MakeKernels | None = None,
) -> Simulation:
    """All replicas of a deployment, on one clock; `observers` watch each of them, and `watch`
    makes one more for each, which knows whom it watches. Real kernels may be shared by several."""
    config = deployment.config
    env = simpy.Environment()
    records = Records()
    engines, recorders, kernels = [], [], []
    if make_kernels is None and isinstance(config.executor, RealKernels):
        make_kernels = kernel_executors(deployment, config.executor)
    for replica in range(config.cluster.replicas):
        world = build_world(config.engine)
        scheduler = build_scheduler(
            config.engine,
            num_gpu_blocks=deployment.num_gpu_blocks,
            num_cpu_blocks=deployment.num_cpu_blocks,
            world=world,
        )
        recorder = Recorder(
            records,
            scheduler=scheduler,
            latency=latency,
            replica=replica,
            front_end_ns=config.latency.front_end_ns,
            # A recount visits every block: this often, it costs a block for each step.
            check_every=max(CHECK_EVERY_STEPS, deployment.num_gpu_blocks),
        )
        own: list[Observer] = [] if watch is None else [watch(scheduler)]
        executor: Executor = Simulated(latency)
        if make_kernels is not None:
            executor = make_kernels(scheduler.kv, replica)
            kernels.append(executor)
            own.append(executor)
        engine = Engine(
            env,
            scheduler=scheduler,
            executor=executor,
            world=world,
            observers=[recorder, *observers, *own],
            branching=build_branching(config, world=world, replica=replica),
            replica=replica,
            depth=config.engine.batches_in_flight,
            stages=config.engine.pipeline_parallel_size,
            empty_step_sleep_ns=config.latency.empty_step_sleep_ns,
        )
        engines.append(engine)
        recorders.append(recorder)
    cluster = Cluster(env, engines, router=build_router(config.cluster))
    return Simulation(cluster=cluster, recorders=recorders, records=records, kernels=kernels)


def build_branching(config: Config, *, world: World, replica: int) -> Branching:
    """What becomes of requests for several answers."""
    engine = config.engine
    if engine.parallel_sampling == "requests":
        return Separately()
    searches = Searches(
        answer_tokens=world.answer_tokens, spread=engine.beam_spread, seed=(config.seed, replica)
    )
    return ByForking(max_num_seqs=count_seats(engine), searches=searches)


def build_latency(deployment: Deployment) -> LatencyModel:
    """The clock. Raises ModelError or ConfigError where the roofline cannot price the model,
    ConfigError for a file of step times that cannot be read, for kernels that are not there and
    for swaps that have no price, TableError for a table."""
    latency = _build_clock(deployment)
    if deployment.config.engine.preemption.kind == "swap" and isinstance(latency, PricesSwaps):
        latency.swaps = price_swaps(deployment, latency)
    return latency


def _build_clock(deployment: Deployment) -> LatencyModel:
    config = deployment.config
    match config.latency:
        case LinearLatency() as linear:
            return Linear(
                base_ns=linear.base_ns,
                per_token_ns=linear.per_token_ns,
                per_context_token_ns=linear.per_context_token_ns,
                per_copied_block_ns=linear.per_copied_block_ns,
                per_swapped_block_ns=linear.per_swapped_block_ns,
            )
        case ReplayLatency() as replay:
            return Recording(replay.path)
        case ExecutedLatency():
            assert isinstance(config.executor, RealKernels)
            return describe_kernels(deployment, config.executor)
        case StepsLatency() as steps:
            return read_step_model(steps.path).build()
        case RooflineLatency() as roofline:
            return _build_roofline(deployment, roofline)
        case TableLatency() | ImportedLatency() as measured:
            return build_table_latency(deployment, measured)
        case CustomLatency() as custom:
            return build_custom_clock(deployment, custom)


def build_work(deployment: Deployment) -> Roofline | None:
    """What counts FLOP and bytes of the steps; None where model and device do not tell."""
    try:
        options = RooflineLatency(kind="roofline", communication="none")
        return _build_roofline(deployment, options)
    except (ConfigError, ModelError):
        return None


def _build_roofline(deployment: Deployment, options: RooflineLatency) -> Roofline:
    engine = deployment.config.engine
    if deployment.model is None or deployment.device is None:
        raise ConfigError("latency.kind: a roofline needs model and device")
    try:
        return Roofline(
            deployment.model,
            deployment.device,
            kv_cache_dtype=engine.kv_cache_dtype,
            tensor_parallel_size=engine.tensor_parallel_size,
            communicate=options.communication == "modelled",
            compute_efficiency=options.compute_efficiency,
            bandwidth_efficiency=options.bandwidth_efficiency,
            link_efficiency=options.link_efficiency,
            host_ns=options.host_ns,
            block_size=engine.block_size,
        )
    except ModelError:
        raise
    except ValueError as error:
        raise ConfigError(f"latency: {error}") from None
