"""What a provider of kernels offers: the one face that measuring and running see.

Every kernel writes into tensors that its caller made, and returns nothing. Pools, rows and
tensors of one call lie on one device, and are contiguous, but that the tokens of queries, keys
and values may lie apart (as views of one qkv tensor do). Shapes and dtypes are the caller's to
keep; what a provider cannot do it refuses with Unsupported, before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from calibrate.kernels.errors import KernelError, MissingProvider, Unsupported
from calibrate.kernels.pool import KVPool
from calibrate.kernels.rows import Rows

__all__ = [
    "Attend",
    "Attention",
    "Cache",
    "Dense",
    "KernelError",
    "Kernels",
    "MissingProvider",
    "Unsupported",
    "rotary_angles",
]

Attend = Callable[[Tensor, int, Tensor], None]
"""attend(query, layer, out): one layer's attention for a step that was prepared.

query and out are [tokens, heads, head_size] of one dtype, which is that of the arithmetic
but for fp32 sums; the softmax is scaled by head_size ** -0.5. The K and V of the step's own
tokens must have been written. May be called again, for other layers or after the pool's
content or the query's has changed; on CUDA it can be captured in a graph, after a first call
in which Triton compiles.
"""


class Attention(Protocol):
    """Paged attention: a step's decode rows and chunks together, in one call per layer."""

    def __call__(self, rows: Rows, pool: KVPool, *, heads: int) -> Attend:
        """Prepare a step: whatever needs the host, allocates, or is the same for all layers.

        `heads` is the number of query heads, a multiple of the pool's KV heads; query head h
        reads KV head h // (heads / kv_heads). Raises Unsupported.
        """
        ...


class Cache(Protocol):
    """What is done to the pool beside attention."""

    def write(self, key: Tensor, value: Tensor, pool: KVPool, layer: int, slots: Tensor) -> None:
        """Keep K and V of new tokens [tokens, kv_heads, head_size] in their slots.

        Quantises as the pool's format says. A negative slot is not written: padding.
        """
        ...

    def copy(self, pool: KVPool, pairs: Tensor) -> None:
        """Copy blocks within the pool, all layers: `pairs` is int64 [n, 2] of (from, to).

        No block may be both read and written by one call, nor written twice.
        """
        ...

    def swap_out(self, pool: KVPool, host: KVPool, pairs: Tensor) -> None:
        """Copy blocks to a pool made by `on_host`, all layers; `pairs` as in `copy`, on the CPU.

        On CUDA the copies run on the current stream: the host may read after it has been waited
        for.
        """
        ...

    def swap_in(self, host: KVPool, pool: KVPool, pairs: Tensor) -> None:
        """The way back: (block of the host, block of the pool)."""
        ...

    def dequantise(
        self, pool: KVPool, layer: int, blocks: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        """The numbers that blocks stand for: [blocks, block_size, kv_heads, head_size] each.

        `blocks` is int64; `keys` and `values` may have any floating dtype.
        """
        ...


class Dense(Protocol):
    """The parts of a decoder layer that do not look at other tokens, and the sampler.

    x is [tokens, size] throughout. Arithmetic inside is fp32 but for `linear`.
    """

    def linear(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        """out = x @ weight.T with weight [out size, in size]; the output head is one, too."""
        ...

    def rms_norm(
        self, x: Tensor, weight: Tensor, out: Tensor, *, residual: Tensor | None, epsilon: float
    ) -> None:
        """out = x / rms(x) * weight; with a residual, x + residual is normed and kept in it."""
        ...

    def rotary(self, query: Tensor, key: Tensor, angles: Tensor, positions: Tensor) -> None:
        """Rotate in place [tokens, heads, head_size], halves of a head being the pairs (Llama).

        `angles` is fp32 [positions, head_size]: cosines, then sines, as `rotary_angles` makes.
        """
        ...

    def silu_mul(self, gate_up: Tensor, out: Tensor) -> None:
        """out = silu(gate) * up, of gate_up [tokens, 2 x size] with the gate first."""
        ...

    def greedy(self, logits: Tensor, out: Tensor) -> None:
        """out int64 [rows] = the first of the largest logits [rows, vocabulary]."""
        ...

    def sample(
        self, logits: Tensor, temperature: float, generator: torch.Generator, out: Tensor
    ) -> None:
        """out int64 [rows], each drawn from softmax(logits / temperature), temperature > 0.

        The same generator state gives the same draw, on one device and torch version.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """The kernels of one provider. What it does not have is None: take it from another."""

    name: str
    attention: Attention
    cache: Cache | None
    dense: Dense | None
    compile: Callable[[KVPool, int, torch.dtype], None] | None = None
    """compile(pool, query heads, dtype of queries): whatever steps over such a pool may need, so
    that none of them waits for it. None where nothing is compiled, or all at the first call."""


def rotary_angles(
    positions: int, head_size: int, *, theta: float, device: torch.device | str = "cpu"
) -> Tensor:
    """fp32 [positions, head_size] for `Dense.rotary`: cosines of all pairs, then sines.

    Pair i of a head turns by position * theta ** (-2 i / head_size) (Su et al. 2021).
    """
    pairs = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), theta**-pairs)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float().to(device)
