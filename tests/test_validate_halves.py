"""What is judged on the second half of a case is compared there with others, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments.cli import main as pagesim
from experiments.fidelity import STATISTICS
from tests.cases import TRUTH, write_csv, write_kernel_case

COUNT = 260
FACTOR = 1.1


def write_rows(path: Path, *, later: float) -> None:
    """Requests a second apart, whose times are a factor longer in the second half; the last one
    stands in the first row."""
    rows: list[list[Any]] = []
    for number in range(COUNT):
        factor = later if number >= COUNT // 2 else 1.0
        ttft, tpot = factor * (40 + number % 17), factor * (12 + number % 5)
        times = [ttft, ttft - 1, tpot, ttft + 3 * tpot]
        rows.append([number, 20, 4, number, number, number + 1, *times])
    write_csv(path, TRUTH, rows[-1], *rows[:-1])


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_kernel_case(tmp_path_factory.mktemp("halves") / "tiny", workload=None)
    write_rows(folder / "truth_requests.csv", later=1)
    write_rows(folder / "theirs_sim_requests.csv", later=FACTOR)
    return folder


def validate(case: Path, *words: str) -> str:
    done = CliRunner().invoke(pagesim, ["validate", str(case), "--latency", "roofline", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_another_simulator_is_judged_on_the_half_that_judges_a_fit(
    case: Path, tmp_path: Path
) -> None:
    said = validate(case, "--fit-host", "--json", str(tmp_path / "r.json"))
    report = json.loads((tmp_path / "r.json").read_text())[0]
    theirs = report["others"]["LLMServingSim"]
    half = theirs["second_half"]
    assert half["metrics"]["ttft_ms"]["requests"] == COUNT // 2
    for name in STATISTICS:
        cell = half["metrics"]["ttft_ms"][name]
        found = (cell["error_pct"], cell["low_pct"], cell["high_pct"])
        assert found == pytest.approx((10, 10, 10))
    assert theirs["metrics"]["ttft_ms"]["mean"]["error_pct"] == pytest.approx(5, abs=0.1)
    judged = said[said.index("The second half judges it") :]
    row = next(line for line in judged.splitlines() if line.startswith("  LLMServingSim"))
    assert row.split()[1:7] == ["+10.0"] * 6


def test_nobody_is_halved_where_nothing_is_fitted(case: Path, tmp_path: Path) -> None:
    said = validate(case, "--json", str(tmp_path / "r.json"))
    report = json.loads((tmp_path / "r.json").read_text())[0]
    assert "second_half" not in report["others"]["LLMServingSim"]
    low, high = (
        next(line.split() for line in said.splitlines() if line.lstrip().startswith(bound))
        for bound in ("95 %: from", "to")
    )
    cell = report["metrics"]["ttft_ms"]["mean"]
    assert float(low[3]) == round(cell["low_pct"], 1)
    assert float(high[1]) == round(cell["high_pct"], 1)


def test_markdown_has_both_and_their_bounds(case: Path) -> None:
    errors, bounds = validate(case, "--fit-host", "--markdown").split("\n\n")
    told = " | ".join(["+10.0"] * 6)
    row = f"| tiny | LLMServingSim, second half | TTFT | {told} |"
    assert any(line.startswith(row) for line in errors.splitlines())
    assert "| tiny | LLMServingSim, all | E2E | +5.0 |" in errors
    assert bounds.startswith("| case | times from | off, 95 % | mean |")
    told = " | ".join(["+10.0 to +10.0"] * 6)
    assert f"| tiny | LLMServingSim, second half | TTFT | {told} |" in bounds.splitlines()
