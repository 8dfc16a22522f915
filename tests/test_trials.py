"""`pagesim calibrate validate`: a trace on real kernels, twice, and predicted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from calibrate.kernels.pool import KVPool
from calibrate.runner import Ran, Step
from calibrate.shadow import Shadow, Shapes
from calibrate.step_log import FEATURES
from experiments import trials
from experiments.build_trace import build_trace
from experiments.calibrate_cli import main as calibrate
from experiments.deployment import resolve
from experiments.executor_config import RealKernels
from experiments.trials import Bench, Trial, run_trials
from sim.plan import Departure

TINY = RealKernels(kind="kernels", model="tiny", dtype="float32")


class Fake:
    """A runner that takes 1,000 ns and 10 for each token, and keeps what it ran."""

    def __init__(self, blocks: int) -> None:
        self.pool = KVPool.empty(
            "float32", layers=1, blocks=blocks, block_size=4, kv_heads=1, head_size=2
        )
        self.steps: list[Step] = []

    def run(self, step: Step) -> Ran:
        self.steps.append(step)
        tokens = sum(len(row.ids) for row in step.rows)
        return Ran(1000 + 10 * tokens, [], torch.empty(0))


def test_random_steps_are_like_the_load() -> None:
    lengths = [(10, 5), (30, 2)]
    shadow = Shadow(Shapes(max_num_seqs=6, max_num_batched_tokens=40, lengths=lengths), seed=1)
    runner = Fake(blocks=6 * 8)
    shadow.use(runner)  # type: ignore[arg-type]
    shadow.measure(300)
    log = shadow.log("load")
    assert log.known == FEATURES
    for step, features, duration_ns in zip(
        runner.steps, log.features.tolist(), log.duration_ns.tolist(), strict=True
    ):
        rows = [(row.before, len(row.ids)) for row in step.rows]
        tokens = sum(n for _, n in rows)
        decodes = [before + 1 for before, n in rows if n == 1]
        chunks = [(before, n) for before, n in rows if n > 1]
        area = sum(n * before + n * (n + 1) // 2 for before, n in chunks)
        assert features == [tokens, len(decodes), sum(decodes), len(chunks), area]
        assert duration_ns == 1000 + 10 * tokens
        assert 1 <= tokens <= 40
        assert len(decodes) <= 6
        held = [block for row in step.rows for block in row.blocks]
        assert len(held) == len(set(held))
        assert all(len(row.blocks) * 4 >= row.before + len(row.ids) for row in step.rows)
        assert max(before + n for before, n in rows) <= 32
    kinds = {(features[1] > 0, features[3] > 0) for features in log.features.tolist()}
    assert kinds == {(True, False), (False, True), (True, True)}


def test_the_gate_by_hand() -> None:
    near = trials.gate_mean(100e6, 102e6, 105e6)
    assert near["error_pct"] == pytest.approx(100 * (105 / 101 - 1))
    assert (near["repeat_pct"], near["allowed_pct"]) == (pytest.approx(2.0), 5.0)
    assert near["passed"]
    assert not trials.gate_mean(100e6, 102e6, 107e6)["passed"]
    wide = trials.gate_mean(100e6, 80e6, 100e6)
    assert wide["allowed_pct"] == pytest.approx(30.0)
    assert wide["passed"]


@pytest.fixture(scope="module")
def pressed() -> Trial:
    bench = Bench(kernels=TINY, requests=40, every=1)
    with pytest.MonkeyPatch.context() as patch:
        # All come at once, however fast the machine was in the pilot.
        patch.setattr(trials, "_capacity", lambda _: 5e5)
        (trial,) = run_trials(bench, ("pressure",))
    return trial


def test_under_memory_pressure(pressed: Trial) -> None:
    """Whatever the machine does meanwhile: decisions, books and sizes."""
    report = pressed.report
    assert report["schedule_identical"]
    assert report["first"]["preemptions"]["real"] > 0
    assert report["random_steps"]["count"] > report["steps"]
    assert len(pressed.predicted) == 40
    assert set(report["gate"]) == {"ttft_ms", "tpot_ms", "e2e_ms"}
    assert json.loads(json.dumps(report)) == report


def test_other_decisions_are_noticed() -> None:
    config = Bench(kernels=TINY, requests=20).config("light", rate=50.0)
    run = trials._execute(Bench(kernels=TINY), config)
    assert trials.is_identical(config, run)
    slower = [2 * duration_ns for duration_ns in run.durations_ns]
    assert not trials.is_identical(config, replace(run, durations_ns=slower))
    late = {**run.frames, "steps": run.frames["steps"].assign(end_ns=lambda x: x["end_ns"] + 1)}
    assert not trials.is_identical(config, replace(run, frames=late))


def serve_texts(every: int) -> list[list[int]]:
    """The ids of all prompts and answers, random steps in between."""
    bench = Bench(kernels=TINY, requests=20, every=every)
    config = bench.config("hits", rate=None)
    texts: list[list[int]] = []

    class Keeping(Shadow):
        def ended(self, departures: list[Departure], now_ns: int) -> None:
            texts.extend(list(executor.texts[each.sequence].ids) for each in departures)

    shapes = Shapes(max_num_seqs=4, max_num_batched_tokens=64, lengths=[(20, 5)])
    simulation = trials._build(resolve(config), Keeping(shapes, every=every))
    (executor,) = simulation.kernels
    simulation.serve(build_trace(config))
    return sorted(texts)


def test_random_steps_leave_the_run_alone() -> None:
    """The same texts come out with and without them."""
    texts = serve_texts(every=1)
    assert len(texts) == 20
    assert texts == serve_texts(every=10**6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--regime", "storm"], "--regime: found storm; allowed: light, knee"),
        (["--provider", "nobody"], "nobody"),
        (["--model", "nobody"], "executor.model"),
        (["--device", "cuda:9"], "cuda:9"),
        (["--device", "tpu"], "executor.device"),
        (["--dtype", "int8"], "executor.dtype"),
        (["--kv-cache-dtype", "int4"], "a KV cache of int4_per_token_head; kernels have"),
        (["--json", "no/such/folder.json"], "--json: found no/such/folder.json; allowed"),
    ],
)
def test_bad_input(options: list[str], message: str) -> None:
    result = CliRunner().invoke(calibrate, ["validate", *options])
    assert result.exit_code == 2, result.output
    assert message in result.stderr


@pytest.mark.parametrize("torch_is", ["missing", "broken"])
def test_without_torch(tmp_path: Path, torch_is: str) -> None:
    """In a process of its own: what is imported here already would be found."""
    code = "import sys; sys.modules['torch'] = None\n" if torch_is == "missing" else ""
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so: cannot open')")
    code += "from experiments.cli import main; main(['calibrate', 'validate'])"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    said = {
        "missing": "torch is not installed (pip install 'pagesim[calibrate]')",
        "broken": "torch is installed, but does not load (libcudart.so: cannot open)",
    }
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"Error: executor.kind: kernels needs torch: {said[torch_is]}\n"


def test_command_line(tmp_path: Path) -> None:
    kept = tmp_path / "trials.json"
    options = ["--requests", "20", "--every", "1", "--regime", "light", "--json", str(kept)]
    result = CliRunner().invoke(calibrate, ["validate", *options])
    assert result.exit_code in (0, 1), result.output
    (report,) = json.loads(kept.read_text())
    assert report["regime"] == "light"
    assert "light:" in result.stdout
