"""Real kernels swap: what is computed on blocks that were on the host is right."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from calibrate.kernels.errors import KernelError
from calibrate.kernels.pool import KVPool
from calibrate.runner import HostCopy, Runner, Step
from calibrate.runner_parts import host_pool
from experiments.build import build_latency, build_simulation
from experiments.build_trace import build_trace
from experiments.config import parse_config
from experiments.deployment import resolve
from tests.plain_llama import Keep, as_int8
from tests.served import ask
from tests.test_executor import EXACT, LONGEST_ANSWER, execute
from tests.test_executor_config import changed
from tests.worlds import SmallWorld, swapping

SEEDS = range(24)


def draw(seed: int) -> SmallWorld:
    """FCFS, short answers, one replica, hardly room for the longest request; prefixes are cached in
    every other one, prompts may be preempted before they are computed in half of each."""
    rng = random.Random(seed)
    world = swapping(rng, priority=False)
    requests = [
        replace(request, output_tokens=min(request.output_tokens, LONGEST_ANSWER))
        for request in world.requests
    ]
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    need = -(-longest // world.block_size)
    return replace(
        world,
        requests=requests,
        replicas=1,
        max_model_len=longest,
        num_blocks=1 + need + rng.choice([0, 1, 3]),
        host_blocks=rng.choice([need // 2, 2 * need, 50 * need]),
        prefix_caching=seed % 2 == 1,
        limits=replace(
            world.limits,
            max_num_seqs=8,
            max_num_batched_tokens=max(world.limits.max_num_batched_tokens, longest),
            scheduler_reserve_full_isl=seed % 4 > 1,
        ),
    )


def swaps_a_prefill(*, prefix_caching: bool) -> SmallWorld:
    """A prompt of 20 tokens gives way to a decode when 16 of them are computed."""
    limits = replace(draw(0).limits, max_num_seqs=4, max_num_batched_tokens=4)
    limits = replace(
        limits,
        enable_chunked_prefill=True,
        long_prefill_token_threshold=0,
        scheduler_reserve_full_isl=False,
        watermark_blocks=0,
    )
    return replace(
        draw(0),
        requests=[ask(0, prompt=3, output=8), ask(1, prompt=20, output=2)],
        limits=limits,
        num_blocks=7,
        block_size=4,
        max_model_len=22,
        prefix_caching=prefix_caching,
        host_blocks=10,
    )


def same(x: torch.Tensor) -> torch.Tensor:
    return x


@pytest.mark.parametrize(
    ("format", "keep", "bound"),
    [("float32", same, EXACT), ("int8_per_token_head", as_int8, 1e-3)],
)
def test_logits_are_those_of_plain_forward_passes(format: str, keep: Keep, bound: float) -> None:
    """Bounds as in tests/test_executor.py: fp32, and int8 against a reference that rounds, too."""
    happened: Counter[str] = Counter()
    worlds = [draw(seed) for seed in SEEDS]
    worlds += [swaps_a_prefill(prefix_caching=caching) for caching in (False, True)]
    for number, world in enumerate(worlds):
        executor, _ = execute(world, format=format, fast=number % 2 == 0)
        assert executor.worst(keep=keep) < bound, number
        assert executor.stale_tokens == 0, number
        caching = "with" if world.prefix_caching else "without"
        happened += executor.happened
        happened[f"swapped in {caching} prefix caching"] += executor.happened["swapped in"]
    assert happened["swapped in with prefix caching"] > 5, happened
    assert happened["swapped in without prefix caching"] > 5, happened
    assert happened["prefill swapped"] >= 2, happened
    assert happened["swapped out"] < happened["preempted"], "nobody was recomputed"


@pytest.mark.parametrize("left_out", [True, False])
def test_a_swap_that_is_left_out_shows(left_out: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Runner._swap

    def swap(self: Runner, swap: HostCopy) -> None:
        if swap.out is not left_out:
            original(self, swap)

    monkeypatch.setattr(Runner, "_swap", swap)
    executor, _ = execute(swaps_a_prefill(prefix_caching=False))
    assert executor.happened["swapped in"] == 1
    assert executor.worst() > 1000 * EXACT


def test_tokens_that_never_came_back_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor knows whose token lies in each slot, of the host too."""
    monkeypatch.setattr("calibrate.token_ids.SlotIds.copy", lambda *_: None)
    executor, _ = execute(swaps_a_prefill(prefix_caching=False))
    assert executor.stale_tokens == 16


def test_a_step_may_do_nothing_but_swap() -> None:
    """As when everybody gives way: a block goes to the host and comes back to another place."""
    world = swaps_a_prefill(prefix_caching=False)
    executor, _ = execute(world)
    runner = executor.runner
    before = runner.pool.keys[:, 1].clone()
    ran = runner.run(Step([], swaps=[HostCopy(True, [(1, 0)]), HostCopy(False, [(0, 5)])]))
    assert ran.tokens == []
    assert ran.logits.shape == (0, runner.model.shape.vocab_size)
    assert ran.duration_ns > 0
    assert torch.equal(runner.pool.keys[:, 5], before)


def test_a_config_swaps_on_real_kernels() -> None:
    """Both replicas have a host pool; what they serve is what a simulated run serves."""
    values = changed(
        engine={
            "num_gpu_blocks_override": 6,
            "max_num_batched_tokens": 64,
            "enable_prefix_caching": False,
            "preemption": {"kind": "swap", "num_cpu_blocks_override": 20},
        },
        cluster={"replicas": 2},
        trace={"requests": 12, "arrivals": {"kind": "poisson", "rate": 1e6}},
    )
    deployment = resolve(parse_config(values))
    simulation = build_simulation(deployment, latency=build_latency(deployment))
    simulation.serve(build_trace(deployment.config))
    steps = simulation.records.arrays("steps")
    assert steps["swapped_out_blocks"].sum() == steps["swapped_in_blocks"].sum() > 0
    for executor in simulation.kernels:
        assert executor.runner.host is not None
        assert executor.runner.host.blocks == 20
        assert executor.stale_tokens == 0


def test_a_host_pool_that_memory_does_not_hold_is_refused() -> None:
    pool = KVPool.empty("float32", layers=1, blocks=2, block_size=4, kv_heads=1, head_size=8)
    with pytest.raises(KernelError, match=r"10,000,000,000 KV blocks of host memory take .* GiB"):
        host_pool(pool, 10**10)
