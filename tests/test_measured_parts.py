"""A measurement in several files; what it says of host and clocks; measuring only parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import experiments.cli
from calibrate.measure.__main__ import main as measure
from calibrate.measure.errors import MeasureError
from calibrate.measure.log import read_lines
from calibrate.measured import make_table
from calibrate.measured_host import host_times, say_clocks
from calibrate.measured_parts import read_parts
from calibrate.table import Table, read_table
from tests.test_measured import MACHINE, SAME, point

MODELS = Path(__file__).parents[1] / "calibrate" / "models"
LIMITS = {"tokens": 64, "batch": 8, "context": 512}


def write(
    path: Path, *lines: dict[str, Any], pool: dict[str, int], ended: bool = True, **same: Any
) -> Path:
    header = {"kind": "header", "format": 1, "same": SAME | same, "machine": MACHINE}
    header |= {"limits": LIMITS | {"pool_tokens": pool}, "budget_s": 60.0}
    end = [{"kind": "end", "key": "end", "pass": 0}] if ended else []
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *lines, *end)))
    return path


def step(at: int, *, kind: str = "decode", **times: float) -> dict[str, Any]:
    told = {"kind": "step", "key": f"step/{at}", "pass": 0, "step": kind, "clock": "cuda_event"}
    return told | {"spans": [[511, 1]], "kv_format": "bfloat16", "median_ns": 1e7, **times}


def decode(format: str, *ns: float) -> list[dict[str, Any]]:
    return list(point("attention_decode", *ns, format=format, batch=8, context=64))


def two_parts(folder: Path, **same: Any) -> list[Path]:
    first = write(
        folder / "a.jsonl",
        *point("linear", 6e6, 7e6, variant="layer", tokens=64),
        *decode("bfloat16", 8e5, 8e5),
        {"kind": "cut", "points": 2, "by": {"linear": 2}},
        step(0),
        pool={"bfloat16": 4096},
        formats=["bfloat16"],
    )
    second = write(
        folder / "b.jsonl",
        *decode("int8_per_token_head", 5e5),
        *decode("bfloat16", 11e5),
        {"kind": "cut", "points": 1, "by": {"skew": 1}},
        step(0),
        ended=False,
        pool={"int8_per_token_head": 8192, "bfloat16": 4000},
        **({"formats": ["int8_per_token_head", "bfloat16"], "only": ["steps"]} | same),
    )
    return [first, second]


def test_parts_together(tmp_path: Path) -> None:
    found = read_parts(two_parts(tmp_path))
    assert found.header["same"]["formats"] == ["bfloat16", "int8_per_token_head"]
    assert found.header["limits"] == LIMITS | {
        "pool_tokens": {"bfloat16": 4000, "int8_per_token_head": 8192}
    }
    assert found.header["budget_s"] == 120.0
    assert set(found.steps) == {"0/step/0", "1/step/0"}
    assert found.cut == {"points": 3, "by": {"linear": 2, "skew": 1}}
    assert not found.ended
    rows = make_table(found).points.to_pylist()
    decodes = {row["kv_dtype"]: row for row in rows if row["operator"] == "attention_decode"}
    assert {name: row["median_ns"] for name, row in decodes.items()} == {
        "bfloat16": 8e5,
        "int8_per_token_head": 5e5,
    }
    assert decodes["bfloat16"]["passes"] == 3


def test_one_part_is_itself(tmp_path: Path) -> None:
    first, _ = two_parts(tmp_path)
    assert read_parts([first]).ended
    assert read_parts([first]).points.keys() == {
        "linear/layer/{'tokens': 64}",
        "attention_decode/attention_decode/bfloat16/{'batch': 8, 'context': 64}",
    }


@pytest.mark.parametrize(
    ("same", "says"),
    [
        ({"provider": "torch"}, r"b.jsonl: found provider torch; allowed: triton, as in .*a.jsonl"),
        ({"block_size": 32}, r"b.jsonl: found block_size 32; allowed: 16"),
        ({"model": SAME["model"] | {"layers": 16}}, r"found a model with layers 16; allowed: 32"),
    ],
)
def test_what_is_of_something_else_is_no_part(
    tmp_path: Path, same: dict[str, Any], says: str
) -> None:
    with pytest.raises(MeasureError, match=says):
        read_parts(two_parts(tmp_path, **same))


def test_host_time_of_steps() -> None:
    """In a graph 10 ms; launched one by one 12, 18 and 14 ms."""
    steps = [
        [step(0, eager_ns=12e6, launch_ns=3e6), step(0)],
        [step(1, eager_ns=18e6, launch_ns=5e6)],
        [step(2, kind="mixed", eager_ns=14e6, launch_ns=9e6)],
        [step(3)],
    ]
    told = host_times(steps)
    assert told["decode"] == {"graph_ns": 1e7, "launch_ns": 4e6, "exposed_ns": 5e6}
    assert told["all"]["exposed_ns"] == 4e6
    assert set(told) == {"decode", "mixed", "all"}
    assert host_times([[step(0)]]) == {}


def test_host_time_is_told_in_the_table(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        *decode("bfloat16", 8e5),
        step(0, eager_ns=1.25e7, launch_ns=1e6),
        {"kind": "clocks", "pass": 0, "key": "clocks", "clocks": {"clocks.sm": "1980 MHz"}},
        pool={},
    )
    told = make_table(read_parts([path])).provenance
    assert told.settings["host"]["decode"]["exposed_ns"] == 2.5e6
    assert told.settings["clocks"] == [{"clocks.sm": "1980 MHz"}]
    assert any("steps take (medians) all +2.50 ms, decode +2.50 ms" in note for note in told.notes)


def test_clocks_that_are_held_back_are_told() -> None:
    name = "clocks_event_reasons.active"
    assert list(say_clocks([{name: "0x0000000000000003"}, {name: "0x0"}, {}])) == []
    said = list(say_clocks([{name: "0x0000000000000004"}, {name: "0x0"}, {name: "[N/A]"}]))
    assert said == ["clocks held back at the end of 1 of 3 passes (up to 0x0000000000000004)"]


# --- for real


def run(out: Path, *more: str) -> int:
    command = ["--model", str(MODELS / "tiny.json"), "--device", "cpu", "--out", str(out)]
    command += ["--max-tokens", "8", "--max-batch", "2", "--max-context", "32", "--budget", "0.5"]
    return measure([*command, "--pool-tokens", "512", "--steps", "3", *more])


def parts_of(out: Path) -> set[str]:
    lines = [line for _, line in read_lines(out)]
    return {line.get("operator", line["kind"]) for line in lines if "median_ns" in line}


def test_only_some_operators_or_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points, steps = tmp_path / "points.jsonl", tmp_path / "steps.jsonl"
    assert run(points, "--only", "linear", "--only", "attention_decode") == 0
    assert parts_of(points) == {"linear", "attention_decode"}
    assert run(steps, "--only", "steps", "--kv-cache-dtype", "int8") == 0
    assert parts_of(steps) == {"step"}
    assert run(points, "--only", "linear") == 2
    assert "holds another measurement, of only" in capsys.readouterr().err
    assert run(tmp_path / "x.jsonl", "--only", "liner") == 2
    assert "--only: found liner; allowed: linear, head, sampling," in capsys.readouterr().err
    out = tmp_path / "both.parquet"
    done = CliRunner().invoke(
        experiments.cli.main, ["calibrate", "convert", str(points), str(steps), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    table: Table = read_table(out)
    assert set(table.points["operator"].to_pylist()) == {"linear", "attention_decode"}
