"""What every provider's attention must do, whatever the step, the shape and the format."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.kernels.cases import MIXED, Spans, make_case
from calibrate.kernels.errors import Unsupported
from calibrate.kernels.face import Attention
from calibrate.kernels.pool import FORMATS
from calibrate.kernels.providers import PROVIDERS, Provider, load_kernels
from tests.shared import extensions_folder

HERE = [provider for provider in PROVIDERS if not provider.missing()]


@pytest.fixture(scope="module", params=HERE, ids=lambda provider: provider.name)
def provider(request: pytest.FixtureRequest) -> Provider:
    of: Provider = request.param
    return of


@pytest.fixture(scope="module")
def attention(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Attention:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(extensions_folder(tmp_path_factory)))
        return load_kernels(provider.name).attention


def test_the_formats_it_says_and_no_other(provider: Provider, attention: Attention) -> None:
    for format in FORMATS:
        case = make_case(format, torch.float32, [(0, 1)])
        if format in provider.formats:
            case.check(attention)
        else:
            with pytest.raises(Unsupported, match=f"not to {format} on cpu"):
                case.check(attention)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_size", "block_size"),
    [(3, 3, 64, 16), (8, 2, 128, 16), (8, 1, 64, 32), (16, 2, 128, 8), (5, 1, 80, 1)],
)
def test_shapes(
    attention: Attention, heads: int, kv_heads: int, head_size: int, block_size: int
) -> None:
    make_case(
        *("int8_per_token_head", torch.float32, [(37, 1), (0, 5), (0, 0), (66, 4), (0, 1)]),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        block_size=block_size,
        seed=heads,
    ).check(attention)


rows = st.tuples(st.integers(0, 70), st.integers(0, 9) | st.just(1))


@settings(max_examples=12, deadline=None)
@given(
    spans=st.lists(rows, max_size=5),
    heads=st.sampled_from([(1, 1), (4, 4), (4, 1), (8, 1), (8, 2), (7, 1)]),
    head_size=st.sampled_from([64, 128]),
    block_size=st.sampled_from([1, 8, 16, 32]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    which=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_any_step(
    provider: Provider,
    attention: Attention,
    spans: Spans,
    heads: tuple[int, int],
    head_size: int,
    block_size: int,
    dtype: torch.dtype,
    which: int,
    seed: int,
) -> None:
    make_case(
        *(provider.formats[which % len(provider.formats)], dtype, spans),
        heads=heads[0],
        kv_heads=heads[1],
        head_size=head_size,
        block_size=block_size,
        seed=seed,
    ).check(attention)


@pytest.mark.parametrize("format", ["float32", "int8_per_token_head"])
def test_scores_beyond_what_exp_can_take(attention: Attention, format: str) -> None:
    case = make_case(format, torch.float32, MIXED[2:], kv_heads=1, sharpness=300.0)
    assert case.error(attention) < 1e-3


@pytest.mark.parametrize("tokens_apart", [False, True])
def test_a_step_may_be_attended_to_again(attention: Attention, tokens_apart: bool) -> None:
    """Prepared once, for every layer and every replay: nothing is left behind by a call."""
    case = make_case("float32", torch.float32, [(20, 1), (0, 3)])
    query = case.query if tokens_apart else case.query.contiguous()
    attend = attention(case.rows, case.pool, heads=4)
    outs = [torch.full_like(query, torch.nan) for _ in range(2)]
    for out in outs:
        attend(query, 1, out)
    assert torch.equal(*outs)
    torch.testing.assert_close(outs[0].double(), case.expected, rtol=1e-4, atol=1e-5)
