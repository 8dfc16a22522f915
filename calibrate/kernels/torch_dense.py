"""The dense parts of a decoder layer and the sampler, in pure torch, on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu


class TorchDense:
    """face.Dense."""

    def linear(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        torch.mm(x, weight.t(), out=out)

    def rms_norm(
        self, x: Tensor, weight: Tensor, out: Tensor, *, residual: Tensor | None, epsilon: float
    ) -> None:
        if residual is not None:
            residual.add_(x)
            x = residual
        wide = x.float()
        inverse = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        out.copy_(wide * inverse * weight.float())

    def rotary(self, query: Tensor, key: Tensor, angles: Tensor, positions: Tensor) -> None:
        cosines, sines = angles[positions][:, None].chunk(2, dim=-1)
        for x in (query, key):
            first, second = x.float().chunk(2, dim=-1)
            turned = (first * cosines - second * sines, second * cosines + first * sines)
            x.copy_(torch.cat(turned, dim=-1))

    def silu_mul(self, gate_up: Tensor, out: Tensor) -> None:
        gate, up = gate_up.float().chunk(2, dim=-1)
        out.copy_(silu(gate) * up)

    def greedy(self, logits: Tensor, out: Tensor) -> None:
        torch.argmax(logits, dim=-1, out=out)

    def sample(
        self, logits: Tensor, temperature: float, generator: torch.Generator, out: Tensor
    ) -> None:
        probabilities = (logits.float() / temperature).softmax(-1)
        # The smallest of exponential times with these rates is a draw from them; unlike
        # torch.multinomial, the race needs no host and can be captured in a CUDA graph.
        times = torch.empty_like(probabilities).exponential_(generator=generator)
        torch.argmax(probabilities / times, dim=-1, out=out)
