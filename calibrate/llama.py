"""The weights of a Llama-shaped decoder, drawn at random.

Nobody reads what it says: its steps take the time that a trained model's would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from calibrate.kernels.face import rotary_angles
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
    """The weights; what is computed with them is in `llama_step`.

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
        kept: int | None = None,
    ) -> None:
        """`positions`: how long a sequence may become. `kept`: only so many layers have weights
        of their own, and layer i takes those of layer i modulo their number; None: all."""
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
            for _ in range(kept or shape.layers)
        ]
        self.norm = draw.norm(hidden)
        self.head = self.embedding if shape.tied_head else draw.matrix(shape.vocab_size, hidden)


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
