"""What fits: the arithmetic by hand, the answer beside that of a run, and what a user reads."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from calibrate.model import Model, load_model
from experiments.cli import main as pagesim
from experiments.config import parse_config
from experiments.deployment import resolve
from experiments.errors import ConfigError
from experiments.size_screen import explain_grouping, explain_token
from experiments.sizing import Pool, Sizing, size_deployment
from tests.test_models import LLAMA as LLAMA_CONFIG

LLAMA = {"model": "Llama-3.1-8B", "device": "H200"}


def sizing(*, context: int = 8192, prefix_tokens: int = 0, **engine: object) -> Sizing:
    return size_deployment(**LLAMA, engine=engine, context=context, prefix_tokens=prefix_tokens)


def run(*words: object, model: str = "Llama-3.1-8B", device: str = "H200") -> Result:
    options = ["size", "--model", model, "--device", device, *map(str, words)]
    return CliRunner().invoke(pagesim, options)


def printed(*words: object, **where: str) -> str:
    """What a successful command prints, with single blanks, whatever the width."""
    done = run(*words, **where)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_a_pool_by_hand() -> None:
    pool = Pool(blocks=100, block_size=16)
    assert pool.sequences(160) == 10
    assert pool.sequences(161) == 9
    assert pool.sequences(1601) == 0
    assert pool.longest_context(3) == 33 * 16
    assert pool.longest_context(101) == 0


def test_a_shared_prefix_is_counted_once() -> None:
    # 40 tokens: two whole blocks for all, and the rest of the third one for everyone.
    pool = Pool(blocks=100, block_size=16, prefix_tokens=40)
    assert pool.shared_blocks == 2
    assert pool.blocks_of(14, 140) == 2 + 14 * 7
    assert pool.sequences(140) == 14
    assert pool.longest_context(14) == 9 * 16
    assert pool.sequences(40) is None


@given(
    blocks=st.integers(0, 500),
    block_size=st.sampled_from([1, 7, 16]),
    prefix_tokens=st.integers(0, 100),
    more=st.integers(1, 400),
    users=st.integers(1, 20),
)
def test_what_fits_fits_and_one_more_does_not(
    blocks: int, block_size: int, prefix_tokens: int, more: int, users: int
) -> None:
    pool = Pool(blocks=blocks, block_size=block_size, prefix_tokens=prefix_tokens)
    context = prefix_tokens + more
    fits = pool.sequences(context)
    assert fits is not None
    assert fits == 0 or pool.blocks_of(fits, context) <= blocks < pool.blocks_of(fits + 1, context)
    longest = pool.longest_context(users)
    if longest > prefix_tokens:
        assert pool.blocks_of(users, longest) <= blocks < pool.blocks_of(users, longest + 1)


@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"kv_cache_dtype": "int8", "block_size": 32},
        {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.8},
        {"tensor_parallel_size": 2, "pipeline_parallel_size": 4},
        {"max_num_seqs": 16, "scheduler": {"kind": "vllm", "version": "0.19"}},
        {"memory": {"activation_bytes": 1 << 30}},
    ],
)
def test_it_is_the_plan_of_a_run(engine: dict[str, Any]) -> None:
    config = parse_config(LLAMA | {"engine": engine, "trace": {"kind": "chat"}})
    deployment = resolve(config)
    asked = sizing(**engine).asked
    assert asked.plan == deployment.memory
    assert asked.pool is not None
    assert asked.pool.blocks == deployment.num_gpu_blocks - 1
    assert asked.seats == deployment.config.engine.max_num_seqs


def test_stages_share_the_layers() -> None:
    done = run("--tensor-parallel-size", 2, "--pipeline-parallel-size", 5)
    assert done.exit_code == 0, done.output
    assert "H200 x 10, 5 stages (all numbers per GPU)" in done.output
    assert "7 layers x 2 (K, V) x 4 KV heads" in done.output


@pytest.mark.parametrize(("head_size", "more"), [(128, 1.94), (64, 1.88)])
def test_int8_holds_nearly_twice_as_much(head_size: int, more: float) -> None:
    """A scale of 4 bytes behind each K and V is why it is not twice."""
    config = LLAMA_CONFIG | {"head_dim": head_size}
    model = Model.from_config(config, name="m")
    auto, int8 = (model.kv_spec(dtype).bytes_per_token for dtype in ("auto", "int8"))
    assert round(auto / int8, 2) == more


@pytest.mark.parametrize(
    ("model", "dtype", "formula"),
    [
        ("Llama-3.1-8B", "auto", "32 layers x 2 (K, V) x 8 KV heads x 128 x 2 bytes"),
        ("Llama-3.1-8B", "fp8", "32 layers x 2 (K, V) x 8 KV heads x 128 x 1 byte"),
        ("Llama-3.1-8B", "int8", "32 layers x 2 (K, V) x 8 KV heads x (128 + 4 scale) bytes"),
        ("Llama-3.1-8B", "int4", "32 layers x 2 (K, V) x 8 KV heads x (64 + 4 scale) bytes"),
        ("DeepSeek-V3", "auto", "61 layers x (512 latent + 64 rotary) x 2 bytes"),
        ("DeepSeek-V3", "fp8", "61 layers x (512 latent + 64 rotary) x 1 byte"),
    ],
)
def test_the_formula_gives_the_bytes(model: str, dtype: str, formula: str) -> None:
    loaded = load_model(model)
    spec = loaded.kv_spec(dtype)
    assert explain_token(loaded, spec) == formula
    assert arithmetic(formula) == spec.bytes_per_token


def arithmetic(formula: str) -> int:
    """What the formula comes to without its words."""
    product = 1
    for factor in formula.replace("(K, V)", "").split(" x "):
        product *= sum(int(number) for number in re.findall(r"\d+", factor))
    return product


def test_half_a_megabyte_a_token_is_four_times_too_much() -> None:
    said = explain_grouping(load_model("Llama-3.1-8B"))
    assert said is not None
    assert "all 32 heads say 512 KiB in 16 bits, 4x too much" in said
    assert explain_grouping(load_model("Llama-2-7B")) is None
    latent = explain_grouping(load_model("DeepSeek-V3"))
    assert latent is not None
    assert "71.1x as much: MLA keeps one compressed vector" in latent


def test_the_report() -> None:
    said = printed("--users", 20, "--shared-prefix", 1500, "--kv-cache-dtype", "int8")
    for line in (
        "Llama-3.1-8B on H200 as vLLM 0.33 would divide its memory, KV cache in int8_per_token",
        "weights 14.96 8030261248 x 2 bytes",
        "auto 32 layers x 2 (K, V) x 8 KV heads x 128 x 2 bytes 131,072 128",
        "1,024 tokens - - -",
        "93 blocks are counted once (prefix caching); the 12 tokens in the last",
        "Fits. 20 users with 8,192 tokens of context: 8,473 of",
        "20 users may have up to so many tokens each: 46,720 in auto",
    ):
        assert line in said


def test_the_longest_context_ends_at_the_models() -> None:
    assert "131,072 (the model's maximum) in auto" in printed("--users", 2)


def test_a_row_for_the_context_asked_for() -> None:
    said = printed("--context", 5000)
    assert "4,096 tokens" in said
    assert "5,000 tokens" in said


def test_seats_can_be_the_limit() -> None:
    assert "max_num_seqs lets 16 of them run at once" in printed("--max-num-seqs", 16)


def test_users_that_do_not_fit() -> None:
    done = run("--users", 500)
    assert done.exit_code == 1
    assert "Does not fit. 500 users with 8,192 tokens of context: 256,000 of 56,651" in done.output


def test_a_model_that_does_not_fit_says_how_many_gpus_would_do() -> None:
    done = run(model="Llama-3.1-70B", device="H100")
    assert done.exit_code == 1
    printed = " ".join(done.output.split())
    assert "Does not fit: -61.65 GiB are left for the KV cache" in printed
    assert "With --tensor-parallel-size 2 it fits" in printed
    assert "sequences that fit" not in printed


def test_a_mixture_is_sized() -> None:
    said = printed("--users", 4, model="Qwen3-30B-A3B", device="A100-80GB")
    assert "weights 56.87 30532122624 x 2 bytes" in said
    assert "Fits. 4 users" in said


def test_a_model_whose_weights_are_not_counted() -> None:
    said = printed(model="DeepSeek-V3")
    assert "61 layers x (512 latent + 64 rotary) x 2 bytes 70,272 68.62" in said
    assert "int8_per_token_head does not exist for a latent (MLA) cache" in said
    assert "give --weights-bytes and --activation-bytes, per GPU" in said
    assert "Fits" not in said
    given = ("--weights-bytes", 84 * 10**9, "--activation-bytes", 2 * 10**9)
    assert "Fits. One user" in printed(*given, model="DeepSeek-V3")


@pytest.mark.parametrize(
    ("words", "where", "message"),
    [
        ((), {"device": "H300"}, "unknown device 'H300'; did you mean H200"),
        ((), {"model": "Llama"}, "unknown model 'Llama': no such file or folder"),
        (("--block-size", 0), {}, "engine.block_size: found 0; allowed: greater than 0"),
        (("--kv-cache-dtype", "int9"), {}, "engine.kv_cache_dtype: found 'int9'; allowed: auto,"),
        (("--kv-cache-dtype", "int8"), {"model": "DeepSeek-V3"}, "does not exist for latent (MLA)"),
        (("--tensor-parallel-size", 3), {}, "8 KV heads cannot be divided over"),
        (("--context", 200_000), {}, "context: found 200000; allowed: up to the model's 131072"),
        (
            ("--shared-prefix", 8192),
            {},
            "shared-prefix: found 8192; allowed: less than the context",
        ),
        (("--vllm-version", "0.1"), {}, "engine.scheduler.version: found '0.1'"),
        (("--gpu-memory-utilization", 1.5), {}, "engine.gpu_memory_utilization: found 1.5"),
    ],
)
def test_mistakes_are_one_message(
    words: tuple[object, ...], where: dict[str, str], message: str
) -> None:
    done = run(*words, **where)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_a_missing_prefix_cache_shares_nothing() -> None:
    shared = sizing(prefix_tokens=1600).asked.pool
    alone = sizing(prefix_tokens=1600, enable_prefix_caching=False).asked.pool
    assert shared is not None
    assert alone is not None
    assert (shared.shared_blocks, alone.shared_blocks) == (100, 0)


def test_a_context_within_the_prefix_is_refused() -> None:
    with pytest.raises(ConfigError, match="less than the context"):
        sizing(context=100, prefix_tokens=100)
