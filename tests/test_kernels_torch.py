"""The pure torch kernels against fp64, on random pools with poison around what they may read."""

from __future__ import annotations

import pytest
import torch

from calibrate.kernels.cases import DECODES, LONG, MIXED, Spans, make_case
from calibrate.kernels.face import Unsupported
from calibrate.kernels.pool import FORMATS
from calibrate.kernels.torch_attention import attention

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_formats(format: str, dtype: torch.dtype) -> None:
    make_case(format, dtype, MIXED).check(attention)


@pytest.mark.parametrize("format", ["bfloat16", "int8_per_token_head"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_size", "block_size"),
    [(3, 3, 64, 16), (8, 2, 128, 16), (8, 1, 64, 32), (16, 2, 128, 8), (5, 1, 80, 1)],
)
def test_shapes(format: str, heads: int, kv_heads: int, head_size: int, block_size: int) -> None:
    make_case(
        *(format, torch.float32, MIXED),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        block_size=block_size,
        seed=heads,
    ).check(attention)


@pytest.mark.parametrize("spans", [DECODES, LONG, [(0, 1)], [(3, 0), (5, 1), (0, 0)], []])
def test_batches(spans: Spans) -> None:
    make_case("float32", torch.float32, spans).check(attention)


def test_scores_held_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calibrate.kernels.torch_attention._SCORES_AT_ONCE", 1000)
    make_case("int8_per_token_head", torch.float32, [(40, 21), (0, 9)]).check(attention)


def test_heads_that_cannot_be_shared_out() -> None:
    case = make_case("float32", torch.float32, DECODES)
    with pytest.raises(Unsupported, match="5 query heads are no multiple of 2 KV heads"):
        attention(case.rows, case.pool, heads=5)
