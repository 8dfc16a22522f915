"""`pagesim validate --events`: instants that were recorded, and what happens at each."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from experiments.build import build_simulation
from experiments.case import Case, read_case
from experiments.case_clock import Choice, Setting, set_up
from experiments.case_events import Event, gather_instants, read_events
from experiments.cli import main as pagesim
from experiments.event_replay import Paced, replay_events
from experiments.step_count import Tie, count_steps
from sim.request import Request
from tests.cases import write_csv, write_kernel_case
from tests.shared import SHARED, needs_shared

MS = 1_000_000
ROWS: list[list[object]] = [
    ["0.0000", "schedule", "0"],
    ["0.0290", "step_end_first", "0"],
    ["0.0291", "schedule", "1 2"],
    ["0.0490", "step_end_last", "0"],
    ["0.0490", "step_end_first", "1 2"],
    ["0.0700", "something", "else"],
    ["0.0740", "step_end_last", "1 2"],
]


def write_events(folder: Path, rows: list[list[object]]) -> Path:
    write_csv(folder / "truth_events.csv", "t_s,event,request_ids", *rows)
    return folder / "truth_events.csv"


def test_events_closer_than_a_step_are_of_one_instant(tmp_path: Path) -> None:
    events = read_events(write_events(tmp_path, ROWS), "012", shift_ns=-MS)
    instants = gather_instants(events)
    assert [instant.at_ns for instant in instants] == [MS, 30_100_000, 50 * MS, 75 * MS]
    assert [sorted(instant.running) for instant in instants] == [["0"], [*"012"], [*"12"], []]
    assert instants[2].who["step_end_first"] == {"1", "2"}
    assert [len(instant.events) for instant in instants] == [1, 2, 2, 1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("t_s,", "when,", "truth_events.csv:2: cannot be used (KeyError"),
        ("0.0290", "soon", "truth_events.csv:3: cannot be used (ValueError"),
        ("0.0290", "inf", "truth_events.csv:3: cannot be used (OverflowError"),
        ("schedule,1 2", "schedule,1 9", "truth_events.csv:4: found request 9 which is not"),
        ("schedule,1 2", "schedule,1 0", "truth_events.csv:4: found request 0 a second time"),
        ("schedule,1 2", "schedule,1", "found no schedule of request 2; allowed: all three"),
    ],
)
def test_events_that_cannot_be_used(tmp_path: Path, old: str, new: str, message: str) -> None:
    case = write_kernel_case(tmp_path / "case")
    path = write_events(case, ROWS)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    result = CliRunner().invoke(pagesim, ["validate", str(case), "--latency", "roofline"])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


def test_a_case_without_events(tmp_path: Path) -> None:
    case = write_kernel_case(tmp_path / "case")
    words = ["validate", str(case), "--latency", "roofline", "--events"]
    result = CliRunner().invoke(pagesim, words)
    assert result.exit_code == 2
    assert "--events: found no truth_events.csv" in " ".join(result.stderr.split())


def test_ties_correct_the_clock_where_it_is_least_sure() -> None:
    # 2, 10 and 1 steps in truth. An answer spans the first two gaps; the long one is doubtful.
    count = count_steps(4, [Tie(0, 2, 12)], [2.1, 11.8, 1.0], [0.3, 1.4, 0.1])
    assert count.ended.tolist() == [0, 2, 12, 13]
    assert (count.guessed, count.contradicted, count.broken) == (2, 1, 0)
    idle = count_steps(3, [Tie(0, 2, 4), Tie(0, 2, 5)], [4.0, 0.0], [0.1, 0.0])
    assert idle.ended.tolist() == [0, 4, 4]
    assert idle.broken == 1


@given(
    gaps=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    spans=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20),
)
def test_right_guesses_and_ties_give_the_truth(
    gaps: list[int], spans: list[tuple[int, int]]
) -> None:
    ended = [0, *np.cumsum(gaps).tolist()]
    inside = [(min(a, b), max(a, b)) for a, b in spans if max(a, b) < len(ended)]
    ties = [Tie(first, last, ended[last] - ended[first]) for first, last in inside]
    guesses = [gap + 0.4 for gap in gaps]
    count = count_steps(len(ended), ties, guesses, [0.0] * len(gaps))
    assert count.ended.tolist() == ended
    assert (count.contradicted, count.broken) == (0, 0)


def record(folder: Path) -> tuple[Case, Setting]:
    """A case whose engine was the simulated one, under a roofline, two batches in flight."""
    folder = write_kernel_case(folder, gpu="H200", async_scheduling=True, max_num_seqs=8)
    case = read_case(folder)
    requests = [
        Request(str(n), n * 23 * MS, ((n, 0, 300 + 97 * (n % 7)),), 20 + n % 9, 100 + n, 20 + n % 9)
        for n in range(40)
    ]
    setting = set_up(case, Choice(kind="roofline"))
    free = Paced(setting.build(None), np.zeros(0, dtype=np.int64))
    build_simulation(setting.deployment, latency=free, observers=[free]).serve(requests)
    at = {(one.kind, one.id): one.at_ns for one in free.seen}
    rows: dict[tuple[int, str], set[str]] = defaultdict(set)
    for (kind, name), at_ns in at.items():
        rows[at_ns, kind].add(name)
    events = [Event(at_ns, kind, frozenset(ids)) for (at_ns, kind), ids in sorted(rows.items())]  # type: ignore[arg-type]
    first_ns = np.array([at["step_end_first", each.id] for each in requests], dtype=float)
    queued_ns = np.array([at["schedule", each.id] for each in requests])
    arrival_ns = np.array([each.arrival_ns for each in requests])
    real = pd.DataFrame(
        {
            "arrival_ns": arrival_ns,
            "ttft": first_ns - arrival_ns,
            "ttft_from_queued": first_ns - queued_ns,
            "prompt_tokens": [each.prompt_tokens for each in requests],
            "output_tokens": [each.output_tokens for each in requests],
        },
        index=pd.Index([each.id for each in requests], name="id"),
    )
    return replace(case, requests=tuple(requests), real=real, events=tuple(events)), setting


def test_an_engine_like_ours_is_met_under_another_clock(tmp_path: Path) -> None:
    case, setting = record(tmp_path / "made")
    slower = set_up(case, Choice(kind="roofline", host_ns=300_000)).build(None)
    told = replay_events(case, setting.deployment, slower)
    assert told["same"] == told["events"] == len(case.events)
    assert told["different"] == []
    assert told["requests_contradicted"] == 0
    assert told["settled"]
    # The steps are the recorded ones: 0.3 ms shorter than this clock says.
    for row in told["step_times"]:
        assert 0 < row["priced_ms"] - row["real_ms"] < 0.6
    choice = Choice(kind="roofline", overrides=("engine.async_scheduling=false",))
    other = set_up(case, choice)
    told = replay_events(case, other.deployment, other.build(None))
    assert told["same"] < 0.8 * told["events"]
    assert told["different"][0].keys() == {
        *("at_s", "event", "recorded", "simulated", "late_steps", "running_differs"),
    }


@needs_shared
def test_events_of_a_real_engine(tmp_path: Path) -> None:
    case = SHARED / "truth" / "rtxpro6000-llama31-8b"
    words = ["validate", str(case), "--events", "--json", str(tmp_path / "r.json")]
    result = CliRunner().invoke(pagesim, words)
    assert result.exit_code == 0, result.output
    (told,) = json.loads((tmp_path / "r.json").read_text())
    events = told["events"]
    assert events["events"] == 767
    assert events["same"] >= 0.99 * 767
    assert events["gaps_contradicted"] < 10
    assert "767 events (" in " ".join(result.output.split())
