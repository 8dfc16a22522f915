"""Real kernels run plans: what they compute is right, and a run on them is a run like any other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from calibrate.executor import KernelExecutor, Text
from calibrate.llama import Llama
from calibrate.llama_shape import LlamaShape
from calibrate.runner import Runner
from calibrate.runner_parts import empty_pool, find_kernels
from calibrate.token_ids import TokenIds
from sim.plan import Plan
from sim.request import Request
from sim.scheduling.vllm import Limits
from tests.plain_llama import Keep, as_fp8, as_int8, forward
from tests.worlds import SmallWorld, serve, several_answers, small_world

SMALL = LlamaShape(
    name="small",
    layers=2,
    hidden_size=32,
    heads=4,
    kv_heads=2,
    head_size=8,
    mlp_size=48,
    vocab_size=97,
    tied_head=False,
)
LONGEST_ANSWER = 12


def model_of(shape: LlamaShape = SMALL, dtype: torch.dtype = torch.float32) -> Llama:
    return Llama(shape, dtype=dtype, positions=2048, seed=1)


FP32 = model_of()


class Watched(KernelExecutor):
    """Keeps all logits, and whose they are."""

    def __init__(self, runner: Runner, ids: TokenIds) -> None:
        super().__init__(runner, ids)
        self.seen: dict[int, tuple[Text, dict[int, Tensor]]] = {}
        """By text: logits by the number of tokens that they follow."""
        self.happened = {"copies": 0, "preempted": 0, "resumed": 0, "hits": 0, "chunked": 0}

    def run(self, plan: Plan, k: int) -> list[int]:
        durations_ns = super().run(plan, k)
        for sequence, logits in self.logits.items():
            text = self.texts[sequence]
            self.seen.setdefault(id(text), (text, {}))[1][len(text.ids) - 1] = logits.clone()
        self.happened["copies"] += len(plan.copies)
        self.happened["chunked"] += len(plan.chunks) - len(plan.completing)
        return durations_ns

    def began(self, plan: Plan, now_ns: int) -> None:
        self.happened["preempted"] += len(plan.preempted)
        self.happened["resumed"] += sum(admission.resumed for admission in plan.admitted)
        self.happened["hits"] += sum(admission.hit_tokens > 0 for admission in plan.admitted)

    def worst(self, *, keep: Keep = lambda x: x) -> float:
        """The largest difference of a logit to those of plain forward passes."""
        assert self.seen
        worst = 0.0
        for text, logits in self.seen.values():
            right = forward(self.runner.model, text.ids, keep=keep)
            for tokens, row in logits.items():
                difference = (row.double() - right[tokens - 1]).abs().max()
                worst = max(worst, float(difference.nan_to_num(torch.inf)))
        return worst


def execute(
    world: SmallWorld,
    *,
    model: Llama = FP32,
    format: str = "float32",
    kernels: Any = None,
    **options: Any,
) -> Watched:
    """Serve a world of one replica on real kernels."""
    made: list[Watched] = []

    def make(scheduler: Any) -> Watched:
        kv = scheduler.kv
        pool = empty_pool(model, format, blocks=kv.num_blocks, block_size=kv.block_size)
        runner = Runner(model, pool, kernels or find_kernels("torch"))
        made.append(Watched(runner, TokenIds(model.shape.vocab_size, seed=0)))
        return made[0]

    serve(world, execute=make, **options)
    return made[0]


def drawn(seed: int, *, forks: bool = False) -> SmallWorld:
    """A small world with short answers and one replica."""
    rng = random.Random(seed)
    world = several_answers(rng, forks=True) if forks else small_world(rng, priority=False)
    requests = [
        replace(request, output_tokens=min(request.output_tokens, LONGEST_ANSWER))
        for request in world.requests[:12]
    ]
    return replace(world, requests=requests, replicas=1)
