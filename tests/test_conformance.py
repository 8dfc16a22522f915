"""Recorded runs of real vLLM are met decision for decision, block id for block id."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.comparison import compare
from experiments.conformance import main
from experiments.recorded import RecordedRun, RecordingError, read_run
from tests.recorded_runs import GOLDEN, HERE, IN_FLIGHT, STEP_LOGS, SYNCHRONOUS, golden
from tests.shared import SHARED, needs_shared

LOCAL = sorted(folder.name for folder in HERE.iterdir())


def assert_identical(run: RecordedRun, loop: str) -> None:
    verdict = compare(run, loop=loop)  # type: ignore[arg-type]
    assert verdict.difference is None
    assert verdict.identical_steps == verdict.steps == len(run.steps)
    assert verdict.identical_block_rows == verdict.block_rows
    assert verdict.identical_requests == verdict.requests


@pytest.mark.parametrize("loop", ["plain", "fast"])
@pytest.mark.parametrize("name", LOCAL)
def test_runs_that_come_with_the_tests(name: str, loop: str) -> None:
    assert_identical(golden(name), loop)


@needs_shared
@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_every_synchronous_run(name: str) -> None:
    run = golden(name)
    assert run.outcomes
    for loop in ("plain", "fast"):
        assert_identical(run, loop)


@needs_shared
@pytest.mark.parametrize("name", IN_FLIGHT)
def test_every_run_with_batches_in_flight(name: str) -> None:
    run = golden(name)
    assert run.config.engine.batches_in_flight > 1
    assert_identical(run, "plain")


@needs_shared
@pytest.mark.parametrize("loop", ["plain", "fast"])
@pytest.mark.parametrize("name", STEP_LOGS)
def test_step_logs_of_a_real_engine(name: str, loop: str) -> None:
    run = read_run(SHARED / "truth" / "vllm-cpu" / name)
    assert run.config.engine.scheduler.version == "0.32"
    assert_identical(run, loop)


@needs_shared
def test_the_step_log_under_memory_pressure_preempts_and_hits() -> None:
    run = read_run(SHARED / "truth" / "vllm-cpu" / "q-tight2")
    assert sum(len(step.preempted) for step in run.steps) == 17
    verdict = compare(run)
    assert verdict.identical_steps == 920


def test_a_difference_is_described() -> None:
    run = golden("s8_same_block_other_prefix")
    steps = list(run.steps)
    steps[100] = dataclasses.replace(steps[100], free=steps[100].free + 1)
    verdict = compare(dataclasses.replace(run, steps=steps))
    assert verdict.identical_steps == verdict.steps - 1
    assert verdict.difference is not None
    assert verdict.difference.startswith("step 100:\n  free: expected ")
    for shown in (
        "running (computed/tokens)",
        "waiting (next first): [",
        "head of the free queue: [",
    ):
        assert shown in verdict.difference


def test_wrong_blocks_and_wrong_times_are_differences() -> None:
    run = golden("s8_same_block_other_prefix")
    steps = list(run.steps)
    steps[0] = dataclasses.replace(steps[0], blocks={"nobody": [1]})
    assert compare(dataclasses.replace(run, steps=steps)).identical_block_rows == len(steps) - 1
    outcomes = {id_: dict(times) for id_, times in run.outcomes.items()}
    some = next(iter(outcomes))
    outcomes[some]["finish_ns"] += 1
    verdict = compare(dataclasses.replace(run, outcomes=outcomes))
    assert verdict.identical_requests == verdict.requests - 1
    assert f"request {some}" in str(verdict.difference)


def test_a_shorter_recording_is_a_difference() -> None:
    run = golden("s8_same_block_other_prefix")
    verdict = compare(dataclasses.replace(run, steps=run.steps[:-3]))
    assert "2853 steps were recorded, 2856 came" in str(verdict.difference)


def test_command_line(tmp_path: Path) -> None:
    good = HERE / "s8_same_block_other_prefix"
    result = CliRunner().invoke(main, [str(good)])
    assert result.exit_code == 0
    assert "2856/2856 steps, 2856/2856 block rows, 120/120 requests identical" in result.stdout
    bad = tmp_path / "bad"
    shutil.copytree(good, bad)
    options = json.loads((bad / "options.json").read_text())
    options["engine"]["num_gpu_blocks"] -= 1
    (bad / "options.json").write_text(json.dumps(options))
    result = CliRunner().invoke(main, [str(good), str(bad)])
    assert result.exit_code == 1
    assert "step 0:\n  free: expected" in result.stdout


def test_unusable_folders(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path / "nothing")])
    assert result.exit_code == 2
    assert "options.json is missing" in result.stderr
    (tmp_path / "options.json").write_text('{"engine": {}, "latency": {}}')
    with pytest.raises(RecordingError, match=r"neither steps\.jsonl\.gz nor steps\.csv"):
        read_run(tmp_path)


def test_step_logs_with_batches_in_flight_are_refused(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").touch()
    for option in ('"async_scheduling": true', '"pipeline_parallel_size": 2'):
        (tmp_path / "options.json").write_text(f'{{"engine": {{{option}}}}}')
        with pytest.raises(RecordingError, match="several batches in flight"):
            read_run(tmp_path)


@needs_shared
def test_a_queue_of_another_depth_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(GOLDEN / "b3_pp2_async", folder)
    options = json.loads((folder / "options.json").read_text())
    options["engine"]["batch_queue_depth"] = 2
    (folder / "options.json").write_text(json.dumps(options))
    with pytest.raises(RecordingError, match=r"batch_queue_depth: found 2; allowed .* 3"):
        read_run(folder)
