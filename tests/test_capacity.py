"""The highest rate within an SLO: known by hand, bracketed, told with its doubts, or refused."""

from __future__ import annotations

import json
import re
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import experiments
import experiments.capacity_figure
from experiments.bracket import counts, rates, search
from experiments.build_trace import build_trace
from experiments.capacity import LEAST_WITHIN, read_share
from experiments.capacity_figure import draw_capacity
from experiments.capacity_screen import say_rate
from experiments.cli import main as pagesim
from experiments.config import Config, parse_config
from experiments.errors import ResultError
from experiments.simulate import Outcome, simulate
from experiments.slo import Backlog, bound_share, count_backlog
from experiments.words import say_whole

STEP_MS = 10
ONE_SEAT: dict[str, Any] = {
    # One request at a time, each a step of 10 ms: 100 a second, to the nanosecond.
    "engine": {
        "max_num_seqs": 1,
        "max_num_batched_tokens": 64,
        "max_model_len": 64,
        "num_gpu_blocks_override": 100,
        "enable_prefix_caching": False,
    },
    "latency": {
        "kind": "linear",
        "base_ns": STEP_MS * 1_000_000,
        "per_token_ns": 0,
        "per_context_token_ns": 0,
    },
    "trace": {
        "kind": "synthetic",
        "requests": 200,
        "arrivals": {"kind": "constant", "rate": 60},
        "lengths": {
            "prompt": {"kind": "constant", "tokens": 16},
            "output": {"kind": "constant", "tokens": 1},
        },
    },
    "slo": {"ttft_ms": 15},
}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are slow."""
    monkeypatch.setattr("experiments.capacity_figure.draw_capacity", lambda *_: None)
    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])


def write(folder: Path, **parts: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(ONE_SEAT | parts, sort_keys=False), encoding="utf-8")
    return path


def run(folder: Path, *options: str, **parts: Any) -> Result:
    words = ["capacity", str(write(folder, **parts)), "--out", str(folder / "results")]
    return CliRunner().invoke(pagesim, [*words, *options])


class Found(NamedTuple):
    content: dict[str, Any]
    """What --json wrote."""
    said: str
    """The screen, with single blanks, whatever its width."""
    lines: list[str]
    """What was told as the search went on."""


def find(folder: Path, *options: str, exit_code: int = 0, **parts: Any) -> Found:
    file = folder / "points.json"
    done = run(folder, "--json", str(file), *options, **parts)
    assert done.exit_code == exit_code, done.output
    said = " ".join(done.stdout.split())
    return Found(json.loads(file.read_text()), said, done.stderr.splitlines())


def traffic(**more: Any) -> dict[str, Any]:
    return {"trace": ONE_SEAT["trace"] | more}


# The search


@given(
    st.floats(1e-3, 1e3),
    st.floats(1e-2, 1e2),
    st.sampled_from([0.001, 0.03, 0.5]),
)
def test_a_bracket_closes_around_the_edge(edge: float, start: float, within: float) -> None:
    asked: list[float] = []

    def keeps(at: float) -> bool:
        asked.append(at)
        return at <= edge

    kept, failed = search(keeps, start, rates(start, within=within, most=2.0**20))
    assert kept is not None
    assert failed is not None
    assert kept <= edge < failed <= kept * (1 + within)
    assert len(set(asked)) == len(asked)


@given(st.integers(1, 500), st.integers(1, 500))
def test_the_fewest_are_found(fewest: int, start: int) -> None:
    kept, failed = search(lambda at: at >= fewest, start, counts(most=500))
    assert kept == fewest
    assert failed == (fewest - 1 or None)


@given(st.integers(0, 2**32), st.floats(0.1, 10))
def test_what_is_claimed_was_seen_however_it_goes_to_and_fro(seed: int, start: float) -> None:
    generator = np.random.default_rng(seed)
    seen: dict[float, bool] = {}

    def keeps(at: float) -> bool:
        seen[at] = bool(generator.random() < 0.5)
        return seen[at]

    kept, failed = search(keeps, start, rates(start, within=0.03, most=2.0**5))
    assert kept == max((at for at, good in seen.items() if good), default=None)
    assert failed == min((at for at, good in seen.items() if not good), default=None)


def test_nothing_found_is_none_and_the_limits_are_kept() -> None:
    asked: list[float] = []
    ladder = rates(1.0, within=0.03, most=4.0)
    assert search(lambda at: bool(asked.append(at)), 1.0, ladder) == (None, 0.25)
    assert asked == [1.0, 0.5, 0.25]
    assert search(lambda at: True, 1.0, ladder) == (4.0, None)
    assert search(lambda at: False, 3, counts(most=10)) == (None, 10)
    assert search(lambda at: True, 3, counts(most=10)) == (1, None)


def test_a_share_is_the_one_that_is_written() -> None:
    assert read_share("99.9%", option="--share") == 1998 / 2000
    assert read_share("0.99", option="--share") == read_share("99%", option="--share") == 198 / 200


@given(st.floats(1e-3, 1e6), st.floats(LEAST_WITHIN, 1))
def test_what_keeps_does_not_read_like_what_fails(edge: float, within: float) -> None:
    kept, failed = search(lambda at: at <= edge, edge, rates(edge, within=within, most=2.0))
    assert kept is not None
    assert failed is not None
    assert say_rate(kept) != say_rate(failed)


# What keeps


def requests(arrivals: list[int], finishes: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"arrival_ns": arrivals, "finish_ns": finishes}, dtype="int64")


NOBODY = requests([], [])


def test_a_backlog_by_hand() -> None:
    """Arrivals at 0, 10, ... 80: quarters of 20. In the second one, 20 to 40, those of 20, 30 and
    40 are there for 20, 10 and 0 ns; nobody is left who came before. From 60 on nobody leaves."""
    arrivals = list(range(0, 90, 10))
    finishes = [5, 15, *[1000] * 7]
    backlog = count_backlog(requests(arrivals, finishes), NOBODY)
    assert backlog.before == pytest.approx((20 + 10) / 20)
    # Five from 60 (20, 30, 40, 50, 60), six from 70 on.
    assert backlog.after == pytest.approx(5.5)
    # From 30 to before 70.
    assert backlog.arrived == 4
    # The two of the first eighth stay 5: nobody else would be there so long.
    assert backlog.filling == 0
    assert backlog.unseen == pytest.approx(2 * sqrt(7) / 4)
    assert not backlog.grows(0.03)
    assert Backlog(10, 30, 100).grows(0.03)
    assert Backlog(0, 31, 1000).grows(0.5)
    assert not Backlog(0, 29, 1000).grows(0.5)
    assert Backlog(0, 29, 1000).grows(0.01)
    assert not Backlog(10, 30, 100, filling=10).grows(0.03)
    assert not Backlog(100, 120, 100).grows(0.03)
    # Where nobody arrives in between, chance is not less.
    assert not Backlog(0, 0.5, 0).grows(0.03)
    assert Backlog(0, 5, 0).grows(0.03)


def test_a_run_that_fills_up_is_no_overload() -> None:
    """10,000 requests within a second, each answered after 400 ms: over the second quarter, from
    250 ms on, the number there goes from 2,500 to 4,000, and stays."""
    arrivals = np.linspace(0, 10**9, 10_001).astype(np.int64)
    backlog = count_backlog(requests([*arrivals], [*(arrivals + 4 * 10**8)]), NOBODY)
    before = (150 * (2500 + 4000) / 2 + 100 * 4000) / 250
    assert backlog.before == pytest.approx(before, abs=1)
    assert backlog.after == pytest.approx(4000, abs=1)
    assert backlog.filling == pytest.approx(4000 - before, abs=0.1)
    assert not backlog.grows(0.01)
    assert backlog._replace(filling=0).grows(0.01)
    # Who stays longer than half of the time may as well stay for ever.
    slow = count_backlog(requests([*arrivals], [*(arrivals + 6 * 10**8)]), NOBODY)
    assert slow.filling == 0
    assert slow.grows(0.03)


def test_a_refused_request_is_part_of_the_time_and_not_of_the_backlog() -> None:
    arrivals, finishes = list(range(0, 90, 10)), [at + 5 for at in range(0, 90, 10)]
    alone = count_backlog(requests(arrivals, finishes), NOBODY)
    assert alone.before == alone.after == pytest.approx(0.5)
    refused = pd.DataFrame({"arrival_ns": [160]})
    assert count_backlog(requests(arrivals, finishes), refused).after == 0
    assert count_backlog(NOBODY, refused) == Backlog(0, 0, 0)


def test_the_interval_is_wilsons_where_requests_are_independent() -> None:
    """Of 100, 90 good ones: 0.8256 to 0.9448 (any table of Wilson's interval)."""
    good = np.ones(100, dtype=bool)
    good[:10] = False
    low, high = bound_share(good)
    assert (low, high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))
    low, high = bound_share(np.ones(100, dtype=bool))
    assert (low, high) == (pytest.approx(100 / (100 + 1.96**2), abs=1e-4), 1.0)


def test_misses_in_a_row_widen_the_interval() -> None:
    """32 bad ones of 640: in one block of 32, blocks are all good or all bad, as 20 requests."""
    together = np.ones(640, dtype=bool)
    together[320:352] = False
    apart = np.ones(640, dtype=bool)
    apart[::20] = False
    spell = together.reshape(20, 32).mean(axis=1).var(ddof=1) * 32 / (0.05 * 0.95)
    assert spell > 30
    z, n = 1.959964, 640 / spell
    low = (0.95 + z**2 / (2 * n) - z * sqrt(0.95 * 0.05 / n + (z / (2 * n)) ** 2)) / (1 + z**2 / n)
    assert bound_share(together)[0] == pytest.approx(low)
    assert low < bound_share(apart)[0] - 0.1


def test_a_share_is_never_said_to_be_whole_where_it_is_not() -> None:
    assert [say_whole(share) for share in (1, 1 - 1e-9, 0.9996, 0.99999, 0.991, 0)] == [
        *("100.0 %", "> 99.9999 %", "99.96 %", "99.999 %", "99.1 %", "0.0 %")
    ]
    rates_said = ["12.37", "0.05432", "12,370", "1,000"]
    assert [say_rate(rate) for rate in (12.3712, 0.054321, 12370.4, 999.9999)] == rates_said


# Known capacities


def test_the_capacity_of_one_seat_is_where_its_queue_passes_the_limit(tmp_path: Path) -> None:
    """Request k waits k (10 ms - 1/rate) for those before it, and may wait 5 ms. Two of 200 may
    be late, so it is request 197 that decides: 1/rate = 10 ms - 5 ms / 197, 100.254 a second."""
    edge = 1e3 / (STEP_MS - 5 / 197)
    content, said, lines = find(tmp_path)
    kept, failed = content["kept"]["requests_per_s"], content["failed"]["requests_per_s"]
    assert kept <= edge < failed <= kept * 1.03
    assert content["trace_requests_per_s"] == pytest.approx(60)
    assert content["goal"] == {"share": 0.99, "within": 0.03, "slo": {"ttft_ms": 15}}
    points = content["points"]
    loads = [point["requests_per_s"] for point in points]
    assert loads == sorted(loads)
    assert [point["keeps"] for point in points] == [load < edge for load in loads]
    answer = f"Keeps TTFT <= 15 ms for 99 % of the requests up to {kept:.4g} requests/s; at"
    assert f"{answer} {failed:.4g} it fails: " in said
    assert re.search(r"miss TTFT <= 15 ms \(\d+ % of them by (waiting|queueing) for", said)
    assert "MODELLED" in said
    assert lines[0] == "60 requests/s: 100.0 % within the SLO, TTFT P99 10 ms, TPOT P99 -: keeps"
    assert len(lines) == len(points)
    folder = tmp_path / "results" / content["capacity"]["id"]
    assert json.loads((folder / "capacity.json").read_text()) == content
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ResultError, match=r"one of those that its capacity\.json names"):
        experiments.load(folder)


def test_an_overload_shows_though_every_answer_keeps_its_limit(tmp_path: Path) -> None:
    """Two steps a request, 50 a second, and TPOT is a step however long the queue. Of those who
    arrive x = 1 - 50/rate are left over: 150 x and 350 x of 400 in the means of two quarters. It
    is more than chance where 200 x > 2 sqrt(500 x), from 5 % on: 52.6 a second."""
    lengths = ONE_SEAT["trace"]["lengths"] | {"output": TWO_TOKENS}
    parts = traffic(requests=400, lengths=lengths) | {"slo": {"tpot_ms": 15}}
    content, said, _ = find(tmp_path, "--within", "10%", **parts)
    assert all(point["share"] == 1 for point in content["points"])
    kept, failed = content["kept"]["requests_per_s"], content["failed"]["requests_per_s"]
    assert kept < 52.7
    assert 52.5 < failed <= kept * 1.1
    (edge,) = [p["backlog"] for p in content["points"] if p["requests_per_s"] == failed]
    grown = edge["after"] - edge["before"]
    assert grown / edge["arrived"] == pytest.approx(1 - 50 / failed, rel=0.05)
    assert "it fails: unanswered requests pile up, from " in said


TWO_TOKENS = {"kind": "constant", "tokens": 2}


def test_the_fewest_replicas_by_hand(tmp_path: Path) -> None:
    """Each serves 100 a second, and takes turns: 250 need three."""
    content, said, _ = find(tmp_path, "--replicas", "--rate", "250")
    assert (content["kept"]["replicas"], content["failed"]["replicas"]) == (3, 2)
    assert [point["replicas"] for point in content["points"]] == [4, 3, 2, 1]
    assert all(point["requests_per_s"] == pytest.approx(250) for point in content["points"])
    assert "3 replicas keep TTFT <= 15 ms for 99 % of the requests at 250 requests/s;" in said
    assert "2 replicas fail: 97.0 % of the requests miss TTFT <= 15 ms" in said


def test_fewer_replicas_than_the_config_has(tmp_path: Path) -> None:
    content, said, _ = find(tmp_path, "--replicas", "--set", "cluster.replicas=3")
    assert (content["kept"]["replicas"], content["failed"]) == (1, None)
    assert [point["replicas"] for point in content["points"]] == [3, 1]
    assert "One replica keeps TTFT <= 15 ms for 99 % of the requests at 60 requests/s." in said


def test_replicas_begin_with_those_of_the_config_even_where_some_have_nobody(
    tmp_path: Path,
) -> None:
    some = traffic(requests=4)
    content, _, _ = find(tmp_path, "--replicas", "--set", "cluster.replicas=6", **some)
    assert max(point["replicas"] for point in content["points"]) == 6


def test_squeezed_time_is_a_faster_process() -> None:
    """What the search does to synthetic arrivals is what a config with that rate does."""

    def arrivals(kind: dict[str, Any], transforms: list[Any]) -> list[int]:
        trace = traffic(arrivals=kind)["trace"]
        config = parse_config(ONE_SEAT | {"trace": trace, "transforms": transforms})
        return [request.arrival_ns for request in build_trace(config)]

    for kind in ({"kind": "poisson"}, {"kind": "gamma", "cv": 2}, {"kind": "constant"}):
        squeezed = arrivals(kind | {"rate": 8}, [{"kind": "scale_rate", "factor": 1.25}])
        faster = arrivals(kind | {"rate": 10}, [])
        assert np.abs(np.subtract(squeezed, faster)).max() <= 1


# What a user sees


def test_where_no_rate_keeps_it_the_prefill_is_to_blame(tmp_path: Path) -> None:
    """Even alone, a request takes a step; two points tell that the load is not to blame."""
    content, said, _ = find(tmp_path, slo={"ttft_ms": 9}, exit_code=1)
    assert "No rate keeps TTFT <= 9 ms for 99 % of the requests: even at 30 requests/s" in said
    assert "(100 % of them by the prefill itself)" in said
    assert "Less load did not help." in said
    assert (content["kept"], content["futile"], len(content["points"])) == (None, True, 2)
    content, said, _ = find(tmp_path, "--replicas", slo={"ttft_ms": 9}, exit_code=1)
    assert "No number of replicas keeps" in said
    assert [point["replicas"] for point in content["points"]] == [2, 1]


def test_a_few_requests_much_too_fast_are_no_reason_to_give_up(tmp_path: Path) -> None:
    """One of ten is served in time at 20,000 a second, and one at 10,000, and chance explains a
    backlog of ten; at 106.7 a second the ninth waits for 5 ms."""
    content, _, _ = find(
        tmp_path, "--rate", "20000", "--share", "90%", "--within", "10%", **traffic(requests=10)
    )
    kept, failed = content["kept"]["requests_per_s"], content["failed"]["requests_per_s"]
    assert kept <= 1e3 / (STEP_MS - 5 / 8) < failed <= kept * 1.1


def test_an_overloaded_start_is_searched_downwards(tmp_path: Path) -> None:
    content, _, lines = find(tmp_path, "--rate", "300", "--within", "50%")
    assert lines[0].startswith("300 requests/s: ")
    assert content["kept"]["requests_per_s"] < 100 < content["failed"]["requests_per_s"]


def test_requests_too_few_to_fail_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.capacity_search.MOST_TIMES", 2.0)
    _, said, _ = find(tmp_path, "--rate", "500", **traffic(requests=3), slo={"ttft_ms": 1000})
    assert "up to 1,000 requests/s, the highest rate tried: so few requests" in said
    assert "at 1,000 requests/s 99 % lies within the interval of the share" in said
    assert "of 3 requests 100 % may pile up by chance" in said
    assert "all requests arrive within 2 ms, and an answer takes" in said


def test_a_trace_that_is_over_before_anybody_leaves_tells_nothing(tmp_path: Path) -> None:
    """60 requests within 393 ms, each answered after 400 ms whoever else is there."""
    lengths = ONE_SEAT["trace"]["lengths"] | {"output": {"kind": "constant", "tokens": 40}}
    parts = traffic(requests=60, lengths=lengths) | {"slo": {"tpot_ms": 30}}
    room = {"max_num_seqs": 60, "max_num_batched_tokens": 999, "num_gpu_blocks_override": 999}
    parts["engine"] = ONE_SEAT["engine"] | room
    _, said, _ = find(tmp_path, "--replicas", "--rate", "150", exit_code=1, **parts)
    assert "It cannot be told whether any number of replicas keeps TPOT <= 30 ms for" in said
    assert "too short a trace for a load that lasts" in said


def test_refused_requests_keep_nothing(tmp_path: Path) -> None:
    """Prompts of 63 tokens and more leave no room for an answer of two, at any rate."""
    lengths = {"prompt": {"kind": "uniform", "low": 1, "high": 70}, "output": TWO_TOKENS}
    parts = traffic(lengths=lengths) | {"slo": {"ttft_ms": 1000}}
    content, said, _ = find(tmp_path, "--rate", "10", exit_code=1, **parts)
    assert content["futile"]
    first = content["points"][0]
    assert first["refused"] > 2
    assert first["share"] == 1 - first["refused"] / 200
    assert f"even at 5 requests/s {first['refused'] / 2:.1f} % are refused" in said


def test_points_are_runs_that_are_used_again_and_get_their_figures_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, results = write(tmp_path), tmp_path / "results"
    done = CliRunner().invoke(pagesim, ["run", str(config), "--out", str(results), "--quiet"])
    own = Path(done.stdout.strip())
    content, said, _ = find(tmp_path, "--within", "1")
    assert "1 of 2 runs were made before" in said
    assert own.name in [point["run"] for point in content["points"]]
    other = results / content["failed"]["run"]
    assert experiments.load(other).config["transforms"][0]["kind"] == "scale_rate"
    assert not (other / "figures").exists()
    done = CliRunner().invoke(
        pagesim, ["run", str(other / "config.yaml"), "--out", str(results), "--quiet"]
    )
    assert Path(done.stdout.strip()) == other
    assert (other / "figures").is_dir()
    find(tmp_path, "--within", "1", "--force")
    assert (other / "figures").is_dir()
    monkeypatch.setattr("experiments.simulate.build_simulation", None)
    assert "2 of 2 runs were made before" in find(tmp_path, "--within", "100%").said


def test_a_stop_keeps_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Outcome] = []

    def stop_at_the_second(config: Config, **options: Any) -> Outcome:
        if done:
            raise KeyboardInterrupt
        done.append(simulate(config, **options))
        return done[0]

    monkeypatch.setattr("experiments.capacity_search.simulate", stop_at_the_second)
    stopped = run(tmp_path)
    assert stopped.exit_code == 130
    assert "finished runs are kept" in stopped.stderr
    assert list((tmp_path / "results").iterdir()) == [done[0].result.path]


@pytest.mark.parametrize(
    ("options", "parts", "message"),
    [
        ((), {"slo": {}}, "small.yaml: slo: found no limit; allowed: what a good answer keeps"),
        (("--share", "1.2"), {}, "--share: found '1.2'; allowed: above 0 to 1"),
        (("--share", "x%"), {}, "--share: found 'x%'; allowed: above 0 to 1"),
        (("--share", "nan"), {}, "--share: found 'nan'; allowed: above 0 to 1"),
        (("--within", "0.0001"), {}, "--within: found '0.0001'; allowed: 0.002 to 1, as 0.99"),
        (("--rate", "1e9"), {}, "--rate: found 1e+09; allowed: 0.0614 to 58,594, since the trace"),
        (("--rate", "nan"), {}, "--rate: found nan; allowed: 0.0614 to 58,594"),
        (("--json", "a.txt"), {}, "--json: found a.txt; allowed: a name in .json"),
        (
            (),
            traffic(arrivals={"kind": "at_once"}),
            "small.yaml: trace: found 200 requests that arrive at one instant; allowed: arrivals",
        ),
        (
            (),
            {"latency": {"kind": "replay", "path": "durations.csv"}},
            "small.yaml: latency: found replay, whose steps were recorded at one rate; allowed:",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(
    tmp_path: Path, options: tuple[str, ...], parts: dict[str, Any], message: str
) -> None:
    refused = run(tmp_path, *options, **parts)
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert refused.stdout == ""
    assert not (tmp_path / "results").exists()


def test_sessions_and_variants_are_spoken_of(tmp_path: Path) -> None:
    trace = {"kind": "chat", "requests": 30, "turns_mean": 3, "max_prompt_tokens": 40}
    sizes = {"system_prompts": 0, "first_message_median": 8, "first_message_sigma": 0.1}
    chat = trace | sizes | {"answer_median": 4, "answer_sigma": 0.1, "answer_max_tokens": 8}
    parts = {"trace": chat, "variants": {"a": {"seed": 1}}, "slo": {"ttft_ms": 500}}
    _, said, _ = find(tmp_path, "--within", "100%", **parts)
    assert "30 requests belong to sessions, whose pauses shrink as the rate grows" in said
    assert "the config's variants are left out" in said


def test_the_figure_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.capacity_figure.draw_capacity", draw_capacity)
    for options in (("--within", "100%"), ("--replicas", "--rate", "150")):
        done = run(tmp_path, "--quiet", *options)
        image = Path(done.stdout.strip()) / "figures" / "capacity.png"
        assert image.read_bytes().startswith(b"\x89PNG")


def test_what_nobody_has_gets_no_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of one token have no TPOT."""
    monkeypatch.setattr("experiments.capacity_figure.draw_capacity", draw_capacity)
    paint, drawn = experiments.capacity_figure._draw_latency, list[str]()

    def note(*args: Any) -> None:
        drawn.append(args[-1])
        paint(*args)

    monkeypatch.setattr("experiments.capacity_figure._draw_latency", note)
    lengths = ONE_SEAT["trace"]["lengths"] | {"output": TWO_TOKENS}
    for parts in ({}, traffic(lengths=lengths)):
        assert run(tmp_path, "--within", "100%", **parts).exit_code == 0
    assert drawn == ["ttft", "ttft", "tpot"]
