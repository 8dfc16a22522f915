"""One step through a Llama-shaped decoder: real kernels over a paged KV pool.

Whatever needs the host is done when a step is prepared. Running it launches kernels and makes
tensors of their results, so that with a provider that does no more it can be captured in a CUDA
graph. Needs the standard library and torch only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from calibrate.kernels.errors import KernelError
from calibrate.kernels.face import Cache, Dense, Kernels
from calibrate.kernels.pool import KVPool
from calibrate.kernels.rows import Rows
from calibrate.llama import Layer, Llama

Attention = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(query, key, value, layer) -> what they attend to, [tokens, heads, head_size]."""


class Decoder:
    """The parts of a step that look at one token at a time, on a provider's dense kernels."""

    def __init__(self, model: Llama, dense: Dense) -> None:
        self.model = model
        self.dense = dense
        self._shape = model.shape

    def layer(
        self,
        index: int,
        x: Tensor,
        residual: Tensor | None,
        positions: Tensor,
        attention: Attention,
    ) -> tuple[Tensor, Tensor]:
        """One layer's output, and the residual that the next norm adds it to.

        `residual` is what the norms before have kept, and is changed; there is none in front of
        the first layer.
        """
        weights = self.model.layers[index % len(self.model.layers)]
        normed = self._norm(x, weights.attention_norm, residual)
        residual = x if residual is None else residual
        query, key, value = self._project(normed, weights)
        self.dense.rotary(query, key, self.model.angles, positions)
        attended = attention(query, key, value, index)
        x = self._linear(attended.flatten(1), weights.attention_out)
        gate_up = self._linear(self._norm(x, weights.mlp_norm, residual), weights.gate_up)
        mixed = gate_up.new_empty(len(gate_up), self._shape.mlp_size)
        self.dense.silu_mul(gate_up, mixed)
        return self._linear(mixed, weights.down), residual

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.embedding[ids]

    def last_norm(self, x: Tensor, residual: Tensor) -> Tensor:
        return self._norm(x, self.model.norm, residual)

    def head(self, x: Tensor) -> Tensor:
        """Logits."""
        return self._linear(x, self.model.head)

    def _project(self, x: Tensor, weights: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [tokens, heads, head_size]: views of one tensor, or normed."""
        shape = self._shape
        sizes = [shape.query_size, shape.kv_size, shape.kv_size]
        query, key, value = (
            part.view(len(x), -1, shape.head_size)
            for part in torch.split(self._linear(x, weights.qkv), sizes, dim=-1)
        )
        if weights.query_norm is not None and weights.key_norm is not None:
            query, key = (
                self._norm(part.flatten(0, 1), weight, None).view(part.shape)
                for part, weight in ((query, weights.query_norm), (key, weights.key_norm))
            )
        return query, key, value

    def _norm(self, x: Tensor, weight: Tensor, residual: Tensor | None) -> Tensor:
        out = torch.empty_like(x)
        epsilon = self._shape.norm_epsilon
        self.dense.rms_norm(x, weight, out, residual=residual, epsilon=epsilon)
        return out

    def _linear(self, x: Tensor, weight: Tensor) -> Tensor:
        out = x.new_empty(len(x), len(weight))
        self.dense.linear(x, weight, out)
        return out


def prepare(
    model: Llama, rows: Rows, *, ids: Tensor, wanted: Tensor, pool: KVPool, kernels: Kernels
) -> Callable[[], Tensor]:
    """A step that is ready to be run, also again and again: what it returns are logits [wanted,
    vocabulary] of some of the rows' tokens, all of whose K and V are kept.

    `ids` int64 [tokens] are those of the rows, `wanted` int64 indices into them. In every layer
    K and V of all tokens are written before any of them attends, since a row may look at blocks
    that another one fills in this very step. A pool of fewer layers than the model's is used in
    turn. Raises KernelError for what the kernels cannot do.
    """
    decoder, cache = Decoder(model, dense_of(kernels)), cache_of(kernels)
    attend = kernels.attention(rows, pool, heads=model.shape.heads)
    positions, slots = rows.positions, rows.slots(pool.block_size)

    def attention(query: Tensor, key: Tensor, value: Tensor, index: int) -> Tensor:
        layer = index % pool.layers
        cache.write(key, value, pool, layer, slots)
        attended = query.new_empty(query.shape)
        attend(query, layer, attended)
        return attended

    def run() -> Tensor:
        x, residual = decoder.layer(0, decoder.embed(ids), None, positions, attention)
        for index in range(1, model.shape.layers):
            x, residual = decoder.layer(index, x, residual, positions, attention)
        return decoder.head(decoder.last_norm(x[wanted], residual[wanted]))

    return run


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
