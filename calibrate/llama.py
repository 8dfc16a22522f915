"""A Llama-shaped decoder with random weights, run by real kernels over a paged KV pool.

Needs the standard library and torch only. Nobody reads what it says: its steps take the time
that a trained model's would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from calibrate.kernels.errors import KernelError
from calibrate.kernels.face import Cache, Dense, Kernels, rotary_angles
from calibrate.kernels.pool import KVPool
from calibrate.kernels.rows import Rows
from calibrate.llama_shape import LlamaShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Weights of one layer: matrices are [out size, in size], as `Dense.linear` takes them."""

    attention_norm: Tensor
    qkv: Tensor
    """Queries of all heads, then keys, then values."""
    query_norm: Tensor | None
    key_norm: Tensor | None
    attention_out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    """The gate first."""
    down: Tensor


class Llama:
    """The weights, and one step through them.

    Matrices are drawn with standard deviation 1 / sqrt(in size), so that numbers neither grow
    nor vanish; the same seed gives the same weights on one kind of device.
    """

    def __init__(
        self,
        shape: LlamaShape,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        positions: int,
        seed: int = 0,
    ) -> None:
        """`positions`: how long a sequence may become."""
        self.shape = shape
        self.dtype = dtype
        self.device = torch.device(device)
        self.angles = rotary_angles(
            positions, shape.head_size, theta=shape.rope_theta, device=device
        )
        draw = _Draw(torch.Generator(device).manual_seed(seed), dtype)
        hidden, head = shape.hidden_size, shape.head_size
        self.embedding = draw.matrix(shape.vocab_size, hidden, scale=1.0)
        self.layers = [
            Layer(
                attention_norm=draw.norm(hidden),
                qkv=draw.matrix(shape.query_size + 2 * shape.kv_size, hidden),
                query_norm=draw.norm(head) if shape.norms_heads else None,
                key_norm=draw.norm(head) if shape.norms_heads else None,
                attention_out=draw.matrix(hidden, shape.query_size),
                mlp_norm=draw.norm(hidden),
                gate_up=draw.matrix(2 * shape.mlp_size, hidden),
                down=draw.matrix(hidden, shape.mlp_size),
            )
            for _ in range(shape.layers)
        ]
        self.norm = draw.norm(hidden)
        self.head = self.embedding if shape.tied_head else draw.matrix(shape.vocab_size, hidden)

    def step(
        self, ids: Tensor, rows: Rows, wanted: Tensor, *, pool: KVPool, kernels: Kernels
    ) -> Tensor:
        """Logits [wanted, vocabulary] of some of the rows' tokens, whose K and V are kept.

        `ids` int64 [tokens] are those of the rows, `wanted` int64 indices into them. In every
        layer K and V of all tokens are written before any of them attends, since a row may
        look at blocks that another one fills in this very step.
        """
        dense, cache = dense_of(kernels), cache_of(kernels)
        attend = kernels.attention(rows, pool, heads=self.shape.heads)
        positions, slots = rows.positions, rows.slots(pool.block_size)
        x, residual = self.embedding[ids], None
        for index, layer in enumerate(self.layers):
            normed = self._norm(dense, x, layer.attention_norm, residual)
            residual = x if residual is None else residual
            query, key, value = self._project(dense, layer, normed)
            dense.rotary(query, key, self.angles, positions)
            cache.write(key, value, pool, index, slots)
            attended = torch.empty(query.shape, dtype=query.dtype, device=query.device)
            attend(query, index, attended)
            x = _linear(dense, attended.flatten(1), layer.attention_out)
            normed = self._norm(dense, x, layer.mlp_norm, residual)
            gate_up = _linear(dense, normed, layer.gate_up)
            mixed = gate_up.new_empty(len(gate_up), self.shape.mlp_size)
            dense.silu_mul(gate_up, mixed)
            x = _linear(dense, mixed, layer.down)
        assert residual is not None
        last = self._norm(dense, x[wanted], self.norm, residual[wanted])
        return _linear(dense, last, self.head)

    def _project(self, dense: Dense, layer: Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [tokens, heads, head_size]: views of one tensor, or normed."""
        shape = self.shape
        sizes = [shape.query_size, shape.kv_size, shape.kv_size]
        query, key, value = (
            part.view(len(x), -1, shape.head_size)
            for part in torch.split(_linear(dense, x, layer.qkv), sizes, dim=-1)
        )
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = (
                self._norm(dense, part.flatten(0, 1), weight, None).view(part.shape)
                for part, weight in ((query, layer.query_norm), (key, layer.key_norm))
            )
        return query, key, value

    def _norm(self, dense: Dense, x: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        out = torch.empty_like(x)
        dense.rms_norm(x, weight, out, residual=residual, epsilon=self.shape.norm_epsilon)
        return out


def dense_of(kernels: Kernels) -> Dense:
    """The provider's dense kernels. Raises KernelError where it has none."""
    if kernels.dense is None:
        raise KernelError(f"provider {kernels.name} has no dense kernels")
    return kernels.dense


def cache_of(kernels: Kernels) -> Cache:
    """What the provider does to a pool. Raises KernelError where it does nothing."""
    if kernels.cache is None:
        raise KernelError(f"provider {kernels.name} has no kernels that write to a pool")
    return kernels.cache


def _linear(dense: Dense, x: Tensor, weight: Tensor) -> Tensor:
    out = x.new_empty(len(x), len(weight))
    dense.linear(x, weight, out)
    return out


@dataclass(frozen=True, slots=True)
class _Draw:
    generator: torch.Generator
    dtype: torch.dtype

    def matrix(self, rows: int, columns: int, *, scale: float | None = None) -> Tensor:
        scale = columns**-0.5 if scale is None else scale
        weight = torch.empty((rows, columns), dtype=self.dtype, device=self.generator.device)
        return weight.normal_(std=scale, generator=self.generator)

    def norm(self, size: int) -> Tensor:
        """Around 1, and not the same everywhere: a norm left out, or swapped, would show."""
        weight = torch.empty(size, dtype=self.dtype, device=self.generator.device)
        return weight.uniform_(0.5, 1.5, generator=self.generator)
