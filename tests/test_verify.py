"""`--verify` runs both loops, and says where they differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.config import Config, parse_config
from experiments.run import main
from experiments.verify import BlockTrail, compare_records, serve, verify
from sim.kv.pool import Pool
from tests.recorded_runs import HERE

TRACE = HERE / "s8_same_block_other_prefix" / "trace.jsonl"


@pytest.fixture
def config() -> Config:
    return parse_config(
        {
            "engine": {
                "num_gpu_blocks_override": 400,
                "max_model_len": 4096,
                "max_num_seqs": 16,
                "max_num_batched_tokens": 256,
            },
            "latency": {
                "kind": "linear",
                "base_ns": 4_000_000,
                "per_token_ns": 25_000,
                "per_context_token_ns": 10,
            },
            "trace": {"kind": "native", "path": str(TRACE)},
            "cluster": {"replicas": 2, "router": "least_outstanding"},
        }
    )


def test_the_loops_agree(config: Config) -> None:
    verification = verify(config)
    assert verification.difference is None
    assert verification.steps > 3 * verification.fast_decisions


def test_a_wrong_step_is_named(config: Config) -> None:
    one = config.model_copy(update={"cluster": config.cluster.model_copy(update={"replicas": 1})})
    ours, theirs = (serve(each, "fast", BlockTrail()) for each in (config, one))
    difference = compare_records(ours, theirs)
    assert difference is not None
    assert difference.startswith("table step_ends, row ")
    assert "the fast loop has" in difference


def test_wrong_blocks_are_named(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks handed out in another order leave all tables as they are."""
    original = Pool.take
    calls = []

    def take(self: Pool, n: int) -> list[int]:
        calls.append(n)
        blocks = original(self, n)
        return blocks[::-1] if len(calls) == 5 else blocks

    monkeypatch.setattr(Pool, "take", take)
    difference = verify(config).difference
    assert difference is not None
    assert difference.endswith("with other blocks")


def test_command_line(tmp_path: Path) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(
        "engine: {num_gpu_blocks_override: 400, max_model_len: 4096, max_num_seqs: 16,"
        " max_num_batched_tokens: 256}\n"
        "latency: {kind: linear, base_ns: 4000000, per_token_ns: 25000,"
        " per_context_token_ns: 10}\n"
        f"trace: {{kind: native, path: {TRACE}}}\n"
    )
    out = str(tmp_path / "results")
    result = CliRunner().invoke(main, [str(config), "--verify", "--quiet", "--out", out])
    assert result.exit_code == 0, result.output
    assert "Verified: " in result.stderr
    args = [str(config), "--verify", "--quiet", "--out", out]
    result = CliRunner().invoke(main, [*args, "--set", "engine.scheduling_policy=priority"])
    assert result.exit_code == 0
    assert "priority is always run step by step" in result.stderr
