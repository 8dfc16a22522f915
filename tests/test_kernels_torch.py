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


@pytest.mark.parametrize("spans", [DECODES, LONG, [(0, 1)], [(3, 0), (5, 1), (0, 0)], []])
def test_batches(spans: Spans) -> None:
    make_case("float32", torch.float32, spans).check(attention)


def test_scores_held_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calibrate.kernels.torch_attention._SCORES_AT_ONCE", 1000)
    make_case("int8_per_token_head", torch.float32, [(40, 21), (0, 9)]).check(attention)


def test_a_pool_to_swap_to_is_not_attended_to() -> None:
    case = make_case("float32", torch.float32, DECODES)
    with pytest.raises(Unsupported, match="a host's pool is ordered by blocks, for swapping"):
        attention(case.rows, case.pool.on_host(30), heads=4)


def test_heads_that_cannot_be_shared_out() -> None:
    case = make_case("float32", torch.float32, DECODES)
    with pytest.raises(Unsupported, match="5 query heads are no multiple of 2 KV heads"):
        attention(case.rows, case.pool, heads=5)
