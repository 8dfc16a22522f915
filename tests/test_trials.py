"""`pagesim calibrate validate`: a trace on real kernels, twice, and predicted."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from calibrate.executor import KernelExecutor
from calibrate.runner import Ran, Runner, Step
from calibrate.step_model import Curve, Prices, Seen, StepModel
from experiments import trials, trials_bench, trials_command
from experiments.arrivals_config import PoissonArrivals
from experiments.build import build_simulation
from experiments.build_trace import build_trace
from experiments.calibrate_cli import main as calibrate
from experiments.config import Config
from experiments.deployment import resolve
from experiments.executor_config import RealKernels, SimulatedExecutor
from experiments.pace import PacedSteps
from experiments.rehearsal import TURN, Rehearsal, Steps
from experiments.trials import Trial, run_trials
from experiments.trials_bench import LOADS, REGIMES, Bench, Regime
from experiments.trials_file import TrialsFile
from experiments.trials_runs import (
    Run,
    Side,
    execute,
    find_rate,
    fit_clocks,
    load_kernels,
    run_beside,
    serve_at_once,
    simulate,
)
from experiments.workload_config import SyntheticTrace
from sim.kv.cache import KVCache
from sim.plan import Departure
from tests.test_pace import PRICES

TINY = RealKernels(kind="kernels", model="tiny", dtype="float32")

UNSEEN = Seen(tokens=(1, 256), decodes=None, decode_context=None, chunks=None, area=None)


def serve_priced(regime: Regime, prices: Prices) -> Steps:
    """A simulated run, step by step."""
    config = Bench(kernels=TINY, requests=60).config(regime, rate=500.0 * LOADS[regime])
    engine = config.engine.model_copy(update={"loop": "plain"})
    config = config.model_copy(update={"executor": SimulatedExecutor(), "engine": engine})
    steps, clock = Steps(), StepModel(prices, UNSEEN, source="by hand")
    simulation = build_simulation(resolve(config), latency=clock, observers=[steps])
    simulation.serve(build_trace(config))
    assert len(steps) == simulation.cluster.engines[0].steps
    return steps


@pytest.mark.parametrize("regime", ["pressure", "hits"])
def test_steps_are_kept_as_they_were(regime: Regime) -> None:
    """Under known prices, what was kept of each step costs what the step took."""
    steps = serve_priced(regime, PRICES)
    log = steps.log("load")
    assert len(steps) == len(log.duration_ns) > 100
    assert (log.features.max(axis=0) > 1).all()
    assert log.duration_ns.tolist() == np.rint(PRICES.engine_ns(*log.features.T)).tolist()


@dataclass
class Rehearsed:
    run: Steps
    rehearsal: Rehearsal
    executors: list[KernelExecutor]
    """The run's, then those of the traces of the rehearsal."""


def rehearse(regime: Regime, *, requests: int) -> Rehearsed:
    config = Bench(kernels=TINY, requests=requests).config(regime, rate=None)
    executors = []
    make = load_kernels(config)

    def keep(kv: KVCache, replica: int) -> KernelExecutor:
        executors.append(make(kv, replica))
        return executors[-1]

    rehearsal = Rehearsal(config, keep)
    run = execute(config, keep, rehearsal)
    return Rehearsed(run.steps, rehearsal, executors)


def test_a_run_and_its_rehearsal_take_turns() -> None:
    both = rehearse("pressure", requests=20)
    (own, *others) = both.executors
    steps = both.rehearsal.steps
    assert len(steps) == len(both.run) // TURN * TURN
    taken_ns = [duration_ns for each in others for duration_ns in each.durations_ns]
    assert steps.log("load").duration_ns.tolist() == taken_ns[: len(steps)]
    assert own.durations_ns == both.run.log("load").duration_ns.tolist()
    pools = [each.runner.pool for each in both.executors]
    assert {pool.blocks for pool in pools} == {97}
    assert len({pool.keys.data_ptr() for pool in pools}) == len(pools) > 1
    assert all(each.runner.model is own.runner.model for each in others)


def test_a_rehearsal_serves_traces_of_other_seeds() -> None:
    bench = Bench(kernels=TINY, requests=2)
    config = bench.config("overload", rate=None)
    rehearsal = Rehearsal(config, load_kernels(config))
    while len(rehearsal.steps) < 300:
        rehearsal.ran()
    features = rehearsal.steps.log("load").features
    prompts = iter(features[features[:, 3] > 0, 0])
    for seed in (1, 2, 3):
        requests = build_trace(replace(bench, seed=seed).config("overload", rate=None))
        assert next(prompts) == min(256, sum(each.prompt_tokens for each in requests))


def test_rows_of_a_rehearsal_share_blocks_as_those_of_the_run_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Bench(kernels=TINY, requests=20).config("hits", rate=None)
    shared = []
    make = load_kernels(config)

    def watch(kv: KVCache, replica: int) -> KernelExecutor:
        executor = make(kv, replica)
        run = executor.runner.run

        def counting(step: Step) -> Ran:
            held = [block for row in step.rows for block in row.blocks]
            shared.append(len(held) - len(set(held)))
            return run(step)

        monkeypatch.setattr(executor.runner, "run", counting)
        return executor

    rehearsal = Rehearsal(config, watch)
    while len(rehearsal.steps) < 40:
        rehearsal.ran()
    assert max(shared) > trials_bench._SHARED_TOKENS // 16


def test_the_gate_by_hand() -> None:
    near = trials.gate_mean([100e6, 102e6], [104e6, 106e6])
    assert near["error_pct"] == pytest.approx(100 * (105 / 101 - 1))
    assert (near["repeat_pct"], near["allowed_pct"]) == (pytest.approx(2.0), 5.0)
    assert (near["real"], near["predicted"]) == ([100.0, 102.0], [104.0, 106.0])
    assert near["passed"]
    assert near["each_error_pct"] == [pytest.approx(4.0), pytest.approx(100 * (106 / 102 - 1))]
    assert near["each_within"]
    assert not trials.gate_mean([100e6, 102e6], [107e6, 107e6])["passed"]
    wide = trials.gate_mean([100e6, 80e6], [90e6, 110e6])
    assert wide["allowed_pct"] == pytest.approx(30.0)
    # Errors that cancel, and are excused by what the runs differ by, are told by each.
    assert wide["passed"]
    assert wide["each_error_pct"] == [pytest.approx(-10.0), pytest.approx(37.5)]
    assert not wide["each_within"]
    assert not trials.gate_mean([100e6, 100e6], [90e6, 104e6])["each_within"]
    # Yellow where the gate alone passes it.
    assert trials_command._colour_each(near) == "+4.0, +3.9 %"
    assert trials_command._colour_each(wide) == "[yellow]-10.0, +37.5 %[/]"
    far = trials.gate_mean([100e6, 100e6], [120e6, 120e6])
    assert trials_command._colour_each(far) == "+20.0, +20.0 %"


def test_what_of_an_error_is_the_clocks() -> None:
    """Steps fitted on themselves have none; if all had taken half as long again, a third."""
    steps = serve_priced("overload", PRICES)
    clocks = fit_clocks(steps, "overload")
    for slowness, total in ((1.0, 0.0), (1.5, -1 / 3)):
        ran = serve_priced("overload", scaled(PRICES, slowness))
        run = Run(frames={}, durations_ns=[], steps=ran)
        told = trials._describe(Side(run=run, clocks=clocks))
        assert told["run_total"] == pytest.approx(total, abs=0.01)
        assert told["steps"] == len(steps)
        assert told["pace"] == pytest.approx([1.0, 1.0], abs=0.02)


def test_a_fit_that_did_not_settle_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = serve_priced("overload", PRICES)
    assert not fit_clocks(steps, "overload").paced.notes
    monkeypatch.setattr("experiments.pace._SETTLED", -1.0)
    monkeypatch.setattr("experiments.pace._ROUNDS", 3)
    told = fit_clocks(steps, "overload").paced.notes
    assert told == {"fits of prices and pace that did not settle": 1}


def scaled(prices: Prices, factor: float) -> Prices:
    rows = ("decode_ns", "context_token_ns", "chunk_ns", "pair_ns")
    return Prices(
        curve=Curve(prices.curve.tokens, tuple(factor * ns for ns in prices.curve.ns)),
        **{name: factor * getattr(prices, name) for name in rows},
    )


LOAD = 15.0


@dataclass
class Pressed:
    trial: Trial
    ran: list[Config]
    """Of the pilot and of the two runs."""
    sides: list[Side]


@pytest.fixture(scope="module")
def pressed() -> Pressed:
    bench, ran, sides = Bench(kernels=TINY, requests=40), list[Config](), list[Side]()

    def keep(config: Config, *more: Any) -> Side:
        ran.append(config)
        sides.append(run_beside(config, *more))
        return sides[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "run_beside", keep)
        # However slow the machine was in the pilot, there is pressure.
        patch.setitem(LOADS, "pressure", LOAD)
        (trial,) = run_trials(bench, ("pressure",))
    return Pressed(trial, ran, sides)


def test_under_memory_pressure(pressed: Pressed) -> None:
    """Whatever the machine does meanwhile: decisions, books and sizes."""
    trial = pressed.trial
    report = trial.report
    assert report["schedule_identical"]
    assert report["first"]["preemptions"]["real"] > 0
    assert all(0 <= report["steps"] - each["steps"] < TURN for each in report["rehearsal"][:1])
    assert [len(each) for each in trial.predicted] == [40, 40]
    assert set(report["gate"]) == set(report["plain_error_pct"]) == {"ttft_ms", "tpot_ms", "e2e_ms"}
    assert json.loads(json.dumps(report)) == report


def test_a_pilot_of_the_very_regime_sets_the_load(pressed: Pressed) -> None:
    bench = Bench(kernels=TINY, requests=40)
    pilot, *runs = pressed.ran
    assert pilot == bench.config("pressure", rate=None)
    at_once_ns = [serve_at_once(pilot, side.clocks.paced) for side in pressed.sides]
    rate = find_rate(bench, "pressure", at_once_ns[0]) * LOAD / LOADS["pressure"]
    for run in runs:
        assert isinstance(run.trace, SyntheticTrace)
        assert isinstance(run.trace.arrivals, PoissonArrivals)
        assert run.trace.arrivals.rate == pytest.approx(rate)
        assert run.engine == pilot.engine
    load = pressed.trial.report["load"]
    assert load["pilot"] == LOAD
    assert load["runs"] == [pytest.approx(LOAD * ns / at_once_ns[0]) for ns in at_once_ns[1:]]


def test_each_run_is_predicted_by_the_paced_clock_of_its_own(pressed: Pressed) -> None:
    ran, sides = pressed.ran[1:], pressed.sides[1:]
    for config, side, predicted in zip(ran, sides, pressed.trial.predicted, strict=True):
        paced, plain = (
            trials.latencies_of(simulate(config, clock))
            for clock in (side.clocks.paced, side.clocks.plain)
        )
        assert predicted.equals(paced)
        assert not predicted.equals(plain)


def clock_of(prices: Prices) -> PacedSteps:
    return PacedSteps(prices, UNSEEN, np.ones(1), source="by hand")


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("regime", REGIMES)
def test_a_load_is_the_time_at_once_over_the_time_of_arrivals(regime: Regime, seed: int) -> None:
    bench = Bench(kernels=TINY, requests=60, seed=seed)
    at_once_ns = serve_at_once(bench.config(regime, rate=None), clock_of(PRICES))
    config = bench.config(regime, rate=find_rate(bench, regime, at_once_ns))
    *_, last = build_trace(config)
    assert at_once_ns / last.arrival_ns == pytest.approx(LOADS[regime], rel=1e-6)


def test_each_load_is_of_the_regimes_own_trace_and_engine() -> None:
    """Contexts are longer behind a system prompt, and batches smaller in a few blocks."""
    bench = Bench(kernels=TINY, requests=100)
    times = {
        regime: serve_at_once(bench.config(regime, rate=None), clock_of(PRICES))
        for regime in REGIMES
    }
    assert times["light"] == times["knee"] == times["overload"]
    assert min(times["hits"], times["pressure"]) > 1.02 * times["knee"]
    config = bench.config("pressure", rate=find_rate(bench, "pressure", times["pressure"]))
    assert simulate(config, clock_of(PRICES))["requests"]["preemptions"].sum() > 0


def test_a_load_is_at_the_average_pace() -> None:
    config = Bench(kernels=TINY, requests=30).config("knee", rate=None)
    clock = PacedSteps(PRICES, UNSEEN, np.full(1000, 3.0), source="by hand")
    assert serve_at_once(config, clock) == serve_at_once(config, clock_of(PRICES))


def test_other_decisions_are_noticed() -> None:
    config = Bench(kernels=TINY, requests=20).config("light", rate=15.0)
    run = execute(config, load_kernels(config))
    assert trials.is_identical(config, run)
    slower = [2 * duration_ns for duration_ns in run.durations_ns]
    assert not trials.is_identical(config, replace(run, durations_ns=slower))
    late = {**run.frames, "steps": run.frames["steps"].assign(end_ns=lambda x: x["end_ns"] + 1)}
    assert not trials.is_identical(config, replace(run, frames=late))


def serve_texts(*, rehearsed: bool) -> list[list[int]]:
    """The ids of all prompts and answers."""
    config = Bench(kernels=TINY, requests=20).config("hits", rate=None)
    make = load_kernels(config)
    texts: list[list[int]] = []
    executors = []

    def keep(kv: KVCache, replica: int) -> KernelExecutor:
        executors.append(make(kv, replica))
        return executors[-1]

    class Keeping(Rehearsal):
        def ran(self, *_: object) -> None:
            if rehearsed:
                super().ran()

        def ended(self, departures: list[Departure], now_ns: int) -> None:
            texts.extend(list(executors[0].texts[each.sequence].ids) for each in departures)

    execute(config, keep, Keeping(config, make))
    return sorted(texts)


def test_a_rehearsal_leaves_the_run_alone() -> None:
    """The same texts come out with and without it."""
    texts = serve_texts(rehearsed=True)
    assert len(texts) == 20
    assert texts == serve_texts(rehearsed=False)


def test_no_step_pays_for_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[bool] = []
    sample = Runner.sample

    def watching(self: Runner, logits: torch.Tensor) -> torch.Tensor:
        collected.append(gc.isenabled())
        return sample(self, logits)

    monkeypatch.setattr(Runner, "sample", watching)
    config = Bench(kernels=TINY, requests=20).config("light", rate=None)
    execute(config, load_kernels(config))
    assert len(collected) > 50
    assert not any(collected)
    assert gc.isenabled()


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
    options = ["--requests", "20", "--regime", "light", "--json", str(kept)]
    result = CliRunner().invoke(calibrate, ["validate", *options])
    assert result.exit_code in (0, 1), result.output
    found = TrialsFile.model_validate_json(kept.read_bytes())
    light = found.trials["light"]
    assert light["regime"] == "light"
    assert light["load"]["pilot"] == 0.3
    assert all(0.01 < load < 10 for load in light["load"]["runs"])
    assert "light:" in result.stdout


# --- a stop, and on


class Machine:
    """Trials that take no time; the one of `stops_at` is stopped by its user."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.stops_at: str | None = None
        patch.setattr(trials, "run_trials", self.run)

    def run(self, bench: Bench, regimes: tuple[Regime, ...], **_: object) -> Iterator[Trial]:
        for regime in regimes:
            if regime == self.stops_at:
                raise KeyboardInterrupt
            self.ran.append(regime)
            yield trial_of(regime, number=len(self.ran))


def trial_of(regime: Regime, *, number: int) -> Trial:
    """`number` is told as its steps."""
    count = {"real": 0, "predicted": 0}
    report: dict[str, Any] = {
        "regime": regime,
        "steps": number,
        "first": {"preemptions": count},
        "hit_tokens": 0,
        "gate": {"ttft_ms": trials.gate_mean([1e6, 1e6], [1e6, 1e6])},
        "load": {"pilot": 0.85, "runs": [0.8, 0.9]},
        "plain_error_pct": {"ttft_ms": 1.0},
        "clock_notes": {"steps beyond the fitted moon": 1234},
        "rehearsal": [{"steps": 1000, "unseen_mape": 0.5, "run_total": 0.1, "pace": [1.0, 1.2]}]
        * 2,
        "passed": True,
        "schedule_identical": True,
    }
    return Trial(regime=regime, real=(), predicted=(), report=report)


def invoke(path: Path, *options: str) -> Result:
    return CliRunner().invoke(calibrate, ["validate", "--json", str(path), *options])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize("what", ["passed", "schedule_identical"])
def test_the_exit_code_asks_for_means_and_decisions(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    made = trial_of

    def fail_one(regime: Regime, *, number: int) -> Trial:
        trial = made(regime, number=number)
        return replace(trial, report={**trial.report, what: regime != "hits"})

    monkeypatch.setattr(sys.modules[__name__], "trial_of", fail_one)
    assert invoke(tmp_path / "trials.json", "--regime", "hits").exit_code == 1
    assert invoke(tmp_path / "others.json", "--regime", "knee").exit_code == 0


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, machine: Machine) -> None:
    path = tmp_path / "trials.json"
    machine.stops_at = "overload"
    stopped = invoke(path)
    assert stopped.exit_code == 130
    assert f"Stopped; {path} keeps the regimes that were finished; the same" in stopped.stderr
    assert list(TrialsFile.model_validate_json(path.read_bytes()).trials) == ["light", "knee"]
    machine.stops_at = None
    ended = invoke(path)
    assert ended.exit_code == 0, ended.output
    assert "steps beyond the fitted moon: 1,234" in " ".join(ended.stdout.split())
    assert "has light, knee of the same options, machine and code: not run again" in in_words(ended)
    assert machine.ran == list(REGIMES)
    assert all(f"{regime}: {at} steps" in ended.stdout for at, regime in enumerate(REGIMES, 1))
    whole = path.read_bytes()
    again = invoke(path, "--regime", "hits")
    assert "has hits of the same" in in_words(again)
    assert "hits: 5 steps" in again.stdout
    assert "light" not in again.stdout
    assert (len(machine.ran), path.read_bytes()) == (5, whole)


def test_a_run_that_was_stopped_in_its_first_regime_begins_again(
    tmp_path: Path, machine: Machine
) -> None:
    path = tmp_path / "trials.json"
    machine.stops_at = "light"
    assert invoke(path).exit_code == 130
    machine.stops_at = None
    assert "not run again" not in in_words(invoke(path, "--regime", "light"))
    assert machine.ran == ["light"]


def test_without_a_file_nothing_is_kept(machine: Machine) -> None:
    machine.stops_at = "knee"
    result = CliRunner().invoke(calibrate, ["validate"])
    assert (result.exit_code, machine.ran) == (130, ["light"])
    assert result.stderr == "Stopped; nothing was kept (--json FILE keeps what is finished).\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--requests", "21"], "holds trials of requests 150; allowed: 21, or another file"),
        (["--seed", "1"], "of seed 0; allowed: 1,"),
        (["--dtype", "bfloat16"], "of dtype float32; allowed: bfloat16,"),
        (["--kv-cache-dtype", "int8"], "of kv_cache_dtype auto; allowed: int8,"),
        (["--provider", "cpp"], "of provider torch; allowed: cpp,"),
        (["--model", "Llama-3.1-8B"], "of model tiny ("),
    ],
)
def test_trials_of_other_options_are_left_alone(
    tmp_path: Path, machine: Machine, options: list[str], message: str
) -> None:
    path = tmp_path / "trials.json"
    assert invoke(path).exit_code == 0
    before = path.read_bytes()
    other = invoke(path, *options)
    assert other.exit_code == 2
    assert message in other.stderr
    assert path.read_bytes() == before
    assert len(machine.ran) == len(REGIMES)


def test_trials_of_other_code_or_another_machine_are_left_alone(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trials.json"
    assert invoke(path).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr("experiments.trials_file.digest_code", lambda: "f" * 64)
        assert "allowed: ffffffffffff, or another file" in invoke(path).stderr
    with monkeypatch.context() as patch:
        patch.setattr("calibrate.measure.machine._cpu_name", lambda: "Z80")
        assert "allowed: cpu (Z80), or another file" in invoke(path).stderr
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9")
        assert "allowed: 9.9, or another file" in invoke(path).stderr
    assert machine.ran == list(REGIMES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds no trials (the file: Input should be an object)"),
        ("notes of mine", "holds no trials (the file: Invalid JSON"),
        ('{"format": "pagesim trials 2"}', "same: missing"),
        (
            '{"format": "pagesim trials 1", "same": {}, "requests_per_s": 1.0}',
            "holds pagesim trials 1, of another version of pagesim; allowed: pagesim trials 2,",
        ),
        (
            '{"same": {}, "trials": {"storm": {}}}',
            "trials.storm.[key]: Input should be 'light', 'knee'",
        ),
    ],
)
def test_a_file_of_something_else_is_left_alone(
    tmp_path: Path, machine: Machine, text: str, message: str
) -> None:
    path = tmp_path / "trials.json"
    path.write_text(text)
    result = invoke(path)
    assert (result.exit_code, machine.ran) == (2, [])
    assert message in result.stderr
    assert path.read_text() == text


def in_words(result: Result) -> str:
    """What was said beside the table, on one line."""
    return " ".join(result.stderr.split())
