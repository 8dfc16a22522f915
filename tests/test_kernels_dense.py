"""The dense parts against fp64: torch's and Triton's; the sampler against the odds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from calibrate.kernels.face import Dense, rotary_angles
from calibrate.kernels.torch_dense import TorchDense

ALLOWED = {torch.float32: 2e-6, torch.bfloat16: 2**-7}


def triton_dense() -> Dense:
    pytest.importorskip("triton", reason="Triton exists for Linux only")
    from calibrate.kernels.triton_dense import TritonDense

    return TritonDense()


@pytest.fixture(params=[TorchDense, triton_dense], ids=["torch", "triton"])
def dense(request: pytest.FixtureRequest) -> Dense:
    make: Callable[[], Dense] = request.param
    return make()


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    of: torch.dtype = request.param
    return of


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(out: Tensor, expected: Tensor) -> None:
    bound = ALLOWED[out.dtype]
    torch.testing.assert_close(out.double(), expected, rtol=bound, atol=bound)


def test_linear(dense: Dense, dtype: torch.dtype) -> None:
    x, weight = random(5, 96, dtype=dtype) / 8, random(33, 96, dtype=dtype, seed=1)
    out = torch.full((5, 33), torch.nan, dtype=dtype)
    dense.linear(x, weight, out)
    check(out, torch.einsum("ti,oi->to", x.double(), weight.double()))


def normed(x: Tensor, weight: Tensor) -> Tensor:
    rms = (x.double().square().mean(-1, keepdim=True) + 0.01).sqrt()
    return x.double() / rms * weight.double()


def test_rms_norm(dense: Dense, dtype: torch.dtype) -> None:
    x, weight = random(3, 100, dtype=dtype), random(100, dtype=dtype, seed=1)
    out = torch.full_like(x, torch.nan)
    dense.rms_norm(x, weight, out, residual=None, epsilon=0.01)
    check(out, normed(x, weight))


def test_rms_norm_with_a_residual(dense: Dense, dtype: torch.dtype) -> None:
    x, weight = random(3, 100, dtype=dtype), random(100, dtype=dtype, seed=1)
    residual = random(3, 100, dtype=dtype, seed=2)
    added, kept = x.double() + residual.double(), x.clone()
    out = torch.full_like(x, torch.nan)
    dense.rms_norm(x, weight, out, residual=residual, epsilon=0.01)
    check(residual, added)
    check(out, normed(residual, weight))
    assert torch.equal(x, kept)


def test_rotary(dense: Dense, dtype: torch.dtype) -> None:
    """As complex numbers: pair i of a head is turned by position * theta ** (-2 i / size)."""
    positions = torch.tensor([0, 7, 1999])
    qkv = random(3, 8, 80, dtype=dtype)
    query, key, value = qkv[:, :5], qkv[:, 5:7], qkv[:, 7:]
    before = qkv.double()
    dense.rotary(query, key, rotary_angles(2000, 80, theta=500.0, device="cpu"), positions)
    angles = positions[:, None] * 500.0 ** -(torch.arange(40, dtype=torch.float64) / 40)
    pairs = torch.complex(before[..., :40], before[..., 40:]) * torch.exp(1j * angles)[:, None]
    check(torch.cat([query, key], dim=1), torch.cat([pairs.real, pairs.imag], dim=-1)[:, :7])
    assert torch.equal(value.double(), before[:, 7:])


def test_silu_mul(dense: Dense, dtype: torch.dtype) -> None:
    gate_up = 4 * random(3, 2 * 1030, dtype=dtype)
    out = torch.full((3, 1030), torch.nan, dtype=dtype)
    dense.silu_mul(gate_up, out)
    gate, up = gate_up.double().chunk(2, dim=-1)
    check(out, gate / (1 + torch.exp(-gate)) * up)


def test_greedy_takes_the_first_of_the_largest(dense: Dense) -> None:
    out = torch.full((2,), -1)
    dense.greedy(torch.tensor([[0.0, 3.0, -1.0, 3.0], [5.0, 3.0, 4.0, 0.0]]), out)
    assert out.tolist() == [1, 0]


def draw(dense: Dense, logits: Tensor, *, temperature: float, seed: int) -> Tensor:
    out = torch.full((len(logits),), -1)
    dense.sample(logits, temperature, torch.Generator().manual_seed(seed), out)
    return out


def test_samples_come_as_often_as_they_should(dense: Dense) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, -torch.inf, 0.0])
    drawn = draw(dense, logits.expand(20_000, 5), temperature=0.7, seed=1)
    counts = torch.bincount(drawn, minlength=5).numpy()
    assert counts[3] == 0
    odds = torch.softmax(logits.double() / 0.7, 0).numpy()
    assert chisquare(counts[[0, 1, 2, 4]], 20_000 * odds[[0, 1, 2, 4]]).pvalue > 1e-3


def test_a_seed_repeats_a_draw(dense: Dense) -> None:
    logits = random(50, 40, dtype=torch.float32)
    first, second = (draw(dense, logits, temperature=1.0, seed=5) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, draw(dense, logits, temperature=1.0, seed=6))


def test_nothing_to_do(dense: Dense) -> None:
    x = torch.empty(0, 64)
    dense.rms_norm(x, torch.ones(64), x, residual=x.clone(), epsilon=1e-5)
    heads = x.view(0, 1, 64)
    dense.rotary(heads, heads, rotary_angles(4, 64, theta=1e4), torch.empty(0, dtype=torch.int64))
    dense.silu_mul(x, torch.empty(0, 32))
    dense.linear(x, torch.ones(3, 64), torch.empty(0, 3))
