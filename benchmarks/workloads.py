"""What the benchmark serves: loads from idle to overload, chat, and the public traces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sim.request import Request
from traces.chat import ChatWorkload
from traces.reader import open_trace

LINEAR = {
    "kind": "linear",
    "base_ns": 8_000_000,
    "per_token_ns": 20_000,
    "per_context_token_ns": 10,
}
"""About an 8B model on one GPU: 8 ms a step and 20 us a token."""

Requests = Callable[[int], list[Request]]


@dataclass(frozen=True, slots=True)
class Workload:
    """`requests(n)` gives the first n (fewer, if a trace is shorter)."""

    name: str
    count: int
    plain_count: int
    """Requests that the plain loop serves for the comparison; it is slow."""
    engine: dict[str, Any]
    requests: Requests
    latency: dict[str, Any] | None = None


def poisson(*, per_second: float, seed: int = 0) -> Requests:
    """Poisson arrivals; prompts and answers lognormal, 300 and 250 tokens on average."""

    def draw(n: int) -> list[Request]:
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(1e9 / per_second, n)).astype(np.int64)
        prompts = np.clip(rng.lognormal(np.log(300) - 0.5, 1.0, n), 4, 3000).astype(np.int64)
        answers = np.clip(rng.lognormal(np.log(250) - 0.32, 0.8, n), 1, 1500).astype(np.int64)
        return [
            Request(f"r{i}", int(at), ((2 * i, 0, int(prompt)),), int(answer), 2 * i + 1)
            for i, (at, prompt, answer) in enumerate(zip(arrivals, prompts, answers, strict=True))
        ]

    return draw


def chat(n: int) -> list[Request]:
    """Eight system prompts of 512 tokens, five turns on average."""
    workload = ChatWorkload(
        requests=n,
        sessions_per_second=8.0,
        turns_mean=5.0,
        think_mean_s=20.0,
        first_message_median=40.0,
        first_message_sigma=1.0,
        later_message_median=25.0,
        later_message_sigma=1.0,
        answer_median=50.0,
        answer_sigma=0.8,
    )
    return list(workload)


def traced(path: Path, *, kind: str) -> Requests:
    return lambda n: list(islice(open_trace(path, kind=kind), n))


def synthetic() -> list[Workload]:
    ample: dict[str, Any] = {
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "num_gpu_blocks_override": 20_000,
        "max_model_len": 8192,
        "enable_prefix_caching": False,
    }
    tight = ample | {"num_gpu_blocks_override": 3500}
    caching = ample | {"enable_prefix_caching": True}
    return [
        Workload("light", 10_000, 1500, ample, poisson(per_second=4.2)),
        Workload("near saturation", 10_000, 3000, ample, poisson(per_second=51)),
        Workload("overload", 10_000, 3000, ample, poisson(per_second=80)),
        Workload("memory pressure", 10_000, 3000, tight, poisson(per_second=38)),
        Workload("near saturation, caching", 10_000, 3000, caching, poisson(per_second=51)),
        Workload("chat", 10_000, 2000, caching, chat),
    ]


def public(folder: Path) -> list[Workload]:
    """The Azure and Mooncake conversation traces, where `folder` has them."""
    azure = folder / "azure-2023" / "AzureLLMInferenceTrace_conv.csv"
    mooncake = folder / "mooncake" / "conversation_trace.jsonl.gz"
    engine: dict[str, Any] = {"max_num_seqs": 256, "max_num_batched_tokens": 2048}
    engine |= {"num_gpu_blocks_override": 20_000, "max_model_len": 16_384}
    roomy = engine | {"max_num_batched_tokens": 8192, "max_model_len": 131_072}
    roomy |= {"num_gpu_blocks_override": 60_000}
    # 12,000 prompt tokens a request: a tenth of the linear clock's price keeps up with them.
    quick = LINEAR | {"per_token_ns": 4_000, "per_context_token_ns": 1}
    workloads = []
    if azure.is_file():
        trace = traced(azure, kind="azure")
        off = engine | {"enable_prefix_caching": False}
        workloads += [
            Workload("Azure conversation", 19_366, 2500, off, trace),
            Workload("Azure conversation, caching", 19_366, 2500, engine, trace),
        ]
    if mooncake.is_file():
        trace = traced(mooncake, kind="mooncake")
        workloads.append(Workload("Mooncake conversation", 3000, 300, roomy, trace, quick))
    return workloads
