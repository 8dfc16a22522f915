"""A Llama forward pass over a whole sequence, as its paper has it: no cache, no kernels, fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from calibrate.llama import Llama

Keep = Callable[[Tensor], Tensor]


def forward(model: Llama, ids: Sequence[int], *, keep: Keep = lambda x: x) -> Tensor:
    """Logits [tokens, vocabulary] of all positions. `keep` says what becomes of K and V
    [tokens, heads, head_size] in a cache that rounds."""
    shape = model.shape
    x = model.embedding[list(ids)].double()
    for layer in model.layers:
        normed = _norm(x, layer.attention_norm, shape.norm_epsilon)
        sizes = [shape.query_size, shape.kv_size, shape.kv_size]
        query, key, value = (
            (normed @ weight.double().T).view(len(x), -1, shape.head_size)
            for weight in torch.split(layer.qkv, sizes)
        )
        if shape.norms_heads:
            query = _norm(query, layer.query_norm, shape.norm_epsilon)
            key = _norm(key, layer.key_norm, shape.norm_epsilon)
        query, key = _rotate(query, shape.rope_theta), _rotate(key, shape.rope_theta)
        attended = _attend(query, keep(key), keep(value))
        x = x + attended.flatten(1) @ layer.attention_out.double().T
        normed = _norm(x, layer.mlp_norm, shape.norm_epsilon)
        gate, up = (normed @ layer.gate_up.double().T).chunk(2, dim=-1)
        x = x + (gate * torch.sigmoid(gate) * up) @ layer.down.double().T
    return _norm(x, model.norm, shape.norm_epsilon) @ model.head.double().T


def _norm(x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
    assert weight is not None
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight.double()


def _rotate(x: Tensor, theta: float) -> Tensor:
    """Pair i of a head, as a complex number, times exp(i position theta ** (-2 i / size))."""
    n, _, size = x.shape
    speeds = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(n, dtype=torch.float64)[:, None] * speeds
    turned = (
        torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)[:, None]
    )
    return torch.cat([turned.real, turned.imag], dim=-1)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    n, heads, size = query.shape
    out = torch.empty_like(query)
    hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
    for head in range(heads):
        shared = head // (heads // key.shape[1])
        scores = query[:, head] @ key[:, shared].T / size**0.5
        out[:, head] = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value[:, shared]
    return out


def as_int8(x: Tensor) -> Tensor:
    """What an int8 cache with a scale for each token and head makes of K or V."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale).round() * scale


def as_fp8(x: Tensor) -> Tensor:
    return x.float().to(torch.float8_e4m3fn).double()


def as_bf16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).double()
