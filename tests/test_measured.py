"""From measured lines to a table: medians, flags, counts, the correction; and for real."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import experiments.cli
from calibrate.correction import MeasuredStep, fit_correction, plan_of
from calibrate.kernels.face import Attend
from calibrate.kernels.pool import KVPool
from calibrate.kernels.rows import Rows
from calibrate.llama_shape import LlamaShape
from calibrate.measure import session
from calibrate.measure.refusals import memory_errors
from calibrate.measured import make_table, read_measurement
from calibrate.model import load_model, read_model
from calibrate.runner_parts import find_kernels
from calibrate.step_log import FitError
from calibrate.steptime import StepTime
from calibrate.table import Table, find_table, read_table, shipped_tables
from calibrate.table_schema import TableError
from experiments.errors import ConfigError
from experiments.measure import parse_time
from tests.latency_tables import TOKENS, linear_ns
from tests.latency_tables import make_table as make_law

SHAPE = {
    "name": "Llama-3.1-8B",
    "layers": 32,
    "hidden_size": 4096,
    "heads": 32,
    "kv_heads": 8,
    "head_size": 128,
    "mlp_size": 14_336,
    "vocab_size": 128_256,
    "max_positions": 131_072,
}
SAME = {
    "model": SHAPE,
    "provider": "triton",
    "dtype": "bfloat16",
    "formats": ["bfloat16", "fp8_e4m3"],
    "block_size": 16,
    "seed": 3,
}
MACHINE = {
    "device": "NVIDIA H200",
    "versions": {"torch": "2.11"},
    "settings": {"kernel_hash": "abc", "load": 0.5, "clocks.sm": "1980 MHz"},
    "date": "2026-01-02",
}
HEADER = {"kind": "header", "format": 1, "same": SAME, "machine": MACHINE, "limits": {}}


def point(
    operator: str, *ns: float, format: str | None = None, variant: str = "", **axes: int
) -> Iterator[dict[str, Any]]:
    """A line for each pass."""
    variant = variant or operator
    key = f"{operator}/{variant}/{format}/{axes}"
    for turn, median_ns in enumerate(ns):
        yield {
            "kind": "point",
            "operator": operator,
            "variant": variant,
            "kv_format": format,
            "key": key if variant != "layer" else f"linear/layer/{axes}",
            "pass": turn,
            "axes": axes,
            "median_ns": median_ns,
            "clock": "cuda_event",
        }


def write(path: Path, *lines: dict[str, Any], ended: bool = True) -> Path:
    end = [{"kind": "end", "key": "end", "pass": 0}] if ended else []
    every = [HEADER | {"budget_s": 60.0}, *lines, *end]
    path.write_text("".join(json.dumps(line) + "\n" for line in every))
    return path


def table_of(tmp_path: Path, *lines: dict[str, Any], ended: bool = True) -> Table:
    return make_table(read_measurement(write(tmp_path / "m.jsonl", *lines, ended=ended)))


def test_medians_over_passes_with_their_provenance(tmp_path: Path) -> None:
    table = table_of(
        tmp_path,
        *point("linear", 5e6, 9e6, 6e6, variant="layer", tokens=64),
        *point("sampling", 4e3, variant="greedy", rows=2),
        *point("attention_decode", 8e5, 8.1e5, format="fp8_e4m3", batch=8, context=64),
    )
    linear, sampling, decode = table.points.to_pylist()
    assert (linear["median_ns"], linear["mad_ns"], linear["passes"]) == (6e6, 1e6, 3)
    assert (linear["calls"], linear["tokens"], linear["clock"]) == (32, 64, "cuda_event")
    assert linear["flop"] == 2.0 * 218_103_808 * 64
    assert (sampling["calls"], sampling["rows"], sampling["kv_dtype"]) == (1, 2, None)
    assert (decode["calls"], decode["kv_dtype"], decode["median_ns"]) == (32, "fp8", 8.05e5)
    assert linear["layers"] == 32
    told = table.provenance
    assert (told.device, told.date, told.versions) == (
        "NVIDIA H200",
        "2026-01-02",
        {"torch": "2.11"},
    )
    assert {"kernel_hash": "abc", "seed": 3, "load": 0.5}.items() <= told.settings.items()
    assert told.notes == (
        "passes more than 10% apart, their median kept: 1 points",
        "measured in one pass only: 1 points",
        "not corrected: 0 whole steps, 50 are needed",
    )
    assert not told.chunks_apart
    table.write(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").provenance == told


def test_what_is_not_in_the_table_is_counted(tmp_path: Path) -> None:
    # 64 sequences of 4,096 tokens x 4 KiB are 1 GiB: 224 us at 4.8 TB/s.
    gone = {"kind": "unmeasurable", "pass": 0, "reason": "out of memory"}
    table = table_of(
        tmp_path,
        *point("attention_decode", 223e3, format="bfloat16", batch=64, context=4096),
        *point("attention_decode", 225e3, format="bfloat16", batch=64, context=4095),
        *point("dequantise", 1e3, format="fp8_e4m3", blocks=4),
        gone | {"key": "a"},
        gone | {"key": "b"},
        {"kind": "cut", "points": 5, "by": {"linear": 2, "kv_write": 3}},
        ended=False,
    )
    assert table.points["context"].to_pylist() == [4095]
    assert table.provenance.notes[:-1] == (
        "stopped before its end: what was measured until then",
        "cut by the budget: 5 points (2 of linear, 3 of kv_write)",
        "not measurable, left out: 2 points (2: out of memory)",
        "measured in one pass only: 3 points",
        "dequantise: 1 points measured, which tables have no place for",
        "faster than H200 can be, left out: 1 points",
    )


def test_skew_by_hand(tmp_path: Path) -> None:
    def decode(batch: int, context: int, ns: float) -> Iterator[dict[str, Any]]:
        return point("attention_decode", ns, format="bfloat16", batch=batch, context=context)

    def skewed(batch: int, ns: float) -> Iterator[dict[str, Any]]:
        return point("skew", ns, format="bfloat16", batch=batch, context=256)

    table = table_of(
        tmp_path,
        *decode(8, 256, 1e5),
        *skewed(8, 1.25e5),
        *decode(32, 256, 4e5),
        *skewed(32, 3e5),
        *skewed(128, 9e9),
    )
    # 25 us for 256 tokens beyond the mean; and one that was faster; and one without its mean.
    assert table.provenance.skew == {"decode": ((8, pytest.approx(2.5e4 / 256)), (32, 0.0))}
    assert "skew of 1 batches below 0, taken as 0" in table.provenance.notes


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([], "found no points that a table holds"),
        ([*point("linear", 0.0, tokens=1)], r"m.jsonl:2: found median_ns 0.0; allowed: above 0"),
    ],
)
def test_what_makes_no_table(tmp_path: Path, lines: list[dict[str, Any]], what: str) -> None:
    with pytest.raises(ValueError, match=what) as caught:
        table_of(tmp_path, *lines)
    done = CliRunner().invoke(
        experiments.cli.main, ["calibrate", "convert", str(tmp_path / "m.jsonl")]
    )
    assert (done.exit_code, done.output) == (2, f"Error: {caught.value}\n")
    assert not (tmp_path / "m.parquet").exists()


def test_a_damaged_header(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl")
    path.write_text(path.read_text().replace('"layers": 32, ', ""))
    with pytest.raises(ValueError, match=r"m.jsonl:1: its header is damaged"):
        read_measurement(path)


# --- the correction


def steps_of(clock: StepTime, count: int) -> list[MeasuredStep]:
    random = np.random.default_rng(5)
    steps = []
    for i in range(count):
        decodes = [(int(c), 1) for c in random.integers(16, 4000, random.integers(1, 40))]
        chunks = [(int(random.integers(0, 4000)), int(random.integers(2, 1500)))]
        spans = (decodes, chunks, decodes + chunks)[i % 3]
        steps.append(MeasuredStep(spans, "bfloat16", clock.durations(plan_of(spans), 1)[0]))
    return steps


def test_a_correction_finds_the_factors_that_steps_were_made_with() -> None:
    # Matrices that weigh as much in a step as attention does.
    table = make_law(*({"median_ns": 8 * linear_ns(tokens)} for tokens in TOKENS), mixed=True)
    truth = {
        "linear": 1.5,
        "kv_write": 1.5,
        "head": 0.7,
        "sampling": 0.7,
        "attention_decode": 1.2,
        "attention_prefill": 0.9,
    }
    told = replace(table.provenance, factors=truth, step_ns=250_000.0)
    clock = StepTime(replace(table, provenance=told))
    found = fit_correction(table, steps_of(clock, 120))
    for operator in ("linear", "attention_decode"):
        # Much nearer to the truth than to 1.
        off = abs(found.factors[operator] - truth[operator])
        assert off < 0.25 * abs(truth[operator] - 1)
    # Hardly to be seen in whole steps, the head stays as it was measured.
    assert found.factors["head"] == found.factors["sampling"] == pytest.approx(1, abs=0.1)
    assert found.step_ns == pytest.approx(250_000, rel=0.2)
    assert found.after.mean < 0.02
    assert found.before.mean > 0.1
    assert -0.05 < found.residuals["p5"] < found.residuals["p50"] < found.residuals["p95"] < 0.05
    corrected = StepTime(found.apply(table))
    plan = plan_of([(500, 1), (0, 700)])
    assert corrected.durations(plan, 3) == pytest.approx(clock.durations(plan, 3), rel=0.05)


def test_too_few_steps_and_steps_of_another_cache() -> None:
    table = make_law()
    steps = steps_of(StepTime(table), 60)
    with pytest.raises(FitError, match="found 49 whole steps; allowed: 50 or more"):
        fit_correction(table, steps[:49])
    with pytest.raises(FitError, match="found a step with fp8; allowed: bfloat16"):
        fit_correction(table, [step._replace(kv_dtype="fp8") for step in steps])


def test_what_every_step_takes_is_added_once() -> None:
    table = make_law()
    told = replace(table.provenance, step_ns=1000.0)
    slower = StepTime(replace(table, provenance=told))
    plan = plan_of([(500, 1), (0, 4000)])
    assert slower.durations(plan, 1)[0] == StepTime(table).durations(plan, 1)[0] + 1000


# --- for real


def test_a_small_model_measured_converted_and_used(tmp_path: Path) -> None:
    out = tmp_path / "mine.parquet"
    command = ["calibrate", "run", "--model", "tiny", "--device", "cpu", "--budget", "4s"]
    command += ["--max-tokens", "64", "--max-batch", "4", "--max-context", "64", "--steps", "60"]
    command += ["--kv-cache-dtype", "auto,int8", "--pool-tokens", "2048", "--out", str(out)]
    done = CliRunner().invoke(experiments.cli.main, command)
    assert done.exit_code == 0, done.output
    assert "measured by pagesim with torch kernels, tiny" in done.output
    table = read_table(out).select(load_model("tiny"))
    assert table.provenance.settings["provider"] == "torch"
    assert table.provenance.chunks_apart
    clock = StepTime(table)
    (short,), (long,) = (clock.durations(plan_of([(0, n)]), 1) for n in (4, 64))
    assert short > 0
    assert long > 0
    lines = out.with_suffix(".jsonl").read_bytes()
    again = CliRunner().invoke(experiments.cli.main, command)
    assert again.exit_code == 0
    assert out.with_suffix(".jsonl").read_bytes() == lines


def test_full_memory_in_the_middle_is_a_note_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = find_kernels("torch")

    def attention(rows: Rows, pool: KVPool, *, heads: int) -> Attend:
        if len(rows.spans) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return kernels.attention(rows, pool, heads=heads)

    monkeypatch.setattr(session, "find_kernels", lambda _: replace(kernels, attention=attention))
    shape = read_model("tiny", LlamaShape.from_config)
    options = session.Options(
        device="cpu", budget_s=1.0, max_tokens=4, max_batch=2, max_context=64, pool_tokens=256
    )
    session.measure(shape, options, tmp_path / "m.jsonl")
    table = make_table(read_measurement(tmp_path / "m.jsonl"))
    assert set(table.points["batch"].drop_null().to_pylist()) == {1}
    assert any(
        note.startswith("not measurable, left out: ") and "CUDA out of memory" in note
        for note in table.provenance.notes
    )


def test_a_cpu_without_memory_says_so_as_cuda_does() -> None:
    with pytest.raises(MemoryError, match="can't allocate memory: 9"), memory_errors():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 9\nstack")
    with pytest.raises(RuntimeError, match="shapes"), memory_errors():
        raise RuntimeError("shapes do not fit")


def test_what_measures_needs_nothing_of_ours_but_kernels() -> None:
    code = (
        "import calibrate.measure.__main__, sys; print(*sorted({name for name in sys.modules"
        " if name.split('.')[0] in ('calibrate', 'sim', 'traces', 'experiments', 'rich')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = [name for name in done.stdout.split() if name != "calibrate"]
    alone = {"hf_config", "llama", "llama_shape", "llama_step", "runner_parts", "weights"}
    assert {name.split(".")[1] for name in ours} == {"kernels", "measure", *alone}


def test_budgets_are_times() -> None:
    assert [parse_time(text) for text in ("90", "90s", "5min", "1.5h")] == [90, 90, 300, 5400]
    with pytest.raises(ConfigError, match="--budget: found 'soon'; allowed: 90s"):
        parse_time("soon")


# --- the shipped table


def test_the_shipped_table_prices_steps_of_the_tiny_model() -> None:
    assert shipped_tables() == ["tiny-cpu"]
    path = find_table("tiny-cpu")
    assert path.stat().st_size < 200_000
    table = read_table("tiny-cpu").select(load_model("tiny"))
    clock = StepTime(table)
    alone = clock.alone(np.zeros(4, np.int64), np.array([16, 128, 512, 2048]))
    assert (np.diff(alone) > 0).all()
    decodes = [clock.durations(plan_of([(1000, 1)] * n), 1)[0] for n in (1, 8, 64, 256)]
    assert decodes == sorted(decodes)
    contexts = [clock.durations(plan_of([(c, 1)] * 64), 1)[0] for c in (16, 256, 2000)]
    assert contexts == sorted(contexts)
    # One core does such a step in about a millisecond, whatever the core.
    assert 1e5 < decodes[0] < 1e7
    told = table.provenance
    assert set(told.residuals) == {"p5", "p50", "p95"}
    assert {"kernel_hash", "load", "seed"} <= told.settings.keys()


def test_a_table_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(TableError, match=r"found no such file; allowed: .*shipped: tiny-cpu"):
        read_table("tiny-gpu")
