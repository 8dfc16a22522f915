"""`executor` in a config: what is refused, what a run on kernels leaves behind, and its replay."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

import experiments
import experiments.blocks
from experiments.build import build_latency, build_simulation
from experiments.config import parse_config
from experiments.deployment import resolve
from experiments.durations import read_durations
from experiments.errors import ConfigError
from experiments.run import main
from experiments.simulate import describe_execution

CONFIG: dict[str, Any] = {
    "engine": {
        "num_gpu_blocks_override": 40,
        "max_model_len": 64,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 32,
    },
    "executor": {"kind": "kernels", "model": "tiny"},
    "trace": {
        "kind": "synthetic",
        "requests": 6,
        "arrivals": {"kind": "poisson", "rate": 50},
        "lengths": {
            "prompt": {"kind": "uniform", "low": 5, "high": 40},
            "output": {"kind": "uniform", "low": 1, "high": 9},
        },
    },
}


def changed(**sections: Any) -> dict[str, Any]:
    """CONFIG with other values in some of its sections."""
    return CONFIG | {
        name: CONFIG[name] | value if isinstance(value, dict) and name in CONFIG else value
        for name, value in sections.items()
    }


def built(values: dict[str, Any]) -> None:
    deployment = resolve(parse_config(values))
    build_simulation(deployment, latency=build_latency(deployment))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            changed(latency={"kind": "roofline"}),
            "latency: found roofline; allowed with executor.kind kernels, whose steps are measured:"
            " executed",
        ),
        (
            changed(executor="simulated", latency={"kind": "executed"}) | {"executor": "simulated"},
            "latency: found executed; allowed: with executor.kind kernels",
        ),
        (
            changed(engine={"async_scheduling": True}),
            "executor: found kernels, which run one batch at a time; allowed:"
            " engine.async_scheduling false and engine.pipeline_parallel_size 1",
        ),
        (
            changed(engine={"tensor_parallel_size": 2}),
            "executor: found kernels, which run the model on one device; allowed:"
            " engine.tensor_parallel_size 1",
        ),
        (
            changed(executor={"device": "tpu"}),
            "executor.device: found 'tpu'; allowed: cpu, cuda, or one of several: cuda:0, cuda:1",
        ),
        (
            CONFIG | {"executor": "kernels"},
            "executor.model: missing; allowed: tiny, or a model, here or as `model`",
        ),
        (
            changed(executor={"model": "OPT-13B"}),
            "executor.model: config of OPT-13B: architecture OPTForCausalLM has no kernels here;"
            " known: LlamaForCausalLM, MistralForCausalLM, Qwen3ForCausalLM",
        ),
        (
            changed(executor={"device": "cuda:97"}),
            f"executor: found device cuda:97, which torch {torch.__version__} does not see;"
            " allowed: cpu",
        ),
        (
            changed(executor={"provider": "mine"}),
            "executor: unknown provider 'mine'; known: torch",
        ),
        (
            changed(engine={"kv_cache_dtype": "int4"}),
            "executor: found a KV cache of int4_per_token_head; kernels have float32, bfloat16,"
            " float16, fp8_e4m3, int8_per_token_head",
        ),
    ],
)
def test_what_kernels_cannot_run_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(values)
    assert str(caught.value).startswith(message)


def test_a_pool_that_memory_does_not_hold_is_refused() -> None:
    engine = {"num_gpu_blocks_override": 10**5, "block_size": 2**16}
    with pytest.raises(ConfigError, match=r"executor: 100,000 KV blocks of 65536 tokens in bfl"):
        built(changed(engine=engine))


def test_a_missing_torch_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"not installed \(pip install 'pagesim\[calibrate\]'\)"):
        built(CONFIG)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])
    return tmp_path


def run(folder: Path, values: dict[str, Any], *options: str) -> experiments.results.RunResult:
    (folder / "mine.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    done = CliRunner().invoke(main, ["mine.yaml", "--quiet", *options])
    assert done.exit_code == 0, done.output
    return experiments.load(folder / done.output.strip())


def test_a_run_on_kernels_can_be_replayed_but_not_repeated(folder: Path) -> None:
    executed = run(folder, CONFIG)
    again = run(folder, CONFIG)
    assert executed.path != again.path
    about = executed.summary["about"]
    assert about["latency"].startswith("measured, CPU time of one thread: torch kernels of tiny")
    assert about["modelled"] is False
    assert any("another run measures other times" in n for n in executed.summary["run"]["notes"])
    clock = {"kind": "replay", "path": str(executed.path / "durations.csv")}
    replayed = run(folder, CONFIG | {"executor": "simulated", "latency": clock})
    for table in ("steps", "chunks", "events", "requests", "memory"):
        assert replayed[table].equals(executed[table]), table
    assert sum(read_durations(executed.path / "durations.csv")) > 0
    assert json.loads((replayed.path / "summary.json").read_text())["run"]["notes"] == []


def test_replicas_share_the_weights_and_nothing_else(folder: Path) -> None:
    result = run(folder, changed(cluster={"replicas": 2}))
    assert result.summary["counts"]["finished"] == 6
    assert not (result.path / "durations.csv").exists()
    deployment = resolve(parse_config(changed(cluster={"replicas": 2})))
    one, two = build_simulation(deployment, latency=build_latency(deployment)).kernels
    assert one.runner.model is two.runner.model
    assert one.runner.pool.keys.data_ptr() != two.runner.pool.keys.data_ptr()


@pytest.mark.parametrize(
    "engine",
    [
        {"kv_cache": "naive", "num_gpu_blocks_override": 20},
        {"kv_cache_dtype": "fp8"},
        {"kv_cache_dtype": "int8", "scheduler": "static"},
        {"parallel_sampling": "fork", "loop": "plain"},
    ],
)
def test_every_engine_runs_on_kernels(folder: Path, engine: dict[str, Any]) -> None:
    result = run(folder, changed(engine=engine, trace={"n": {1: 0.5, 2: 0.5}}))
    assert result.summary["counts"]["finished"] == 6


def test_another_model_than_the_planned_one_is_noted() -> None:
    values = changed(executor={"dtype": "float32"}) | {"model": "Llama-3.1-8B"}
    deployment = resolve(parse_config(values))
    simulation = build_simulation(deployment, latency=build_latency(deployment))
    notes = describe_execution(simulation, deployment.config)
    assert "executed with the shape of tiny; memory was planned for Llama-3.1-8B" in notes


@pytest.mark.parametrize(
    ("program", "option", "wanted_by"),
    [(main, "--verify", "--verify"), (experiments.blocks.main, "--step=3", "a look at blocks")],
)
def test_what_runs_twice_refuses_kernels(
    folder: Path, program: typer.Typer, option: str, wanted_by: str
) -> None:
    (folder / "mine.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    done = CliRunner().invoke(program, ["mine.yaml", option])
    assert done.exit_code == 2
    assert done.output.startswith("Error: executor.kind: found kernels")
    assert f"allowed with {wanted_by}" in done.output
    assert not (folder / "results").exists()


def test_memory_that_runs_out_is_the_users_to_give(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB. More words.")

    (folder / "mine.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    monkeypatch.setattr("calibrate.executor.KernelExecutor.run", step)
    done = CliRunner().invoke(main, ["mine.yaml"])
    assert done.exit_code == 2
    assert done.output.startswith("Error: executor: out of memory (CUDA out of memory); allowed:")
    assert list((folder / "results").iterdir()) == []
