"""What every scheduler must do: plan what is possible, and answer everybody."""

from __future__ import annotations

import random
from collections.abc import Callable

import simpy

from sim.cluster import Cluster, RoundRobin
from sim.contract.draws import draw_request
from sim.contract.plan_watch import PlanWatch
from sim.engine import Engine
from sim.executor import Simulated
from sim.kv.cache import KVCache
from sim.kv.prefix import PrefixCached
from sim.kv.swap import HostTier, SwappedPrefix
from sim.latency import Linear
from sim.record.recorder import Recorder
from sim.record.records import Records
from sim.scheduling.face import Scheduler
from sim.world import World


def check_scheduler(
    make: Callable[[KVCache], Scheduler], *, max_num_batched_tokens: int, seed: int = 0
) -> None:
    """Serve random requests under tight memory, with and without swapping, and watch every plan.

    Each plan computes what comes next of sequences that hold room for it, and no more tokens
    than the budget; everybody is answered in full; blocks balance at every step. The cache
    that `make` is given holds at least one request of 60 tokens.
    """
    rng = random.Random(seed)
    for blocks, host_blocks in ((5, 0), (8, 0), (20, 0), (200, 0), (5, 100), (6, 9)):
        kv = PrefixCached(1 + blocks, block_size=16)
        if host_blocks:
            kv = SwappedPrefix(1 + blocks, block_size=16, host=HostTier(host_blocks))
        scheduler = make(kv)
        latency = Linear(base_ns=100, per_token_ns=1, per_context_token_ns=0)
        recorder = Recorder(Records(), scheduler=scheduler, latency=latency, check_every=1)
        watch = PlanWatch(scheduler, max_num_batched_tokens)
        env = simpy.Environment()
        engine = Engine(
            env,
            scheduler=scheduler,
            executor=Simulated(latency),
            world=World(max_model_len=64),
            observers=[recorder, watch],
        )
        requests = [
            draw_request(rng, index=index, arrival_ns=100 * (index // 3)) for index in range(40)
        ]
        Cluster(env, [engine], router=RoundRobin()).serve(requests)
        recorder.close()
        assert not scheduler.has_work, "requests were left behind"
        assert watch.answered == len(requests)
