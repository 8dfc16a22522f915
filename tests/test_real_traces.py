"""The full public traces, served to the last token; nothing lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.build import build_latency, build_simulation
from experiments.build_trace import build_trace
from experiments.config import load_config, parse_config
from experiments.deployment import resolve
from experiments.simulate import simulate
from tests.shared import SHARED, needs_shared

ROOT = Path(__file__).parents[1]
TRACES = {
    "azure-conv": ("azure-2023/AzureLLMInferenceTrace_conv.csv", 19_366),
    "mooncake-conversation": ("mooncake/conversation_trace.jsonl.gz", 12_031),
}


@needs_shared
@pytest.mark.parametrize("name", TRACES)
def test_everything_arrives_and_is_answered(name: str, tmp_path: Path) -> None:
    file, count = TRACES[name]
    path = f"trace.path={SHARED / 'traces' / file}"
    config = load_config(ROOT / "configs" / f"{name}.yaml", overrides=[path])
    # `simulate` checks conservation, in the records and against a recount of the pool.
    summary = simulate(config, out=tmp_path).result.summary
    assert summary["counts"]["arrived"] == count
    assert summary["counts"]["finished"] == count
    assert summary["counts"]["rejected"] == 0


@needs_shared
def test_a_cache_without_end_hits_what_there_is_to_hit() -> None:
    """37.3 % of Mooncake's prompt tokens lie in whole blocks of 512 seen before, one token of
    each prompt left to compute: what a cache that never evicts finds."""
    config = parse_config(
        {
            "engine": {
                "max_num_seqs": 4096,
                "max_num_batched_tokens": 8192,
                "num_gpu_blocks_override": 320_000,
                "block_size": 512,
                "max_model_len": 131_072,
            },
            # Quick enough that nobody waits: a block is published before it can be asked for.
            "latency": {
                "kind": "linear",
                "base_ns": 100_000,
                "per_token_ns": 100,
                "per_context_token_ns": 0,
            },
            "trace": {
                "kind": "mooncake",
                "path": str(SHARED / "traces" / TRACES["mooncake-conversation"][0]),
            },
        }
    )
    deployment = resolve(config)
    simulation = build_simulation(deployment, latency=build_latency(deployment))
    simulation.serve(build_trace(config))
    requests = simulation.records.arrays("requests")
    hit_rate = requests["hit_tokens"].sum() / requests["prompt_tokens"].sum()
    assert round(float(hit_rate), 3) == 0.373
