"""Requests served by the real scheduler and cache, and the frames that are left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import simpy

from experiments.context import Context
from experiments.tables import make_frames
from sim.cluster import Cluster, RoundRobin
from sim.engine import Engine
from sim.executor import Simulated
from sim.kv.cache import KVCache
from sim.kv.paged import Paged
from sim.kv.prefix import PrefixCached
from sim.kv.swap import HostTier, Swapped, SwappedPrefix
from sim.latency import LatencyModel, Linear
from sim.observer import Observer
from sim.record.recorder import Recorder
from sim.record.records import Records
from sim.request import Request
from sim.scheduling.orders import Fcfs
from sim.scheduling.priority import Priority
from sim.scheduling.versions import VERSIONS
from sim.scheduling.vllm import Limits, VllmScheduler
from sim.world import World
from tests.worlds import SmallWorld, branching_of, flying

Frames = dict[str, pd.DataFrame]
ROOMY = Limits(max_num_seqs=8, max_num_batched_tokens=64)


@dataclass(frozen=True, kw_only=True)
class Server:
    """What serves; vLLM's names where it has them."""

    num_gpu_blocks: int = 1000
    block_size: int = 4
    limits: Limits = ROOMY
    priority: bool = False
    prefix_caching: bool = True
    version: str = "0.33"
    max_model_len: int = 10_000
    replicas: int = 1
    front_end_ns: int = 0
    check_every: int = 1000
    asynchronous: bool = False
    stages: int = 1
    sleep_ns: int = 0
    forks: bool = False
    host_blocks: int | None = None
    """Of host memory to swap to; None where victims are computed anew."""
    beam_spread: float = 1.0
    watch: Callable[[VllmScheduler], Observer] | None = None
    """Makes one more observer of each replica."""
    cache: Callable[[World], KVCache] | None = None
    """What makes the cache, if it is not a paged one."""
    scheduler: Callable[..., VllmScheduler] | None = None
    latency: LatencyModel = field(
        default_factory=lambda: Linear(base_ns=1000, per_token_ns=10, per_context_token_ns=1)
    )

    @classmethod
    def of(cls, world: SmallWorld, **more: Any) -> Server:
        base_ns, per_token_ns, per_context_token_ns = world.latency
        latency = Linear(
            base_ns=base_ns,
            per_token_ns=per_token_ns,
            per_context_token_ns=per_context_token_ns,
            per_swapped_block_ns=23,
        )
        options: dict[str, Any] = {
            "num_gpu_blocks": world.num_blocks,
            "block_size": world.block_size,
            "limits": world.limits,
            "priority": world.priority,
            "prefix_caching": world.prefix_caching,
            "version": world.version,
            "max_model_len": world.max_model_len,
            "replicas": world.replicas,
            "asynchronous": world.asynchronous,
            "stages": world.stages,
            "sleep_ns": world.sleep_ns,
            "forks": world.forks,
            "host_blocks": world.host_blocks,
            "latency": latency,
        }
        return cls(**(options | more))


def ask(index: int, *, at_ns: int = 0, prompt: int = 10, output: int = 3, **more: Any) -> Request:
    """A request; its prompt is its own content, or the first tokens of stream `of`."""
    runs = ((more.pop("of", 2 * index + 1000), 0, prompt),)
    return Request(f"r{index}", at_ns, runs, output, 2 * index + 1001, **more)


def serve(requests: Iterable[Request], server: Server) -> tuple[Frames, Context]:
    """Run to the end, one step after the other; the tables and their context."""
    env, records = simpy.Environment(), Records()
    engines, recorders = [], []
    rules = VERSIONS[server.version]
    paged = PrefixCached if server.prefix_caching else Paged
    for replica in range(server.replicas):
        world = World(max_model_len=server.max_model_len)
        kv: KVCache = paged(
            server.num_gpu_blocks, block_size=server.block_size, free_order=rules.free_order
        )
        if server.host_blocks is not None:
            swapped = SwappedPrefix if server.prefix_caching else Swapped
            kv = swapped(
                server.num_gpu_blocks,
                block_size=server.block_size,
                free_order=rules.free_order,
                host=HostTier(server.host_blocks),
            )
        if server.cache is not None:
            kv = server.cache(world)
        depth = server.stages + server.asynchronous
        policy = flying(server) if depth > 1 else server.scheduler or VllmScheduler
        scheduler = policy(
            kv=kv,
            order=Priority() if server.priority else Fcfs(),
            limits=server.limits,
            rules=rules,
        )
        recorders.append(
            Recorder(
                records,
                scheduler=scheduler,
                latency=server.latency,
                replica=replica,
                front_end_ns=server.front_end_ns,
                check_every=server.check_every,
            )
        )
        engines.append(
            Engine(
                env,
                scheduler=scheduler,
                executor=Simulated(server.latency),
                world=world,
                observers=[recorders[-1], *([server.watch(scheduler)] if server.watch else [])],
                branching=branching_of(
                    server.limits,
                    world,
                    forks=server.forks,
                    spread=server.beam_spread,
                    replica=replica,
                ),
                replica=replica,
                depth=depth,
                stages=server.stages,
                empty_step_sleep_ns=server.sleep_ns,
            )
        )
    cluster = Cluster(env, engines, router=RoundRobin())
    cluster.serve(requests)
    for recorder in recorders:
        recorder.close()
    return make_frames(records), _context(records, server, arrived=cluster.arrived)


def _context(records: Records, server: Server, *, arrived: int) -> Context:
    return {
        "config": {"name": "small", "model": None, "device": None, "slo": {}},
        "arrived": arrived,
        "deployment": {
            "num_gpu_blocks": server.num_gpu_blocks,
            "block_size": server.block_size,
            "num_cpu_blocks": server.host_blocks,
        },
        "latency": {
            "source": server.latency.source,
            "modelled": server.latency.modelled,
            "knows_alone": server.latency.knows_alone,
            "ridge_flop_per_byte": None,
        },
        "trace": {"name": "by hand", "notes": {}},
        "slot_ns": records.slot_ns,
        "model_work": None,
        "wall_s": 1.0,
        "cpu_s": 1.0,
    }
