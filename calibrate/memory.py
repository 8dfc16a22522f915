"""How many KV blocks vLLM would find room for, every term shown and replaceable.

    num_gpu_blocks = (ceil(total x gpu_memory_utilization) - weights - rotary table
                      - activation peak - non-torch - CUDA graphs) // bytes per block

Certain are the total, the weights and the bytes per block. The activation peak follows from
vLLM's source (calibrate/activations.py). UNCERTAIN are the last two, which depend on driver,
libraries and attention backend; give `non_torch_bytes` and `cuda_graph_bytes` where you know
them from your engine's log. Against the engines whose block counts are published
(LLMServingSim, bench/examples and bench/results, read 2026-11):

    RTX 4090, vLLM 0.19, 0.90, Llama-3.1-8B, 2048 tokens, 256 seqs         2,588 blocks   -0.3 %
    RTX PRO 6000, vLLM 0.28, 0.92, Llama-3.1-8B, 2048 tokens, 128 seqs    35,913 blocks   +1.2 %
    RTX PRO 6000 x 2, vLLM 0.28, 0.92, Qwen3-32B, 2048 tokens, 128 seqs   28,884 blocks   -1.8 %
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from calibrate.activations import Version, forward_bytes, sampler_bytes
from calibrate.device import Device
from calibrate.model import Model
from calibrate.stages import Stage, divide_layers
from calibrate.weights import BYTES
from sim.kv.spec import KVSpec

NON_TORCH_BYTES = 640 << 20
"""Kernels, library workspaces and what graph profiling leaves behind. Chosen so that the RTX
4090's 2,588 blocks come out; logs of older versions show 0.16 to 0.33 GiB."""

CUDA_GRAPH_BYTES = 512 << 20
"""vLLM's own estimate of its CUDA graphs; logs show 0.13 to 1.4 GiB, growing with the model
and the number of captured sizes."""

_GRAPHS_COUNTED_SINCE: Version = (0, 21)
_LARGE_BYTES = 70 << 30
_LARGEST_BYTES = 160 << 30


class DoesNotFit(ValueError):
    """A model, or one request of the longest allowed length, finds no room."""

    def __init__(self, message: str, plan: MemoryPlan | None = None) -> None:
        super().__init__(message)
        self.plan = plan
        """Where the memory would have gone; None where it is not the model that lacks room."""


class Term(NamedTuple):
    bytes: int
    derivation: str


class Row(NamedTuple):
    """One line of the plan for display."""

    term: str
    bytes: int
    derivation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Where one GPU's memory goes. `num_blocks` counts vLLM's null block."""

    total: Term
    requested: Term
    weights: Term
    rotary: Term
    activation: Term
    non_torch: Term
    cuda_graphs: Term
    available: Term
    block: Term
    cache: Term
    block_size: int
    num_blocks: int

    def rows(self) -> list[Row]:
        """The terms in the order of the subtraction, then the cache that comes of them."""
        return [
            Row("total", *self.total),
            Row("requested", *self.requested),
            Row("weights", *self.weights),
            Row("rotary table", *self.rotary),
            Row("activation peak", *self.activation),
            Row("non-torch", *self.non_torch),
            Row("CUDA graphs", *self.cuda_graphs),
            Row("available for KV", *self.available),
            Row("one block", *self.block),
            Row("KV cache", *self.cache),
        ]

    @property
    def excess_bytes(self) -> int:
        """What all terms and the cache take beyond what was requested; negative: room left."""
        return self._beside_cache + self.cache.bytes - self.requested.bytes

    @property
    def _beside_cache(self) -> int:
        terms = (self.weights, self.rotary, self.activation, self.non_torch, self.cuda_graphs)
        return sum(term.bytes for term in terms)

    @property
    def exceeds_device(self) -> bool:
        """Whether no engine can hold this: vLLM would fail to load or to allocate.

        The uncertain terms count only without the cache: with it, a peak that was estimated
        too large should refuse nobody.
        """
        held = self.weights.bytes + self.rotary.bytes + self.cache.bytes
        return max(held, self._beside_cache) > self.total.bytes


def plan_memory(
    model: Model,
    device: Device,
    *,
    gpu_memory_utilization: float = 0.92,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    block_size: int = 16,
    kv_cache_dtype: str = "auto",
    tensor_parallel_size: int = 1,
    pipeline_parallel_size: int = 1,
    vllm_version: str = "0.33.0",
    num_gpu_blocks_override: int | None = None,
    kv_cache_memory_bytes: int | None = None,
    total_bytes: int | None = None,
    weights_bytes: int | None = None,
    rotary_bytes: int | None = None,
    activation_bytes: int | None = None,
    non_torch_bytes: int | None = None,
    cuda_graph_bytes: int | None = None,
) -> MemoryPlan:
    """The memory of one GPU, as vLLM of that version would divide it.

    Of several pipeline stages it is a GPU of the fullest: the one with the fewest blocks, which
    all stages take then, as vLLM takes the least of its workers.

    The limits left out are vLLM's defaults for the device. `num_gpu_blocks_override` replaces
    the number of blocks, `kv_cache_memory_bytes` what is available for them, and each of the
    last six keywords the term of its name.

    Raises DoesNotFit where no block is usable or the device holds less than weights and cache
    (which the two keywords for the cache make possible), ModelError where the weights are not
    counted and they and the activation peak are not given, ValueError for values out of range.
    """
    if not 0 < gpu_memory_utilization <= 1:
        raise ValueError(f"gpu_memory_utilization must lie in (0, 1], got {gpu_memory_utilization}")
    version = _parse_version(vllm_version)
    default_seqs, default_tokens = default_limits(device)
    tokens = default_tokens if max_num_batched_tokens is None else max_num_batched_tokens
    rows = min(default_seqs if max_num_seqs is None else max_num_seqs, tokens)
    tp = tensor_parallel_size
    for name, value in (
        ("max_num_batched_tokens and max_num_seqs", rows),
        ("block_size", block_size),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    spec = model.kv_spec(kv_cache_dtype, tensor_parallel_size=tp)

    total = _given(total_bytes) or Term(device.memory_bytes, f"{device.name} as CUDA reports it")
    requested = Term(
        math.ceil(total.bytes * gpu_memory_utilization),
        f"total x gpu_memory_utilization {gpu_memory_utilization:g}, rounded up",
    )
    rotary = _given(rotary_bytes) or Term(
        model.rotary_bytes,
        f"{model.max_position_embeddings} positions x {model.rotary_size} x 2 bytes",
    )
    non_torch = _given(non_torch_bytes) or Term(
        NON_TORCH_BYTES, "uncertain: fitted to one recorded engine (RTX 4090, vLLM 0.19)"
    )
    cuda_graphs = _given(cuda_graph_bytes) or _cuda_graphs(version)

    def plan_stage(stage: Stage) -> MemoryPlan:
        weights = _given(weights_bytes) or _weights(model, stage, tp)
        activation = _given(activation_bytes) or _activation(
            model, device, stage, tokens=tokens, rows=rows, version=version, tp=tp
        )
        available = _given(kv_cache_memory_bytes) or Term(
            requested.bytes
            - sum(t.bytes for t in (weights, rotary, activation, non_torch, cuda_graphs)),
            "requested - the five terms above",
        )
        block = _block(replace(spec, layers=stage.layers), block_size)
        num_blocks, derivation = num_gpu_blocks_override, "num_gpu_blocks_override"
        if num_blocks is None:
            num_blocks = max(0, available.bytes // block.bytes)
            derivation = "available // one block"
        cache = f"{derivation} = {num_blocks} blocks, one of them null"
        return MemoryPlan(
            total=total,
            requested=requested,
            weights=weights,
            rotary=rotary,
            activation=activation,
            non_torch=non_torch,
            cuda_graphs=cuda_graphs,
            available=available,
            block=block,
            cache=Term(num_blocks * block.bytes, cache),
            block_size=block_size,
            num_blocks=num_blocks,
        )

    stages = divide_layers(model.layers, pipeline_parallel_size)
    plan = min(
        map(plan_stage, stages),
        key=lambda plan: (plan.num_blocks, not plan.exceeds_device, -plan.excess_bytes),
    )
    if plan.num_blocks < 2:
        raise DoesNotFit(_no_room(model, device, plan), plan)
    if plan.exceeds_device:
        raise DoesNotFit(_too_large(model, device, plan), plan)
    return plan


def default_limits(device: Device) -> tuple[int, int]:
    """vLLM's (max_num_seqs, max_num_batched_tokens) for an API server on this device (0.33)."""
    if device.memory_bytes >= _LARGEST_BYTES:
        return 1024, 16384
    if device.memory_bytes >= _LARGE_BYTES and "a100" not in device.cuda_name.lower():
        return 1024, 8192
    return 256, 2048


def _given(value: int | None) -> Term | None:
    """The user's term, if any; a Term is never false, so `or` supplies the derived one."""
    return None if value is None else Term(value, "given")


def _weights(model: Model, stage: Stage, tp: int) -> Term:
    parameters = stage.parameters(model)
    share = "" if tp == 1 else f", over {tp} GPUs"
    derivation = f"{parameters} x 2 bytes{share}{stage.describe()}"
    return Term(math.ceil(parameters * BYTES / tp), derivation)


def _block(spec: KVSpec, block_size: int) -> Term:
    return Term(
        spec.block_bytes(block_size),
        f"{block_size} tokens x {spec.bytes_per_token} bytes ({spec.layers} layers, {spec.heads}"
        f" head{'s' * (spec.heads > 1)}, {spec.dtype})",
    )


def _activation(
    model: Model, device: Device, stage: Stage, *, tokens: int, rows: int, version: Version, tp: int
) -> Term:
    forward = forward_bytes(model, tokens=tokens, tensor_parallel_size=tp)
    sampler = sampler_bytes(model, device, tokens=tokens, rows=rows, version=version)
    if forward > sampler or not stage.last:
        return Term(forward, f"the widest point of a layer with {tokens} tokens")
    return Term(sampler, f"the sampler's dummy run: {rows} rows of {model.vocab_size} logits")


def _cuda_graphs(version: Version) -> Term:
    if version < _GRAPHS_COUNTED_SINCE:
        return Term(0, "not counted before vLLM 0.21")
    return Term(CUDA_GRAPH_BYTES, "uncertain: a middle value of published logs")


def _parse_version(text: str) -> Version:
    parts = text.removeprefix("v").split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        raise ValueError(f"vllm_version must look like 0.33.0, got {text!r}") from None


def _too_large(model: Model, device: Device, plan: MemoryPlan) -> str:
    return (
        f"{model.name} and its KV cache exceed the {say_bytes(plan.total.bytes)} of {device.name}:"
        f" {_terms(plan)}. Lower num_gpu_blocks_override or kv_cache_memory_bytes, raise"
        " tensor_parallel_size, or take a larger device"
    )


def _no_room(model: Model, device: Device, plan: MemoryPlan) -> str:
    return (
        f"{model.name} on {device.name} leaves {plan.num_blocks} KV blocks, and block 0 is the null"
        f" block: {_terms(plan)}. Raise gpu_memory_utilization, lower max_num_seqs or"
        " max_num_batched_tokens, raise tensor_parallel_size, or take a larger device"
    )


def _terms(plan: MemoryPlan) -> str:
    return ", ".join(f"{row.term} {say_bytes(row.bytes)} ({row.derivation})" for row in plan.rows())


def say_bytes(count: int) -> str:
    """In MiB or GiB, to two decimals."""
    if abs(count) < 1 << 30:
        return f"{count / 2**20:.2f} MiB"
    return f"{count / 2**30:.2f} GiB"
