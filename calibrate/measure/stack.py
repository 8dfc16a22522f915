"""Llama-shaped layers with random weights, in parts that can be timed and captured.

Whatever needs the host is done when a step is prepared; running it only launches kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from calibrate.kernels.face import Attend, Cache, Dense, rotary_angles
from calibrate.kernels.pool import KVPool
from calibrate.kernels.rows import Rows
from calibrate.measure.shape import Shape

_EPSILON = 1e-5
_THETA = 500_000.0

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(query, key, value, layer) -> what they attend to, [tokens, heads, head_size]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Weights of one layer: matrices are [out size, in size]."""

    qkv: Tensor
    attention_out: Tensor
    gate_up: Tensor
    down: Tensor
    norms: tuple[Tensor, Tensor]


class Stack:
    """A model of which only some layers are kept; layer i of a step runs with weights i modulo
    their number. They are enough that a layer's weights have left the caches when it is its
    turn again."""

    def __init__(
        self,
        shape: Shape,
        dense: Dense,
        *,
        dtype: torch.dtype,
        device: torch.device,
        kept: int,
        positions: int,
        seed: int,
    ) -> None:
        self.shape = shape
        self.dense = dense
        self.dtype = dtype
        self.device = device
        random = torch.Generator(device).manual_seed(seed)

        def draw(rows: int, columns: int) -> Tensor:
            weight = torch.empty((rows, columns), dtype=dtype, device=device)
            return weight.normal_(std=columns**-0.5, generator=random)

        hidden = shape.hidden_size
        self.ones = torch.ones(hidden, dtype=dtype, device=device)
        self.layers = [
            Layer(
                qkv=draw(shape.query_size + 2 * shape.kv_size, hidden),
                attention_out=draw(hidden, shape.query_size),
                gate_up=draw(2 * shape.mlp_size, hidden),
                down=draw(hidden, shape.mlp_size),
                norms=(self.ones.clone(), self.ones.clone()),
            )
            for _ in range(kept)
        ]
        self.embedding = draw(shape.vocab_size, hidden)
        self.head_matrix = draw(shape.vocab_size, hidden)
        self.angles = rotary_angles(positions, shape.head_size, theta=_THETA, device=device)

    def layer(
        self, index: int, x: Tensor, residual: Tensor, positions: Tensor, attention: Attention
    ) -> Tensor:
        """One layer; what it adds goes into `residual`, and is normed with it by the next."""
        weights = self.layers[index % len(self.layers)]
        normed = self._norm(x, weights.norms[0], residual)
        query, key, value = self._project(normed, weights)
        self.dense.rotary(query, key, self.angles, positions)
        attended = attention(query, key, value, index)
        x = self._linear(attended.flatten(1), weights.attention_out)
        gate_up = self._linear(self._norm(x, weights.norms[1], residual), weights.gate_up)
        active = gate_up.new_empty(len(gate_up), self.shape.mlp_size)
        self.dense.silu_mul(gate_up, active)
        return self._linear(active, weights.down)

    def ends(self, ids: Tensor, residual: Tensor) -> Tensor:
        """What a step does once beside its layers and head: embedding, last norm."""
        return self._norm(self.embedding[ids], self.ones, residual)

    def head(self, x: Tensor) -> Tensor:
        """Logits."""
        return self._linear(x, self.head_matrix)

    def step(
        self, rows: Rows, pool: KVPool, attend: Attend, cache: Cache, *, seed: int
    ) -> Callable[[], Tensor]:
        """A whole step, ready to be run again and again: ids in, greedy tokens out."""
        ids = self.ids(rows.tokens, seed=seed)
        positions, slots, last = rows.positions, rows.slots(pool.block_size), rows.last_tokens

        def attention(query: Tensor, key: Tensor, value: Tensor, index: int) -> Tensor:
            layer = index % pool.layers
            cache.write(key, value, pool, layer, slots)
            attended = torch.empty_like(query)
            attend(query, layer, attended)
            return attended

        def run() -> Tensor:
            x = self.embedding[ids]
            residual = torch.zeros_like(x)
            for index in range(self.shape.layers):
                x = self.layer(index, x, residual, positions, attention)
            logits = self.head(self._norm(x[last], self.ones, residual[last]))
            tokens = torch.empty(len(logits), dtype=torch.int64, device=self.device)
            self.dense.greedy(logits, tokens)
            return tokens

        return run

    def ids(self, tokens: int, *, seed: int) -> Tensor:
        random = torch.Generator().manual_seed(seed)
        return torch.randint(self.shape.vocab_size, (tokens,), generator=random).to(self.device)

    def _project(self, x: Tensor, weights: Layer) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.shape
        sizes = [shape.query_size, shape.kv_size, shape.kv_size]
        query, key, value = (
            part.reshape(len(x), -1, shape.head_size).contiguous()
            for part in torch.split(self._linear(x, weights.qkv), sizes, dim=-1)
        )
        return query, key, value

    def _norm(self, x: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        out = torch.empty_like(x)
        self.dense.rms_norm(x, weight, out, residual=residual, epsilon=_EPSILON)
        return out

    def _linear(self, x: Tensor, weight: Tensor) -> Tensor:
        out = x.new_empty(len(x), len(weight))
        self.dense.linear(x, weight, out)
        return out
