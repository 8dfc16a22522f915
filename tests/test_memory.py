"""The number of KV blocks: recorded engines, the arithmetic of the terms, what does not fit."""

from __future__ import annotations

import math

import pytest

from calibrate.device import load_device
from calibrate.memory import DoesNotFit, MemoryPlan, default_limits, plan_memory
from calibrate.model import Model, ModelError, load_model
from tests.test_models import DEEPSEEK_V3

LLAMA = load_model("Llama-3.1-8B")
RTX_4090 = load_device("RTX 4090")
H200 = load_device("H200")


def rtx_4090(**changes: object) -> MemoryPlan:
    """The recorded engine: vLLM 0.19 on an RTX 4090."""
    options: dict[str, object] = {
        "gpu_memory_utilization": 0.9,
        "max_num_seqs": 256,
        "max_num_batched_tokens": 2048,
        "vllm_version": "0.19.0",
    }
    return plan_memory(LLAMA, RTX_4090, **(options | changes))  # type: ignore[arg-type]


def test_recorded_rtx_4090() -> None:
    assert rtx_4090().num_blocks == pytest.approx(2588, rel=0.01)


@pytest.mark.parametrize(
    ("model", "tensor_parallel_size", "blocks"),
    [("Llama-3.1-8B", 1, 35_913), ("Qwen3-32B", 2, 28_884)],
)
def test_recorded_rtx_pro_6000(model: str, tensor_parallel_size: int, blocks: int) -> None:
    plan = plan_memory(
        load_model(model),
        load_device("RTX PRO 6000"),
        max_num_seqs=128,
        max_num_batched_tokens=2048,
        tensor_parallel_size=tensor_parallel_size,
        vllm_version="0.28.0",
    )
    assert plan.num_blocks == pytest.approx(blocks, rel=0.02)


def test_terms_of_the_recorded_engine() -> None:
    plan = rtx_4090()
    logits = 256 * 128_256
    assert plan.total.bytes == 25_250_627_584
    assert plan.requested.bytes == math.ceil(25_250_627_584 * 0.9)
    assert plan.weights.bytes == 2 * 8_030_261_248
    assert plan.rotary.bytes == 131_072 * 128 * 2
    assert plan.activation.bytes == (logits * 14 + 128 * 128_256 * 4 + (2048 + 2 * 256) * 4096 * 2)
    assert plan.cuda_graphs.bytes == 0
    assert plan.block.bytes == 2 << 20


def test_rows_add_up() -> None:
    rows = rtx_4090().rows()
    by_term = {row.term: row.bytes for row in rows}
    taken = ("weights", "rotary table", "activation peak", "non-torch", "CUDA graphs")
    left = by_term["requested"] - sum(by_term[term] for term in taken)
    assert by_term["available for KV"] == left
    assert by_term["KV cache"] == left // by_term["one block"] * by_term["one block"]
    assert all(row.derivation for row in rows)


@pytest.mark.parametrize(
    "term",
    ["weights_bytes", "rotary_bytes", "activation_bytes", "non_torch_bytes", "cuda_graph_bytes"],
)
def test_every_term_can_be_given(term: str) -> None:
    field = {"cuda_graph_bytes": "cuda_graphs"}.get(term, term.removesuffix("_bytes"))
    none, mebibyte = rtx_4090(**{term: 0}), rtx_4090(**{term: 1 << 20})
    assert getattr(mebibyte, field) == (1 << 20, "given")
    assert none.available.bytes - mebibyte.available.bytes == 1 << 20


def test_total_can_be_given() -> None:
    plan = rtx_4090(total_bytes=24 * 10**9)
    assert plan.total == (24 * 10**9, "given")
    assert plan.requested.bytes == math.ceil(24 * 10**9 * 0.9)


def test_block_override_and_cache_bytes() -> None:
    assert rtx_4090(num_gpu_blocks_override=100).num_blocks == 100
    given = rtx_4090(kv_cache_memory_bytes=50 * (2 << 20) + 1)
    assert given.available == (50 * (2 << 20) + 1, "given")
    assert given.num_blocks == 50
    both = rtx_4090(kv_cache_memory_bytes=1 << 30, num_gpu_blocks_override=7)
    assert both.num_blocks == 7
    assert both.cache.bytes == 7 * (2 << 20)


def test_kv_dtype_changes_the_block_and_nothing_else() -> None:
    bf16, fp8, int8 = (rtx_4090(kv_cache_dtype=dtype) for dtype in ("auto", "fp8", "int8"))
    assert bf16.available == fp8.available == int8.available
    assert fp8.num_blocks == bf16.available.bytes // (1 << 20)
    assert int8.block.bytes / bf16.block.bytes == 264 / 512


@pytest.mark.parametrize(
    ("option", "growing", "sign"),
    [
        ("gpu_memory_utilization", (0.85, 0.9, 0.95, 1.0), 1),
        ("max_num_seqs", (256, 512, 1024), -1),
        ("max_num_batched_tokens", (2048, 8192, 16384), -1),
        ("block_size", (16, 32, 128), -1),
        ("tensor_parallel_size", (1, 2, 4, 8), 1),
    ],
)
def test_blocks_move_one_way(option: str, growing: tuple[float, ...], sign: int) -> None:
    blocks = [sign * rtx_4090(**{option: value}).num_blocks for value in growing]
    assert blocks == sorted(set(blocks))


def test_graphs_are_counted_since_0_21() -> None:
    before, since = rtx_4090(vllm_version="0.20.2"), rtx_4090(vllm_version="v0.21.0")
    assert before.cuda_graphs.bytes == 0
    assert before.available.bytes - since.available.bytes == since.cuda_graphs.bytes > 0


def test_sorting_sampler_before_0_17_is_larger() -> None:
    old, new = rtx_4090(vllm_version="0.16.0"), rtx_4090(vllm_version="0.17.0")
    logits = 256 * 128_256
    assert old.activation.bytes - new.activation.bytes == (38 - 14) * logits - 128 * 128_256 * 4


def test_wide_layer_beats_few_logits() -> None:
    plan = rtx_4090(max_num_seqs=8)
    assert plan.activation.bytes == 2048 * (2 * 4096 + 3 * 14336) * 2
    assert "widest point of a layer" in plan.activation.derivation


def test_rows_of_logits_are_capped_by_tokens() -> None:
    assert rtx_4090(max_num_seqs=10_000, max_num_batched_tokens=512) == rtx_4090(
        max_num_seqs=512, max_num_batched_tokens=512
    )


def test_model_that_does_not_fit_says_why() -> None:
    with pytest.raises(
        DoesNotFit,
        match=r"Llama-3.1-70B on H200 leaves 0 KV blocks.*weights 131.42 GiB.*Raise gpu_memory",
    ):
        plan_memory(load_model("Llama-3.1-70B"), H200)


@pytest.mark.parametrize("blocks", [0, 1])
def test_null_block_alone_is_no_cache(blocks: int) -> None:
    with pytest.raises(DoesNotFit, match=f"leaves {blocks} KV blocks"):
        rtx_4090(num_gpu_blocks_override=blocks)


def test_mixture_needs_its_weights_and_activations_given() -> None:
    model = Model.from_config(DEEPSEEK_V3, name="DeepSeek-V3")
    for given in ({}, {"weights_bytes": 84 << 30}):
        with pytest.raises(ModelError, match="weights_bytes and activation_bytes"):
            plan_memory(model, H200, **given)
    plan = plan_memory(
        model, H200, weights_bytes=84 << 30, activation_bytes=2 << 30, tensor_parallel_size=8
    )
    assert plan.block.bytes == 16 * 576 * 61 * 2


def test_a_mixture_is_planned_with_its_experts() -> None:
    model, tokens = load_model("Qwen3-30B-A3B"), 16384
    plan = plan_memory(model, H200, max_num_batched_tokens=tokens, max_num_seqs=16)
    assert plan.weights.bytes == 2 * 30_532_122_624
    # Residual and normed input, then for each of 8 experts its input or output, and 768 activated.
    assert plan.activation.bytes == tokens * (2 * 2048 + 8 * (2048 + 768)) * 2
    halved = plan_memory(
        model, H200, max_num_batched_tokens=tokens, max_num_seqs=16, tensor_parallel_size=2
    )
    assert halved.activation.bytes == tokens * (2 * 2048 + 8 * (2048 + 384)) * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gpu_memory_utilization": 0.0}, "gpu_memory_utilization must lie in"),
        ({"gpu_memory_utilization": 1.1}, "gpu_memory_utilization must lie in"),
        ({"max_num_seqs": 0}, "must be at least 1, got 0"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"vllm_version": "latest"}, "vllm_version must look like"),
        ({"kv_cache_dtype": "fp7"}, "unknown kv_cache_dtype 'fp7'"),
    ],
)
def test_bad_options(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rtx_4090(**change)


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("L4", (256, 2048)),
        ("RTX 4090", (256, 2048)),
        ("A100-40GB", (256, 2048)),
        ("A100-80GB", (256, 2048)),
        ("H100", (1024, 8192)),
        ("H200", (1024, 8192)),
        ("RTX PRO 6000", (1024, 8192)),
        ("B200", (1024, 16384)),
    ],
)
def test_default_limits(name: str, limits: tuple[int, int]) -> None:
    device = load_device(name)
    assert default_limits(device) == limits
    seqs, tokens = limits
    assert plan_memory(LLAMA, device) == plan_memory(
        LLAMA, device, max_num_seqs=seqs, max_num_batched_tokens=tokens
    )


def test_a_device_too_small_for_a_given_cache_is_refused() -> None:
    llama_70b, l4 = load_model("Llama-3.1-70B"), load_device("L4")
    with pytest.raises(DoesNotFit, match=r"exceed the 22.03 GiB of L4: .*weights 131.42 GiB"):
        plan_memory(llama_70b, l4, num_gpu_blocks_override=9000)
    room = rtx_4090().total.bytes - rtx_4090().weights.bytes - rtx_4090().rotary.bytes
    block = rtx_4090().block.bytes
    assert rtx_4090(num_gpu_blocks_override=room // block).num_blocks == room // block
    with pytest.raises(DoesNotFit, match="Lower num_gpu_blocks_override or kv_cache_memory"):
        rtx_4090(num_gpu_blocks_override=room // block + 1)
    with pytest.raises(DoesNotFit, match=r"exceed .* of RTX 4090"):
        rtx_4090(kv_cache_memory_bytes=room + block)
    with pytest.raises(DoesNotFit, match=r"activation peak 30.00 GiB \(given\)"):
        rtx_4090(num_gpu_blocks_override=2, activation_bytes=30 << 30)


def test_the_excess_over_what_was_requested() -> None:
    derived = rtx_4090()
    assert -derived.block.bytes < derived.excess_bytes <= 0
    more = rtx_4090(num_gpu_blocks_override=derived.num_blocks + 10)
    assert more.excess_bytes == derived.excess_bytes + 10 * derived.block.bytes > 0
