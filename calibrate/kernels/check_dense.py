"""A provider's dense parts and its sampler, held to fp64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from calibrate.kernels.cases import ERROR_ALLOWED
from calibrate.kernels.face import Dense, rotary_angles
from calibrate.kernels.finding import Asked

_TOKENS, _SIZE, _HEAD = 7, 256, 64
_EPSILON = 1e-5
_THETA = 10_000.0
_DRAWS = 4096
_CHANCE = 0.05
"""Draws of 8 tokens are so far from their probabilities, all in all, one time in many millions."""


def dense_checks(dense: Dense, device: torch.device | str) -> Iterator[Asked]:
    for dtype, allowed in ERROR_ALLOWED.items():
        part = _Parts(dense, dtype, torch.device(device))
        checks = part.rms_norm, part.add_norm, part.rotary, part.silu_mul, part.linear
        for check in checks:
            name = str(dtype).removeprefix("torch.")
            yield Asked(check.__name__, "", name, allowed, check)
    for name, allowed, draw in (("greedy", 0.0, _greedy), ("sample", _CHANCE, _sample)):
        yield Asked(name, "", "float32", allowed, partial(draw, dense, device))


@dataclass(frozen=True, slots=True)
class _Parts:
    """Each returns its error relative to the largest number."""

    dense: Dense
    dtype: torch.dtype
    device: torch.device

    def rms_norm(self) -> float:
        x, weight = self._numbers(), self._numbers(seed=1)[0]
        out = self._poison(x)
        self.dense.rms_norm(
            self._there(x), self._there(weight), out, residual=None, epsilon=_EPSILON
        )
        return _off(out, _normed(x.double(), weight))

    def add_norm(self) -> float:
        """With a residual, of what is kept of the sum."""
        x, weight, before = (self._numbers(seed=seed) for seed in range(3))
        residual, out = self._there(before), self._poison(x)
        self.dense.rms_norm(
            self._there(x), self._there(weight[0]), out, residual=residual, epsilon=_EPSILON
        )
        kept = residual.cpu().double()
        errors = _off(residual, x.double() + before.double()), _off(out, _normed(kept, weight[0]))
        # Python's maximum may lose what is not a number.
        return torch.tensor(errors).max().item()

    def rotary(self) -> float:
        """Of queries and keys that are views of one tensor."""
        x, positions = self._numbers(), 100 * torch.arange(_TOKENS)
        pairs = torch.arange(_HEAD // 2, dtype=torch.float64) / (_HEAD // 2)
        turns = positions[:, None] * _THETA**-pairs
        halves = x.double().view(_TOKENS, -1, _HEAD).chunk(2, dim=-1)
        turned = torch.complex(*halves) * torch.exp(1j * turns)[:, None]
        out = self._there(x)
        heads = out.view(_TOKENS, -1, _HEAD)
        angles = rotary_angles(100 * _TOKENS, _HEAD, theta=_THETA, device=self.device)
        self.dense.rotary(heads[:, :3], heads[:, 3:], angles, self._there(positions))
        return _off(out, torch.cat([turned.real, turned.imag], dim=-1).flatten(1))

    def silu_mul(self) -> float:
        x = self._numbers()
        gate, up = x.double().chunk(2, dim=-1)
        out = self._poison(x[:, : _SIZE // 2])
        self.dense.silu_mul(self._there(x), out)
        return _off(out, gate / (1 + torch.exp(-gate)) * up)

    def linear(self) -> float:
        x, weight = self._numbers(), self._numbers(seed=1)
        out = self._poison(x[:, :_TOKENS])
        self.dense.linear(self._there(x), self._there(weight), out)
        return _off(out, x.double() @ weight.double().T)

    def _numbers(self, *, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(_TOKENS, _SIZE, generator=generator).to(self.dtype)

    def _there(self, tensor: Tensor) -> Tensor:
        """A copy on the device."""
        return tensor.to(self.device, copy=True)

    def _poison(self, like: Tensor) -> Tensor:
        return torch.full(like.shape, torch.nan, dtype=self.dtype, device=self.device)


def _normed(x: Tensor, weight: Tensor) -> Tensor:
    mean_square = x.square().mean(-1, keepdim=True)
    return x / (mean_square + _EPSILON).sqrt() * weight.double()


def _off(out: Tensor, expected: Tensor) -> float:
    return ((out.cpu().double() - expected).abs().max() / expected.abs().max()).item()


def _greedy(dense: Dense, device: torch.device | str) -> float:
    """The share of rows whose token is not the first of the largest logits."""
    generator = torch.Generator().manual_seed(0)
    # Of few different numbers, so that the largest are many.
    logits = torch.randint(0, 50, (64, 1000), generator=generator).float()
    first = torch.stack([(row == row.max()).nonzero()[0, 0] for row in logits])
    out = torch.full((64,), -1, dtype=torch.int64, device=device)
    dense.greedy(logits.to(device), out)
    return (out.cpu() != first).double().mean().item()


def _sample(dense: Dense, device: torch.device | str) -> float:
    """Half the sum of what shares of tokens lie beside their probabilities; 1 where the same
    state of the generator does not give the same draws."""
    logits = torch.tensor([1.0, -1.0, 3.0, 0.0, 2.0, -2.0, 1.5, 0.5])
    rows = logits.expand(_DRAWS, -1).contiguous().to(device)

    def draw() -> Tensor:
        out = torch.full((_DRAWS,), -1, dtype=torch.int64, device=device)
        dense.sample(rows, 0.8, torch.Generator(device).manual_seed(0), out)
        return out.cpu()

    tokens = draw()
    if not torch.equal(tokens, draw()) or not 0 <= int(tokens.min()) <= int(tokens.max()) < 8:
        return 1.0
    shares = torch.bincount(tokens, minlength=8).double() / _DRAWS
    return ((shares - (logits.double() / 0.8).softmax(-1)).abs().sum() / 2).item()
