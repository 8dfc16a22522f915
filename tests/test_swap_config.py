"""`engine.preemption` in a config: what is refused, how much the host holds, what swaps cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from calibrate.curves import Line
from calibrate.device import load_device, shipped_devices
from calibrate.host_link import PricesSwaps, SwapTime
from calibrate.steptime import StepTime
from calibrate.table import Table, read_table
from experiments.build import build_latency, build_simulation
from experiments.cli import main as pagesim
from experiments.config import Config, parse_config
from experiments.deployment import Deployment, resolve
from experiments.errors import ConfigError
from experiments.executed import Executed
from experiments.simulate import describe_swaps
from sim.fast.vllm import FastVllm
from sim.kv.swap import Swapped, SwappedPrefix
from sim.latency import WholeSteps
from sim.plan import Plan

BLOCK_BYTES = 2 * 32 * 8 * 128 * 2 * 16
"""Keys and values of 32 layers, 8 heads of 128 numbers, 2 bytes, 16 tokens: 2 MiB."""

BASE: dict[str, Any] = {
    "model": "Llama-3.1-8B",
    "device": "H200",
    "latency": {"kind": "roofline"},
    "trace": {"kind": "synthetic", "requests": 60, "arrivals": {"kind": "poisson", "rate": 100}},
}
ENGINE: dict[str, Any] = {"num_gpu_blocks_override": 600, "max_model_len": 8192}


def config_of(engine: dict[str, Any], **sections: Any) -> Config:
    return parse_config(BASE | sections | {"engine": ENGINE | engine})


def deploy(preemption: Any, engine: dict[str, Any] | None = None, **sections: Any) -> Deployment:
    return resolve(config_of({"preemption": preemption, **(engine or {})}, **sections))


# --- what is refused


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"preemption": "swop"}, r"engine.preemption.*'swop'.*recompute.*swap"),
        ({"preemption": {"kind": "swap", "space": 4}}, r"engine.preemption.*space: unknown key"),
        ({"preemption": {"kind": "swap", "swap_space": -1}}, r"engine.preemption.*swap_space"),
        (
            {"preemption": "swap", "kv_cache": "naive"},
            r"engine.preemption.kind: found swap; allowed with kv_cache.kind contiguous: recompute",
        ),
        (
            {"preemption": "swap", "parallel_sampling": "fork"},
            r"engine.preemption.kind: found swap; allowed with parallel_sampling fork: recompute",
        ),
        (
            {"preemption": "swap", "async_scheduling": True},
            r"engine.async_scheduling: .* allowed with preemption.kind swap: one \(victims",
        ),
        (
            {"preemption": "swap", "pipeline_parallel_size": 2},
            r"engine.pipeline_parallel_size: .* allowed with preemption.kind swap: one",
        ),
    ],
)
def test_refused(engine: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(engine)


def test_blocks_of_unknown_size_are_counted_by_the_user() -> None:
    linear = {"kind": "linear", "base_ns": 1, "per_token_ns": 1, "per_context_token_ns": 0}
    engine = {"max_num_seqs": 8, "max_num_batched_tokens": 512}
    unknown = {"model": None, "device": None, "latency": linear}
    with pytest.raises(ConfigError, match=r"^model: missing; needed for .*swap_space \(or give"):
        deploy("swap", engine, **unknown)
    given = deploy({"kind": "swap", "num_cpu_blocks_override": 7}, engine, **unknown)
    assert given.num_cpu_blocks == 7


def test_more_blocks_than_can_be_simulated_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"swap_space: found 40000 GiB, which is 20,480,000 KV"):
        deploy({"kind": "swap", "swap_space": 40_000})


def test_a_clock_without_device_or_measured_swaps_is_refused(tmp_path: Path) -> None:
    """The shipped table has swaps, but of blocks of 16 tokens."""
    tiny = {"model": "tiny", "device": None, "latency": {"kind": "table", "path": "tiny-cpu"}}
    engine = {"max_num_seqs": 8, "max_num_batched_tokens": 512, "max_model_len": 2048}
    build_latency(deploy("swap", engine, **tiny))
    with pytest.raises(ConfigError, match=r"preemption.kind: found swap, which has no price"):
        build_latency(deploy("swap", {**engine, "block_size": 8}, **tiny))


# --- how much the host holds


@pytest.mark.parametrize(
    ("preemption", "engine", "blocks"),
    [
        ("recompute", {}, 0),
        ("swap", {}, 2048),
        ({"kind": "swap", "swap_space": 1}, {}, 512),
        ({"kind": "swap", "swap_space": 0.5}, {"block_size": 32}, 128),
        ({"kind": "swap", "swap_space": 0.001}, {}, 0),
        ({"kind": "swap", "num_cpu_blocks_override": 9}, {}, 9),
        # Each of four GPUs has a fourth of a block, and its own 4 GiB.
        ("swap", {"tensor_parallel_size": 4}, 8192),
        ("swap", {"kv_cache_dtype": "fp8"}, 4096),
    ],
)
def test_blocks_of_the_host(preemption: Any, engine: dict[str, Any], blocks: int) -> None:
    deployment = deploy(preemption, engine)
    assert deployment.num_cpu_blocks == blocks
    simulation = build_simulation(deployment, latency=build_latency(deployment))
    scheduler = simulation.cluster.engines[0].scheduler
    assert isinstance(scheduler, FastVllm)
    assert isinstance(scheduler.kv, Swapped) is (preemption != "recompute")
    if isinstance(scheduler.kv, Swapped):
        assert isinstance(scheduler.kv, SwappedPrefix)
        assert scheduler.kv.host.num_blocks == blocks


# --- what swaps cost


def price(deployment: Deployment, out: int, back: int) -> int:
    return int(build_latency(deployment).swap(out, back))


def test_a_link_takes_its_latency_and_its_bytes() -> None:
    link = load_device("H200").host_link
    assert (link.name, link.latency_ns) == ("PCIe 5.0 x16", 10_000)
    block_ns = 1e9 * BLOCK_BYTES / link.bytes_per_s
    assert 37_000 < block_ns < 38_000
    whole = deploy("swap")
    assert price(whole, 0, 0) == 0
    assert price(whole, 10, 0) == price(whole, 0, 10) == round(10_000 + 10 * block_ns)
    assert price(whole, 10, 3) == round(20_000 + 13 * block_ns)
    slow = deploy({"kind": "swap", "link_efficiency": 0.25})
    assert price(slow, 10, 0) == round(10_000 + 40 * block_ns)
    divided = deploy("swap", {"tensor_parallel_size": 4}, latency={"kind": "roofline"})
    assert price(divided, 40, 0) == round(10_000 + 10 * block_ns)


def test_a_table_prices_swaps_as_measured() -> None:
    tiny = {"model": "tiny", "device": None, "latency": {"kind": "table", "path": "tiny-cpu"}}
    engine = {"max_num_seqs": 8, "max_num_batched_tokens": 512, "max_model_len": 2048}
    deployment = deploy("swap", engine, **tiny)
    rows = read_table("tiny-cpu").points.to_pylist()
    measured_ns = {(row["operator"], row["blocks"]): row["median_ns"] for row in rows}
    out_ns, back_ns = measured_ns["swap_out", 16], measured_ns["swap_in", 4]
    assert out_ns != measured_ns["swap_in", 16]
    assert price(deployment, 16, 0) == round(out_ns)
    assert price(deployment, 0, 4) == round(back_ns)
    assert price(deployment, 16, 4) == round(out_ns + back_ns)
    latency = build_latency(deployment)
    assert isinstance(latency, PricesSwaps)
    assert latency.swaps is not None
    assert latency.swaps.note == "swaps as measured, of up to 1,024 blocks at once"
    assert isinstance(latency, StepTime)
    names = ("steps", "decodes", "decode_context", "chunks", "chunk_tokens", "copied_blocks")
    steps = {name: np.array([1, 1]) for name in names}
    steps |= {"swapped_out_blocks": np.array([1280, 0]), "swapped_in_blocks": np.array([0, 1281])}
    chunks = {name: np.array([2]) for name in ("tokens", "computed_before")}
    counted = latency.outside(steps, chunks)
    assert counted == {"steps of more blocks swapped than the measured 1,024, extrapolated": 1}


def test_as_many_are_measured_as_both_ways_were(tmp_path: Path) -> None:
    table = read_table("tiny-cpu")
    rows = [
        row
        for row in table.points.to_pylist()
        if row["operator"] != "swap_in" or row["blocks"] <= 16
    ]
    path = tmp_path / "t.parquet"
    Table.of_rows(rows, name="t", provenance=table.provenance).write(path)
    tiny = {"model": "tiny", "device": None, "latency": {"kind": "table", "path": str(path)}}
    engine = {"max_num_seqs": 8, "max_num_batched_tokens": 512, "max_model_len": 2048}
    latency = build_latency(deploy("swap", engine, **tiny))
    assert isinstance(latency, StepTime)
    assert latency.swaps is not None
    assert latency.swaps.most_blocks == 16


def test_many_are_priced_as_each_of_them() -> None:
    swaps = SwapTime(Line([1, 7], [500.5, 9000.25]), Line([0], [77.0], tail=3.3), "here")
    out, back = np.array([0, 1, 0, 5, 9]), np.array([0, 0, 4, 2, 1000])
    together = swaps.ns(out, back)
    assert together.dtype == np.int64
    assert together.tolist() == [int(swaps.ns(*each)) for each in zip(out, back, strict=True)]
    assert together.tolist()[:3] == [0, 500, 90]


class Even(WholeSteps):
    """A clock as a user writes it, who thinks of no swaps."""

    source = "here"

    def durations(self, plan: Plan, k: int) -> list[int]:
        return [1] * k


def test_a_clock_says_what_it_takes_for_swaps(tmp_path: Path) -> None:
    def say(latency: dict[str, Any]) -> list[str]:
        engine = {"max_num_seqs": 8, "max_num_batched_tokens": 512}
        return describe_swaps(build_latency(deploy("swap", engine, latency=latency)))

    linear = {"kind": "linear", "base_ns": 1, "per_token_ns": 1, "per_context_token_ns": 0}
    (free,) = say(linear)
    assert free == "latency: swaps take no time (latency.per_swapped_block_ns is 0)"
    assert say(linear | {"per_swapped_block_ns": 3}) == []
    (tmp_path / "d.csv").write_text("duration_ns\n5\n", encoding="utf-8")
    (kept,) = say({"kind": "replay", "path": str(tmp_path / "d.csv")})
    assert "steps take what was recorded" in kept
    assert describe_swaps(Even()) == ["latency: swaps take no time (swap of its class)"]
    assert describe_swaps(Executed("here")) == []


def test_swaps_without_a_price_are_no_bargain() -> None:
    latency = PricesSwaps()
    assert latency.swap(np.zeros(2, dtype=np.int64), 0).tolist() == [0, 0]
    with pytest.raises(AssertionError, match="swaps have no price"):
        latency.swap(0, 1)


def test_every_device_has_a_host_link() -> None:
    for device in shipped_devices():
        link = device.host_link
        assert 10e9 < link.bytes_per_s < 100e9
        assert link.source


# --- a run


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])


def run(folder: Path, preemption: Any, **engine: Any) -> tuple[dict[str, Any], str]:
    values = BASE | {"engine": ENGINE | {"preemption": preemption, **engine}}
    path = folder / "pressed.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    done = CliRunner().invoke(pagesim, ["run", str(path), "--out", str(folder), "--force"])
    assert done.exit_code == 0, done.output
    (summary,) = folder.glob("*/summary.json")
    told: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return told, " ".join(done.output.split())


@pytest.mark.usefixtures("undrawn")
def test_a_run_shows_what_it_swapped(tmp_path: Path) -> None:
    """1 GiB holds 512 blocks, less than all victims want at times."""
    told, shown = run(tmp_path, {"kind": "swap", "swap_space": 1}, enable_prefix_caching=False)
    swapping = told["swapping"]
    assert swapping["swapped"] == swapping["resumed_from_host"] > 5
    assert swapping["swapped"] + swapping["recomputed"] == told["counts"]["preemptions"]
    assert swapping["out_bytes"] == swapping["in_bytes"] == swapping["out_blocks"] * BLOCK_BYTES
    assert 0 < swapping["host_peak_blocks"] <= 512
    assert f"Swapped: {swapping['swapped']:,} preemptions" in shown
    assert "Host memory: 512 blocks, at most" in shown
    assert any("swaps are modelled: PCIe 5.0 x16, 55.6 GB/s" in n for n in told["run"]["notes"])


@pytest.mark.usefixtures("undrawn")
def test_a_run_says_who_was_recomputed_instead(tmp_path: Path) -> None:
    told, shown = run(tmp_path, {"kind": "swap", "swap_space": 0.1}, enable_prefix_caching=False)
    recomputed = told["swapping"]["recomputed"]
    assert recomputed > 0
    assert f"{recomputed:,} of them recomputed, since the host had no room left (51 blocks" in shown


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_recomputes_says_nothing_of_swaps(tmp_path: Path) -> None:
    told, shown = run(tmp_path, "recompute")
    assert told["swapping"] is None
    assert "wap" not in shown
