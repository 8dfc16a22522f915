"""Traces served on real kernels where little is installed, and held against a latency table."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from typer.testing import CliRunner

from calibrate.correction import plan_of
from calibrate.runner import Runner, Step
from experiments import serve_kernels
from experiments.build import build_latency, build_simulation
from experiments.build_trace import build_trace
from experiments.cli import main
from experiments.config import parse_config
from experiments.deployment import resolve
from experiments.served import Host, find_host, group_runs, judge, step_errors
from experiments.served_log import ServedError, StepLines, Writer, read_served
from sim.latency import Counts, Nanoseconds, WholeSteps
from sim.plan import Plan

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "kernels-8b.yaml"
SMALL = {
    "model": "tiny",
    "executor.model": "tiny",
    "executor.device": "cpu",
    "executor.provider": "torch",
    "engine.max_model_len": 128,
    "engine.max_num_seqs": 4,
    "engine.max_num_batched_tokens": 64,
    "engine.num_gpu_blocks_override": 64,
    "trace.requests": 6,
    "trace.lengths.prompt.max": 60,
    "trace.lengths.output.max": 12,
}
OPTIONS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
TABLE = "tiny-cpu"
VALUES: dict[str, Any] = {
    "name": "small",
    "model": "tiny",
    "engine": {
        "max_num_seqs": 8,
        "max_num_batched_tokens": 256,
        "max_model_len": 512,
        "num_gpu_blocks_override": 300,
    },
    "executor": {"kind": "kernels", "provider": "torch", "model": "tiny"},
    "trace": {
        "kind": "synthetic",
        "requests": 20,
        "arrivals": {"kind": "poisson", "rate": 20},
        "lengths": {
            "kind": "independent",
            "prompt": {"kind": "uniform", "low": 10, "high": 300},
            "output": {"kind": "uniform", "low": 2, "high": 40},
        },
    },
}


def test_serving_needs_few_packages(tmp_path: Path) -> None:
    """Two runs as measure.sh asks for them, where nothing else can be imported."""
    code = """
import sys
for name in ("pandas", "pyarrow", "typer", "rich", "scipy", "seaborn", "matplotlib", "PIL"):
    sys.modules[name] = None
from experiments.serve_kernels import main
first, *options = sys.argv[1:]
common = [*options, "--random-steps", "6"]
assert main([*common, "--out", f"{first}/pilot.jsonl"]) == 0
load = ["--pilot", f"{first}/pilot.jsonl", "--share", "0.5", "--seconds", "0.2"]
raise SystemExit(main([*common, *load, "--out", f"{first}/half.jsonl"]))
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(CONFIG), *OPTIONS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pilot, half = (read_served(tmp_path / f"{name}.jsonl") for name in ("pilot", "half"))
    assert len(pilot.random_steps) == len(half.random_steps) == 6
    assert pilot.ended
    assert half.config["trace"]["arrivals"]["rate"] == pytest.approx(0.5 * pilot.rate, rel=1e-4)
    assert half.config["trace"]["requests"] == -(-0.1 * pilot.rate // 1) == len(half.requests)
    # What was computed: prompts, and answers but for their last tokens.
    tokens = sum(each["prompt_tokens"] + each["output_tokens"] - 1 for each in pilot.requests)
    assert sum(n for spans, _ in pilot.steps for _, n in spans) == tokens
    # All came at once, so steps leave no time between them.
    assert sum(ns for _, ns in pilot.steps) == max(each["finish_ns"] for each in pilot.requests)
    assert pilot.machine["device"].startswith("cpu")


def test_a_whole_file_is_kept_and_half_a_one_is_served_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.jsonl"
    write_run(out, ended=True)
    whole = out.read_bytes()
    command = [str(CONFIG), *OPTIONS, "--out", str(out), "--random-steps", "0"]
    assert serve_kernels.main(command) == 0
    assert out.read_bytes() == whole
    assert "there already, and whole" in capsys.readouterr().err
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]) + b'{"kind":"st')
    assert serve_kernels.main(command) == 0
    assert read_served(out).ended
    assert len(read_served(out).requests) == 6


def test_random_steps_count_when_they_run_again() -> None:
    """Libraries choose and load kernels the first time."""

    class Clock:
        pool = SimpleNamespace(blocks=300, block_size=16, format="float32")
        ran: ClassVar[list[Step]] = []

        def run(self, step: Step) -> SimpleNamespace:
            self.ran.append(step)
            return SimpleNamespace(duration_ns=len(self.ran))

    config = resolve(parse_config(VALUES)).config
    found = list(serve_kernels._run_random_steps(config, cast(Runner, Clock()), 5))
    assert [ns for _, ns in found] == [6, 7, 8, 9, 10]
    assert [[(row.before, len(row.ids)) for row in step.rows] for step in Clock.ran] == 2 * [
        spans for spans, _ in found
    ]
    for step in Clock.ran:
        blocks = [block for row in step.rows for block in row.blocks]
        assert len(blocks) == len(set(blocks))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "executor={kind: simulated}"], "executor.kind: found simulated; allowed:"),
        (["--set", "cluster.replicas=2"], "one replica, and one batch in flight"),
        (["--set", "executor.provider=nobody"], "unknown provider 'nobody'"),
        (["--set", "engine.num_gpu_blocks_override=9"], "found 9 blocks, too few for random steps"),
        (["--pilot", "nothing.jsonl"], "nothing.jsonl: No such file or directory"),
    ],
)
def test_mistakes_leave_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    out = tmp_path / "a.jsonl"
    assert serve_kernels.main([str(CONFIG), *OPTIONS, "--out", str(out), *more]) == 2
    assert says in capsys.readouterr().err
    assert not out.exists()


def test_somebody_elses_file_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "notes.txt"
    out.write_text("mine\n")
    assert serve_kernels.main([str(CONFIG), *OPTIONS, "--out", str(out)]) == 2
    assert "notes.txt:1: found no header of format 1" in capsys.readouterr().err
    assert out.read_text() == "mine\n"


# --- against a table


def write_run(
    path: Path, *, ended: bool = True, host_ns: int = 300_000, factor: float = 1.0, **changed: Any
) -> Path:
    """What kernels would write that take exactly what a table says, times `factor`, and the
    host's time beside."""
    values = VALUES | changed
    latency = {"kind": "table", "path": TABLE, "host_ns": 0}
    plain = values | {"executor": {"kind": "simulated"}, "latency": latency}
    deployment = resolve(parse_config(plain))
    clock = build_latency(deployment)

    class Kernels(WholeSteps):
        """A clock that is slower than its table."""

        source = "a law"

        def durations(self, plan: Plan, k: int) -> list[int]:
            return [round(factor * ns) + host_ns for ns in clock.durations(plan, 1)]

        def swap(self, out_blocks: Counts, in_blocks: Counts) -> Nanoseconds:
            return clock.swap(out_blocks, in_blocks)

    lines = StepLines()
    slow = Kernels()
    simulation = build_simulation(deployment, latency=slow, observers=[lines])
    writer = Writer(path, config=values, machine={"device": "a law"})
    lines.use(writer)
    for spans in ([(40, 1)], [(0, 100)], [(7, 1), (0, 30)]):
        (ns,) = slow.durations(plan_of(spans), 1)
        writer.write("random_step", spans=spans, duration_ns=ns)
    simulation.serve(build_trace(parse_config(plain)))
    writer.write_requests(simulation.records)
    if ended:
        writer.write("end", wall_s=1.0)
    writer.close()
    return path


def test_kernels_that_do_what_the_table_says_are_predicted(tmp_path: Path) -> None:
    run = read_served(write_run(tmp_path / "a.jsonl"))
    host = find_host(run, TABLE, None)
    assert host.ns == pytest.approx(300_000, abs=1)
    report = judge([run], TABLE, host)
    assert report["passed"]
    assert [abs(each["error_pct"]) < 0.01 for each in report["gate"].values()] == [True] * 3
    for each in step_errors(run, TABLE, host):
        assert each.exposed_ns == pytest.approx(300_000, abs=1)
        assert each.off < 1e-6
    kinds = {(each.where, each.kind): each.steps for each in step_errors(run, TABLE, host)}
    assert sum(steps for (where, _), steps in kinds.items() if where == "run") == len(run.steps)
    assert {("random", "decode"), ("random", "prefill"), ("random", "mixed")} <= kinds.keys()


def test_steps_that_swap_first_are_counted_and_not_judged(tmp_path: Path) -> None:
    engine = VALUES["engine"] | {"num_gpu_blocks_override": 34, "preemption": "swap"}
    trace = VALUES["trace"] | {"arrivals": {"kind": "at_once"}}
    file = write_run(tmp_path / "a.jsonl", engine=engine, trace=trace)
    steps = [line for line in file.read_text().splitlines() if '"kind":"step"' in line]
    run = read_served(file)
    assert run.moving == sum('"moved_blocks":' in line for line in steps) > 0
    assert len(run.steps) + run.moving == len(steps)
    found = step_errors(run, TABLE, find_host(run, TABLE, None))
    assert all(each.off < 1e-6 for each in found)
    assert judge([run], TABLE, Host(300_000, ""))["steps"] == len(steps)
    command = ["calibrate", "compare-served", str(file), "--table", TABLE]
    told = f"! {run.moving} steps copied or swapped blocks first: left out above"
    assert told in CliRunner().invoke(main, command).output


def test_kernels_that_are_slower_are_noticed(tmp_path: Path) -> None:
    run = read_served(write_run(tmp_path / "a.jsonl", factor=1.5, host_ns=0))
    report = judge([run], TABLE, Host(0, "none"))
    assert not report["passed"]
    # A third short, and a little more: in slower steps more sequences are together.
    assert -40 < report["gate"]["tpot_ms"]["error_pct"] < 100 / 1.5 - 100


def test_host_time_is_what_was_asked_for_or_none(tmp_path: Path) -> None:
    fast = read_served(write_run(tmp_path / "a.jsonl", factor=0.5, host_ns=0))
    assert find_host(fast, TABLE, 7) == Host(7, "as asked for")
    assert find_host(fast, TABLE, None).ns == 0
    assert "less than the table says" in find_host(fast, TABLE, None).said
    fast.random_steps.clear()
    assert find_host(fast, TABLE, None).said == "no random steps were measured"


def test_runs_of_one_config_repeat_each_other(tmp_path: Path) -> None:
    names = count()
    a, b, c = (
        read_served(write_run(tmp_path / f"{next(names)}.jsonl", seed=seed)) for seed in (0, 1, 0)
    )
    assert group_runs([a, b, c]) == [[a, c], [b]]


def test_a_run_that_did_not_end_and_other_requests(tmp_path: Path) -> None:
    half = read_served(write_run(tmp_path / "a.jsonl", ended=False))
    with pytest.raises(ServedError, match=r"a.jsonl: found a run that did not end"):
        judge([half], TABLE, Host(0, ""))
    with pytest.raises(ServedError, match="did not end"):
        assert half.rate
    other = read_served(write_run(tmp_path / "b.jsonl"))
    other.requests[3]["arrival_ns"] += 1
    with pytest.raises(ServedError, match="found other requests than its config draws here"):
        judge([other], TABLE, Host(0, ""))
    other.requests.clear()
    with pytest.raises(ServedError, match="or answered nobody"):
        judge([other], TABLE, Host(0, ""))


def test_the_command(tmp_path: Path) -> None:
    files = [str(write_run(tmp_path / f"{name}.jsonl")) for name in "ab"]
    out = tmp_path / "all.json"
    command = ["calibrate", "compare-served", *files, "--table", TABLE, "--json", str(out)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "a.jsonl, b.jsonl, on a law" in done.output
    assert "host time: 0.30 ms a step (median of 3 random steps before the run)" in done.output
    (kept,) = json.loads(out.read_text())
    assert kept["host_ns"] == pytest.approx(300_000, abs=1)
    assert len(kept["step_errors"]) >= 5
    done = CliRunner().invoke(main, [*command[:3], "--table", TABLE, "--host-ms", "9"])
    assert done.exit_code == 1
    assert "! one run: how far two differ is not known" in done.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "found an empty file"),
        ("@\n{\n", r":2: found no JSON object; allowed: header, random_step, step"),
        ('@\n{"kind":"step","spans":[]}\n', ":2: found kind 'step' without start_ns, duration_ns"),
        ('@\n{"kind":"x"}\n', ":2: found kind 'x'; allowed: header"),
        (
            '@\n{"kind":"step","spans":3,"start_ns":1,"duration_ns":1}\n',
            ":2: found kind 'step' with spans 3; allowed: header",
        ),
        (
            '@\n{"kind":"random_step","spans":[],"duration_ns":null}\n',
            ":2: found kind 'random_step' with duration_ns None",
        ),
        (
            '{"kind":"header","format":1,"config":3,"machine":{}}\n',
            ":1: found kind 'header' with config 3",
        ),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, says: str) -> None:
    header = json.dumps({"kind": "header", "format": 1, "config": {}, "machine": {}})
    (tmp_path / "a.jsonl").write_text(text.replace("@", header))
    with pytest.raises(ServedError, match=says):
        read_served(tmp_path / "a.jsonl")
