"""`pagesim calibrate from-steps`: from a log to a model, and from the model to a run."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from calibrate.table_schema import TableError
from experiments.case_clock import Choice
from experiments.cli import main as pagesim
from experiments.errors import ConfigError
from experiments.step_file import read_step_model
from experiments.validation import Asked, judge_clock, validate_case
from sim.contract import check_latency_model
from tests.shared import SHARED, needs_shared
from tests.step_logs import SAMPLE
from tests.test_run import CHAT, run, run_quietly, undrawn  # noqa: F401

TRUTH = SHARED / "truth" / "vllm-cpu"


def calibrate(log: Path, *options: object) -> Result:
    words = ["calibrate", "from-steps", str(log), *map(str, options)]
    return CliRunner().invoke(pagesim, words)


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the sample's steps."""
    path = tmp_path_factory.mktemp("fitted") / "model.json"
    result = calibrate(SAMPLE / "steps.csv", "--out", path)
    assert result.exit_code == 0, result.output
    return path


def config_of(folder: Path, model: Path, **parts: Any) -> Path:
    path = folder / "mine.yaml"
    latency = {"kind": "steps", "path": str(model)}
    path.write_text(yaml.safe_dump(CHAT | {"latency": latency} | parts), encoding="utf-8")
    return path


def changed(model: Path, folder: Path, **values: object) -> Path:
    path = folder / "changed.json"
    path.write_text(json.dumps(json.loads(model.read_text()) | values), encoding="utf-8")
    return path


def test_the_report() -> None:
    result = calibrate(SAMPLE / "steps.csv", "--replay", SAMPLE)
    assert result.exit_code == 0, result.output
    for said in (
        "steps.csv  464 steps, 7.13 s in all",
        "430 of decodes only, 5 of prompt chunks only, 29 of both",
        "decode context",
        "held out at random",
        "TTFT",
        "Not kept; --out model.json writes the model.",
    ):
        assert said in result.output


def test_the_file_says_where_it_comes_from(fitted: Path) -> None:
    model = read_step_model(fitted)
    assert model.log.steps == 464
    assert model.log.columns["reqs"] == "reqs"
    steps = (SAMPLE / "steps.csv").read_bytes()
    assert model.log.sha256 == hashlib.sha256(steps).hexdigest()
    assert model.host_ns == 57_000
    assert model.errors.held_out_at_random.steps == 139
    assert 0.03 < model.errors.held_out_at_random.mean < 0.08
    clock = model.build()
    check_latency_model(clock)
    assert clock.source.startswith(
        f"fitted on 464 steps of steps.csv (sha256 {model.log.sha256[:8]})"
    )
    assert not clock.modelled


def test_the_same_log_gives_the_same_file(fitted: Path, tmp_path: Path) -> None:
    assert calibrate(SAMPLE / "steps.csv", "--out", tmp_path / "m.json").exit_code == 0
    assert (tmp_path / "m.json").read_bytes() == fitted.read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_a_run_takes_its_times_from_the_model(fitted: Path, tmp_path: Path) -> None:
    result = run(config_of(tmp_path, fitted), "--verify")
    assert result.exit_code == 0, result.output
    assert "MODELLED" not in result.output
    assert "latency: fitted on 464 steps of steps.csv" in " ".join(result.output.split())
    assert "Note: latency: steps beyond the fitted decode context (up to 2,823): " in result.output


@pytest.mark.usefixtures("undrawn")
def test_another_model_is_another_run(fitted: Path, tmp_path: Path) -> None:
    here = shutil.copy(fitted, tmp_path / "model.json")
    first = run_quietly(config_of(tmp_path, here))
    assert run_quietly(config_of(tmp_path, here)) == first
    changed(fitted, tmp_path, host_ns=10**6).replace(here)
    second = run_quietly(config_of(tmp_path, here))
    assert second != first
    walls = [
        json.loads((path / "summary.json").read_text())["latency_ms"]["tpot"]["mean"]
        for path in (first, second)
    ]
    assert 0.5 < walls[1] - walls[0] < 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "a photograph"}, r"latency.path: .*changed.json: found {.*; allowed: a file"),
        ({"host_ns": -1}, "changed.json: host_ns: found -1; allowed: greater than or equal to 0"),
        ({"prices": None}, "changed.json: prices: found None; allowed: "),
        ({"versions": 3}, "changed.json: versions: found 3"),
        ({"colour": 3}, "changed.json: colour: unknown key"),
    ],
)
def test_files_that_are_no_step_model(
    fitted: Path, tmp_path: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_step_model(changed(fitted, tmp_path, **values))


@pytest.mark.parametrize(
    ("ns", "message"),
    [
        (-1.0, r"changed.json: prices: found the times \(-1.0"),
        (float("nan"), r"changed.json: prices.curve.ns.0: found nan; allowed: a finite number"),
        ("soon", r"changed.json: prices.curve.ns.0: found 'soon'"),
    ],
)
def test_prices_that_cannot_be(fitted: Path, tmp_path: Path, ns: object, message: str) -> None:
    prices = json.loads(fitted.read_text())["prices"]
    prices["curve"]["ns"][0] = ns
    with pytest.raises(ConfigError, match=message):
        read_step_model(changed(fitted, tmp_path, prices=prices))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "model.json: no such file; allowed: a file that `pagesim calibrate from-steps"),
        (b"{", "model.json: found no JSON"),
        (b"\xff\xfe", "model.json: found no JSON"),
        (b"[1]", r"model.json: found \[1\]; allowed"),
        (b"[" * 100_000, "model.json: found no JSON"),
    ],
)
def test_files_that_are_not_even_json(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "model.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_step_model(path)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b\n", (), "steps.csv:1: found the columns a, b; allowed: either duration_ns"),
        ("duration_s,tokens\n1,2\n", (), "steps.csv: found 1 steps; allowed: 50 or more"),
        ("", ("--columns", "tokens"), "--columns: found 'tokens'; allowed: OURS=THEIRS"),
        ("", ("--columns", "tokens=a,tokens=b"), "--columns: found 'tokens=b'; allowed"),
    ],
)
def test_mistakes_write_nothing(
    tmp_path: Path, text: str, options: tuple[str, ...], message: str
) -> None:
    log = tmp_path / "steps.csv"
    log.write_text(text, encoding="utf-8")
    figure = tmp_path / "figure.png"
    result = calibrate(log, "--out", tmp_path / "m.json", "--figure", figure, *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == [log]


def test_a_missing_log(tmp_path: Path) -> None:
    result = calibrate(tmp_path / "none.csv")
    assert result.exit_code == 2
    assert "none.csv: found no such file" in result.stderr


def test_a_figure_is_drawn(tmp_path: Path) -> None:
    result = calibrate(SAMPLE / "steps.csv", "--figure", tmp_path / "steps.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["steps.png"]


def test_a_log_with_sums_and_other_names(tmp_path: Path) -> None:
    rows = [f"{8 + n + n % 3},{n},{n}" for n in range(1, 41)] * 3
    log = tmp_path / "mine.csv"
    log.write_text("\n".join(["took,batch,running", *rows]), encoding="utf-8")
    named = "duration_ms=took,tokens=batch,decodes=running"
    result = calibrate(log, "--columns", named, "--skip", 2)
    assert result.exit_code == 0, result.output
    assert "! first steps skipped: 2" in result.output
    assert "! not in the log, and so without a price: decode_context, chunks, area" in result.output
    assert "! no time between steps is known" in result.output


def test_a_recorded_run_is_predicted_from_its_own_steps(fitted: Path) -> None:
    told = judge_clock(SAMPLE, read_step_model(fitted).build())["metrics"]
    assert told["ttft_ms"]["mean"]["real"] == pytest.approx(140.6, abs=0.1)
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        for name in ("mean", "p50", "p99"):
            assert told[metric][name]["error_pct"] == pytest.approx(0, abs=9), (metric, name)


def test_a_run_that_lacks_a_column_is_refused(fitted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLE, tmp_path / "run"))
    path = folder / "requests.csv"
    path.write_text(path.read_text().replace("ttft_s", "gone"), encoding="utf-8")
    with pytest.raises(TableError, match=r"requests.csv: found no column ttft_s"):
        judge_clock(folder, read_step_model(fitted).build())


@needs_shared
def test_a_file_predicts_as_the_fit_it_was_written_from(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    assert calibrate(TRUTH / "q-m70" / "steps.csv", "--out", path).exit_code == 0
    told = judge_clock(TRUTH / "q-over", read_step_model(path).build())
    choice = Choice(steps_of=TRUTH / "q-m70")
    same = validate_case(TRUTH / "q-over", choice, Asked()).report
    assert told["metrics"] == same["metrics"]
