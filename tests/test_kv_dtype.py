"""A smaller KV dtype halves bytes, not blocks: the pool holds more, a sequence holds the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.build import build_latency, build_simulation
from experiments.build_trace import build_trace
from experiments.config import parse_config
from experiments.deployment import Deployment, resolve

CONFIG = {
    "model": "Llama-3.1-8B",
    "device": "H200",
    "latency": {"kind": "roofline"},
    "trace": {"kind": "chat", "requests": 60},
}

SMALL_HEADS = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}
"""Llama-3.2-1B's."""


def run(dtype: str) -> tuple[Deployment, dict[str, list[int]]]:
    deployment = resolve(parse_config(CONFIG | {"engine": {"kv_cache_dtype": dtype}}))
    simulation = build_simulation(deployment, latency=build_latency(deployment))
    simulation.serve(build_trace(deployment.config))
    records = simulation.records
    requests, memory = records.arrays("requests"), records.arrays("memory")
    return deployment, {
        "decode_ns": (requests["finish_ns"] - requests["first_token_ns"]).tolist(),
        "internal": memory["internal_last_slots"].tolist(),
        "tokens": (requests["prompt_tokens"] + requests["output_tokens"]).tolist(),
    }


@pytest.mark.parametrize(
    ("dtype", "resolved", "more_blocks"),
    [
        ("fp8", "fp8", 2.0),
        # One fp32 scale per token and head for K, and one for V: 132 bytes instead of 256.
        ("int8", "int8_per_token_head", 256 / 132),
        ("int4", "int4_per_token_head", 256 / 68),
    ],
)
def test_half_the_bytes_twice_the_blocks(dtype: str, resolved: str, more_blocks: float) -> None:
    (wide, usual), (narrow, small) = run("auto"), run(dtype)
    assert narrow.config.engine.kv_cache_dtype == resolved
    assert narrow.num_gpu_blocks / wide.num_gpu_blocks == pytest.approx(more_blocks, rel=1e-4)
    assert wide.memory is not None
    assert narrow.memory is not None
    assert narrow.memory.weights == wide.memory.weights
    assert narrow.config.engine.block_size == wide.config.engine.block_size
    # Requests have the same tokens, so the same blocks; reading them takes less time.
    assert sorted(small["tokens"]) == sorted(usual["tokens"])
    assert sum(small["decode_ns"]) < sum(usual["decode_ns"])


def test_a_smaller_head_has_relatively_larger_scales(tmp_path: Path) -> None:
    shape = tmp_path / "config.json"
    shape.write_text(json.dumps(SMALL_HEADS))
    blocks = {}
    for dtype in ("auto", "int8"):
        config = CONFIG | {"engine": {"kv_cache_dtype": dtype}, "model": str(shape)}
        blocks[dtype] = resolve(parse_config(config)).num_gpu_blocks
    assert blocks["int8"] / blocks["auto"] == pytest.approx(128 / 68, rel=1e-4)
