"""`--verify` runs both loops, and says where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments.config import Config, parse_config
from experiments.errors import ConfigError
from experiments.run import main
from experiments.verify import BlockTrail, compare_records, compare_trails, serve, verify
from sim.kv.pool import Pool
from sim.request import Request
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


def test_ids_and_refusals_are_compared(config: Config) -> None:
    ours, theirs = (serve(config, "fast", BlockTrail()) for _ in range(2))
    assert compare_records(ours, theirs) is None
    index = int(ours.records.arrays("requests")["request"][3])
    name = ours.records.names[index]
    theirs.records.names[index] = ("another", None, None)
    assert compare_records(ours, theirs) == (
        f"answered request 3: the fast loop has {name[0]}, the plain one another"
    )
    theirs.records.names[index] = name
    late = Request(id="late", arrival_ns=0, prompt=((1, 0, 2),), output_tokens=1, output_stream=9)
    theirs.records.refused.append((late, "too long"))
    assert compare_records(ours, theirs) == (
        "refused request 0: the fast loop has None, the plain one ('late', 'too long')"
    )


def test_trails_may_differ_in_length() -> None:
    first, second = (5, "admitted", 0, 77), (9, "finished", 0, 77)
    longer, shorter = BlockTrail([first, second]), BlockTrail([first])
    assert compare_trails(longer, longer) is None
    assert compare_trails(longer, shorter) == (
        "the fast loop has at 9 ns request 0 finished, the plain one nothing more"
    )
    assert compare_trails(shorter, longer) == (
        "the fast loop has nothing more, the plain one at 9 ns request 0 finished"
    )
    assert compare_trails(BlockTrail([second]), shorter) == (
        "the fast loop has at 9 ns request 0 finished, the plain one at 5 ns request 0 admitted"
    )


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """The arguments of a run that is verified."""
    config = tmp_path / "small.yaml"
    config.write_text(
        "engine: {num_gpu_blocks_override: 400, max_model_len: 4096, max_num_seqs: 16,"
        " max_num_batched_tokens: 256}\n"
        "latency: {kind: linear, base_ns: 4000000, per_token_ns: 25000,"
        " per_context_token_ns: 10}\n"
        f"trace: {{kind: native, path: {TRACE}}}\n"
    )
    return [str(config), "--verify", "--out", str(tmp_path / "results")]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ConfigError("no")])
def test_the_summary_comes_first_and_stays(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    def give_up(_: Config) -> None:
        raise stop

    monkeypatch.setattr("experiments.verify.verify", give_up)
    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])
    result = CliRunner().invoke(main, small)
    (folder,) = (tmp_path / "results").iterdir()
    assert "requests arrived" in result.stdout
    if stop is KeyboardInterrupt:
        assert result.exit_code == 130
        assert result.stderr == f"Stopped; not verified, but the result is in {folder}.\n"
    else:
        assert (result.exit_code, result.stderr) == (2, "Error: no\n")


def test_command_line(small: list[str]) -> None:
    args = [*small, "--quiet"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    assert "Verified: " in result.stderr
    result = CliRunner().invoke(main, [*args, "--set", "engine.scheduling_policy=priority"])
    assert result.exit_code == 0, result.output
    assert "Verified: " in result.stderr
    result = CliRunner().invoke(main, [*args, "--set", "engine.async_scheduling=true"])
    assert result.exit_code == 0, result.output
    assert "Nothing to verify: with 2 batches in flight" in result.stderr


@pytest.mark.parametrize(
    "engine",
    [
        {"scheduler": "static"},
        {"kv_cache": {"kind": "contiguous", "reserve": "oracle_exact"}},
        {"kv_cache": {"kind": "contiguous", "reserve": "oracle_pow2"}, "scheduler": "static"},
        {"parallel_sampling": "fork"},
        {"scheduling_policy": "priority", "scheduler": {"version": "0.32"}},
    ],
    ids=str,
)
def test_the_loops_agree_where_the_batch_is_walked(config: Config, engine: dict[str, Any]) -> None:
    values = config.model_dump()
    verification = verify(parse_config({**values, "engine": {**values["engine"], **engine}}))
    assert verification.difference is None
    assert verification.steps > 3 * verification.fast_decisions
