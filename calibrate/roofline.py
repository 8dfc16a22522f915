"""Step times from shapes and a datasheet: a model, not a measurement."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibrate import weights
from calibrate.device import Device
from calibrate.host_link import PricesSwaps
from calibrate.link import LINK_EFFICIENCY, NO_COMMUNICATION, Communication, Ring
from calibrate.model import Model
from sim.latency import LONGEST_STRETCH, Counts, Nanoseconds

if TYPE_CHECKING:
    from sim.plan import Plan

COMPUTE_EFFICIENCY = 0.70
BANDWIDTH_EFFICIENCY = 0.71
"""Shares of the datasheet's peaks that whole steps reach.

Set by two points of measured kernel tables (aiconfigurator-core 0.12, vLLM 0.24, one H200,
Llama-3.1-8B, bf16): 43.4 ms for a prefill of 2048 tokens, 9.47 ms for a decode step of 64
sequences at context 2048. For other devices and models they are a guess: kernels profiled on an
RTX PRO 6000 (LLMServingSim, vLLM 0.19) take 10 % and 14 % less than this says of the same two.
"""

_STEPS = np.arange(LONGEST_STRETCH, dtype=np.int64)


class Work(NamedTuple):
    """What one step, or several together, computes and moves."""

    flop: float
    bytes: float

    @property
    def intensity_flop_per_byte(self) -> float:
        """Below the device's ridge the work is bound by memory, above it by compute."""
        return self.flop / self.bytes


class Roofline(PricesSwaps):
    """A latency model: each operator takes the longer of computing and moving its data.

    A step is the sum over layers' matrices, output head, attention of the chunks, attention
    of the decodes, and the write of the new K and V::

        max(FLOP / (compute_efficiency x peak), bytes / (bandwidth_efficiency x bandwidth))

    Weights are read once a step and the KV cache once by each sequence that attends to it; a
    block copied on write is read and written whole, before anything else. Norms, embeddings and
    activations are left to the efficiencies. Every chunk and every
    decode is one row of logits. Weights are bf16 whatever the KV cache's dtype.

    Of a tensor-parallel group it is one GPU's step: matrices, output head and heads are divided
    (KV heads fewer than GPUs are repeated), and `communication` comes on top, overlapping with
    nothing (calibrate/link.py).

    Raises ModelError for a mixture of experts and ValueError for efficiencies outside (0, 1],
    an unknown KV dtype, a model that cannot be divided so, and GPUs whose link is not known
    or does not reach so many.
    """

    modelled = True
    knows_alone = True

    def __init__(
        self,
        model: Model,
        device: Device,
        *,
        kv_cache_dtype: str = "auto",
        tensor_parallel_size: int = 1,
        communicate: bool = True,
        compute_efficiency: float = COMPUTE_EFFICIENCY,
        bandwidth_efficiency: float = BANDWIDTH_EFFICIENCY,
        link_efficiency: float = LINK_EFFICIENCY,
        host_ns: int = 0,
        block_size: int = 16,
    ) -> None:
        """`communicate`: whether what the GPUs tell one another takes time."""
        tp = tensor_parallel_size
        if tp < 1 or model.heads % tp or model.dense.mlp_size % tp:
            raise ValueError(
                f"tensor_parallel_size must divide {model.name}'s {model.heads} heads and its MLP"
                f" of {model.dense.mlp_size}, got {tp}"
            )
        for name, share in (
            ("compute_efficiency", compute_efficiency),
            ("bandwidth_efficiency", bandwidth_efficiency),
        ):
            if not 0 < share <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {share}")
        self.host_ns = host_ns
        gpus = device.name if tp == 1 else f"{tp} x {device.name}"
        self.source = (
            f"modelled: roofline of {model.name} on {gpus}, efficiencies"
            f" {compute_efficiency:g} of {device.bf16_flop_per_s / 1e12:g} TFLOP/s and"
            f" {bandwidth_efficiency:g} of {device.bandwidth_bytes_per_s / 1e12:g} TB/s,"
            f" host {host_ns} ns a step"
        )
        self.ridge_flop_per_byte = device.ridge_flop_per_byte

        self.communication = NO_COMMUNICATION
        self.notes: tuple[str, ...] = ()
        if tp > 1:
            self.communication, note = _communicate(
                model, device, gpus=tp, efficiency=link_efficiency if communicate else None
            )
            self.notes = (note,)

        matrices = model.layers * _layer_matrices(model, tp)
        head = -(-model.vocab_size // tp) * model.hidden_size
        self._token_flop = 2 * matrices
        self._row_flop = 2 * head
        pairs = model.layers * (model.heads // tp)
        self._pair_flop = 2 * pairs * (model.key_size + model.value_size)
        spec = model.kv_spec(kv_cache_dtype, tensor_parallel_size=tp)
        self._kv_bytes = spec.bytes_per_token
        self._weight_bytes = (matrices + head) * weights.BYTES

        flop_ns = 1e9 / (compute_efficiency * device.bf16_flop_per_s)
        byte_ns = 1e9 / (bandwidth_efficiency * device.bandwidth_bytes_per_s)
        self._token_ns = self._token_flop * flop_ns
        self._matrices_ns = matrices * weights.BYTES * byte_ns
        self._row_ns = self._row_flop * flop_ns
        self._head_ns = head * weights.BYTES * byte_ns
        self._pair_ns = self._pair_flop * flop_ns
        self._kv_ns = self._kv_bytes * byte_ns
        self._copy_ns = 2 * block_size * self._kv_ns

    def durations(self, plan: Plan, k: int) -> list[int]:
        """Durations of the plan's step and of the k - 1 that repeat it.

        In the j-th step every decode's context is j tokens longer. The plan is not empty.
        """
        if k == 1:  # the same arithmetic, without an array of one
            step_ns: float = self._step_ns(plan, 0) + len(plan.copies) * self._copy_ns
            return [self.host_ns + round(step_ns)]
        steps_ns: NDArray[np.float64] = self._step_ns(plan, len(plan.decodes) * _STEPS[:k])
        steps_ns[0] += len(plan.copies) * self._copy_ns
        durations: list[int] = (self.host_ns + np.rint(steps_ns).astype(np.int64)).tolist()
        return durations

    def _step_ns(self, plan: Plan, more_context: Counts) -> Any:
        """Not rounded, host time aside, with so much more context than the plan's."""
        decodes = plan.decodes
        tokens = rows = len(decodes)
        area = fetched = 0
        for _, computed_before, n in plan.chunks:
            tokens += n
            rows += 1
            area += n * computed_before + n * (n + 1) // 2
            fetched += computed_before + n
        return self._engine_ns(tokens, rows, area, fetched, decodes.context_sum + more_context)

    def alone(self, computed_before: Counts, n: Counts) -> Nanoseconds:
        """Engine time of each chunk of n tokens with nothing beside it, int64, in the shape of
        the two. Without host time; 0 where n is 0.
        """
        area, fetched = attention_area(computed_before, n), computed_before + n
        chunk_ns = np.rint(self._engine_ns(n, 1, area, fetched, 0, larger=np.maximum))
        return np.where(n, chunk_ns, 0).astype(np.int64)

    def _engine_ns(
        self,
        tokens: Counts,
        rows: int,
        area: Counts,
        fetched: Counts,
        context: Counts,
        *,
        larger: Callable[..., Any] = max,
    ) -> Any:
        """In the same arithmetic for numbers and for arrays, of which each has its `larger`.
        Area and fetched are the chunks', context the decodes'."""
        fixed_ns = (
            larger(tokens * self._token_ns, self._matrices_ns)
            + max(rows * self._row_ns, self._head_ns)
            + tokens * self._kv_ns
        )
        if self.communication is not NO_COMMUNICATION:
            fixed_ns = fixed_ns + self.communication.at(tokens, rows)
        chunks_ns = larger(area * self._pair_ns, fetched * self._kv_ns)
        return fixed_ns + chunks_ns + context * max(self._pair_ns, self._kv_ns)

    def work(self, *, tokens: int, rows: int, area: int, context: int, steps: int = 1) -> Work:
        """FLOP and bytes of a step, or of several, on one GPU: the weights are read once in each.

        `tokens` are scheduled, `rows` get logits, `area` counts the (query, key) pairs of the
        attention (see `attention_area`), `context` the tokens whose K and V are fetched:
        computed_before + n for a chunk. One-token decodes have as much area as context.
        """
        return Work(
            flop=self._token_flop * tokens + self._row_flop * rows + self._pair_flop * area,
            bytes=self._weight_bytes * steps + self._kv_bytes * (tokens + context),
        )


def attention_area(computed_before: Counts, n: Counts) -> Counts:
    """Pairs that n queries behind computed_before tokens attend to: n (c + (n + 1) / 2)."""
    return n * computed_before + n * (n + 1) // 2


def _layer_matrices(model: Model, tp: int) -> int:
    """Numbers of one layer's matrices on one of tp GPUs; K and V of heads fewer than GPUs are
    computed on several."""
    repeated = max(0, tp - model.kv_heads) * (model.key_size + model.value_size)
    return (model.dense.layer_matrices + model.hidden_size * repeated) // tp


def _communicate(
    model: Model, device: Device, *, gpus: int, efficiency: float | None
) -> tuple[Communication, str]:
    """What the collectives take, and a note that says what was assumed; nothing without an
    efficiency. Raises ValueError as Ring does, and where the device's link is not known."""
    if efficiency is None:
        return NO_COMMUNICATION, f"communication between the {gpus} GPUs takes no time"
    ring = Ring.of(device, gpus, efficiency=efficiency)
    return Communication.of(model, ring), (
        f"communication between the {gpus} GPUs is modelled: {ring.describe()}"
    )
