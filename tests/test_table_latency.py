"""Latency tables from config to result: `kind: table` and `imported`, notes, run ids, commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from calibrate.steptime import StepTime
from calibrate.table import read_table
from calibrate.table_schema import TableError
from experiments.build import build_latency
from experiments.cli import main
from experiments.config import parse_config
from experiments.deployment import resolve
from experiments.errors import ConfigError
from experiments.simulate import simulate
from experiments.verify import verify
from tests.latency_tables import make_table
from tests.test_importers import aiconfigurator, llmservingsim, vidur
from tests.test_roofline import plan_of

ENGINE = {
    "num_gpu_blocks_override": 400,
    "max_model_len": 4096,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 512,
}


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])


def values(folder: Path, latency: dict[str, object], **others: object) -> dict[str, Any]:
    return {
        "model": "Llama-3.1-8B",
        "engine": ENGINE,
        "trace": {"kind": "chat", "requests": 60},
        "latency": latency,
        **others,
    }


def table(folder: Path, **options: object) -> dict[str, object]:
    path = folder / "table.parquet"
    make_table(**options).write(path)
    return {"kind": "table", "path": str(path)}


def run(folder: Path, given: dict[str, Any]) -> Any:
    return simulate(parse_config(given), out=folder / "results").result


def test_a_run_on_a_table_says_where_it_left_it(tmp_path: Path) -> None:
    result = run(tmp_path, values(tmp_path, table(tmp_path, contexts=False)))
    chunks = result.chunks
    behind = int(((chunks["tokens"] > 1) & (chunks["computed_before"] > 0)).sum())
    assert behind > 0
    lacking = "latency table: no points of sampling, which take no time here"
    assert result.summary["run"]["notes"] == [
        lacking,
        "latency table: chunks behind a context, which was not measured, priced by area:"
        f" {behind:,}",
    ]
    assert result.summary["about"]["latency"] == "a law, on no GPU; host 0 ns a step"
    assert not result.summary["about"]["modelled"]
    inside = run(tmp_path, values(tmp_path, table(tmp_path)))
    assert inside.summary["run"]["notes"] == [lacking]


def test_a_table_of_another_gpu_is_noted(tmp_path: Path) -> None:
    file = make_table()
    told = replace(file.provenance, device="2 x NVIDIA H200")
    replace(file, provenance=told).write(tmp_path / "h200.parquet")
    latency = {"kind": "table", "path": str(tmp_path / "h200.parquet")}
    notes = {
        device: run(tmp_path, values(tmp_path, latency, device=device)).summary["run"]["notes"]
        for device in ("H200", "H100")
    }
    note = "latency table: measured on H200; the memory is that of H100"
    assert note in notes["H100"]
    assert not any("measured on" in each for each in notes["H200"])


def test_both_loops_agree_on_a_table(tmp_path: Path) -> None:
    latency = table(tmp_path, mixed=True) | {"host_ns": 1000, "capture_sizes": [1, 2, 4, 8]}
    assert verify(parse_config(values(tmp_path, latency))).difference is None


def test_options_reach_the_clock(tmp_path: Path) -> None:
    options = {"host_ns": 1000, "capture_sizes": [64], "skew": False}
    given = values(tmp_path, table(tmp_path) | options)
    clock = build_latency(resolve(parse_config(given | {"device": "H200"})))
    plan = plan_of(decodes=[1024] * 4)
    expected = StepTime(make_table(), host_ns=1000, capture_sizes=[64], skew=False)
    assert clock.durations(plan, 1) == expected.durations(plan, 1)
    assert clock.durations(plan, 1) != StepTime(make_table(), host_ns=1000).durations(plan, 1)


def test_the_run_id_covers_the_content_of_the_table(tmp_path: Path) -> None:
    given = values(tmp_path, table(tmp_path))
    first = run(tmp_path, given)
    again = simulate(parse_config(given), out=tmp_path / "results")
    assert again.reused
    make_table({"median_ns": 1008.0}).write(tmp_path / "table.parquet")
    assert run(tmp_path, given).path != first.path


@pytest.mark.parametrize("source", ["llmservingsim", "aiconfigurator", "vidur"])
def test_a_run_on_each_imported_profile(tmp_path: Path, source: str) -> None:
    make = {"llmservingsim": llmservingsim, "aiconfigurator": aiconfigurator, "vidur": vidur}
    latency = {"kind": "imported", "source": source, "path": str(make[source](tmp_path / "p"))}
    result = run(tmp_path, values(tmp_path, latency, device="H200"))
    assert result.summary["counts"]["finished"] == 60
    assert any(note.startswith("latency table: ") for note in result.summary["run"]["notes"])


@pytest.mark.parametrize(
    ("latency", "message"),
    [
        ({"kind": "table"}, "latency.path: missing; allowed: a latency table"),
        (
            {"kind": "imported", "source": "vidur"},
            "latency.path: missing; allowed: the folder of a profile of vidur",
        ),
        (
            {"kind": "imported", "source": "vidur", "path": "p", "version": "1"},
            "latency.version: found a version; allowed: with source aiconfigurator",
        ),
        (
            {"kind": "imported", "source": "vidur", "path": "p", "modelled_attention": False},
            "latency.modelled_attention: found false; allowed: with source aiconfigurator",
        ),
        ({"kind": "imported", "source": "vidor"}, "latency.source: found 'vidor'; did you mean"),
        ({"kind": "table", "path": "p", "capture_sizes": [0]}, "latency.capture_sizes"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, latency: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(values(tmp_path, latency))
    assert message in str(refused.value)


def test_what_a_table_needs_of_the_config(tmp_path: Path) -> None:
    latency = table(tmp_path)
    with pytest.raises(ConfigError, match=r"model: missing; needed for latency.kind table"):
        run(tmp_path, values(tmp_path, latency, model=None))
    imported = {"kind": "imported", "source": "aiconfigurator", "path": "p"}
    with pytest.raises(ConfigError, match=r"device: missing; needed for latency.source aic"):
        run(tmp_path, values(tmp_path, imported))
    fp16 = imported | {"dtype": "float16"}
    with pytest.raises(ConfigError, match=r"latency.dtype: found float16; allowed: bfloat16, fp8"):
        run(tmp_path, values(tmp_path, fp16, device="H200"))
    with pytest.raises(TableError, match=r"found no points.*Qwen3-8B.*allowed: Llama-3.1-8B"):
        run(tmp_path, values(tmp_path, latency, model="Qwen3-8B"))


def invoke(*words: str | Path) -> Any:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_import_and_show(tmp_path: Path) -> None:
    profile, out = llmservingsim(tmp_path / "p"), tmp_path / "t.parquet"
    done = invoke(
        *("calibrate", "import", "llmservingsim", profile),
        *("--model", "Llama-3.1-8B", "--out", out),
    )
    assert done.exit_code == 0, done.output
    assert "LLMServingSim's profile of Llama-3.1-8B" in done.output
    assert "linear qkv proj" in done.output
    assert "latency: {kind: table, path:" in done.output
    assert len(read_table(out).points) == 2 * 9 + 2 * 2 + 9
    shown = invoke("calibrate", "show", out)
    assert shown.exit_code == 0
    assert shown.output in done.output
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(values(tmp_path, {"kind": "table", "path": str(out)})))
    assert invoke("run", config, "--out", tmp_path / "r", "--quiet").exit_code == 0


def test_mistakes_on_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    options = ("--model", "Llama-3.1-8B", "--out", out)
    wrong = invoke("calibrate", "import", "vidor", tmp_path, *options)
    assert (wrong.exit_code, wrong.output.startswith("Error: source: found 'vidor'")) == (2, True)
    wrong = invoke("calibrate", "import", "vidur", tmp_path / "none", *options)
    assert wrong.exit_code == 2
    assert "none: found no such folder" in wrong.output
    (tmp_path / "x.parquet").write_text("x")
    assert invoke("calibrate", "show", tmp_path / "x.parquet").exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.parquet"]
    unwritable = invoke(
        *("calibrate", "import", "vidur", vidur(tmp_path / "p")),
        *("--model", "Llama-3.1-8B", "--out", tmp_path / "no" / "t.parquet"),
    )
    assert unwritable.exit_code == 2
    assert "t.parquet: cannot be written" in unwritable.output
