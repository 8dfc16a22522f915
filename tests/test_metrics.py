"""The numbers of a summary: by hand, and as properties of small worlds."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.roofline import Work
from experiments.kv_use import share_memory
from experiments.limits import judge_limits, share_limits
from experiments.metrics import check, read_latencies, summarize
from experiments.phases import PHASES, share_phases
from sim.latency import Linear
from sim.plan import Limit
from sim.record.memory import Slots
from sim.record.records import COLUMNS
from sim.record.ttft import PARTS
from tests.served import Frames, Server, ask, serve
from tests.worlds import small_world


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_a_summary_of_any_world_is_json_and_its_shares_sum_to_one(seed: int) -> None:
    world = small_world(random.Random(seed))
    frames, context = serve(world.requests, Server.of(world))
    summary = summarize(frames, context)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    parts = summary["ttft"]["parts"].values()
    for share in ("share_of_mean", "share_of_variance"):
        values = [row[share] for row in parts]
        if None not in values:
            assert sum(values) == pytest.approx(1, abs=1e-9)
    for values in (
        summary["limits"]["share_of_busy_time"].values(),
        [row["share_of_busy_time"] for row in summary["phases"]["phases"].values()],
        summary["memory"]["share_of_pool"].values(),
    ):
        if None not in values:
            assert sum(values) == pytest.approx(1)


def steps_with(**columns: list[int]) -> pd.DataFrame:
    """Rows of `steps`, back to back, that last `ns`."""
    ns = pd.Series(columns.pop("ns"))
    rows = {"replica": 0, "steps": 1, "decodes": 0, "decode_context": 0, "chunks": 0,
            "chunk_tokens": 0, "limit": 0} | columns  # fmt: skip
    frame = pd.DataFrame(rows, index=ns.index)
    first_step = frame["steps"].cumsum() - frame["steps"]
    return frame.assign(start_ns=ns.cumsum() - ns, end_ns=ns.cumsum(), first_step=first_step)


def test_limits_share_busy_time() -> None:
    limit = [Limit.SEATS, Limit.BLOCKS, Limit.GATE, Limit.NONE]
    found = share_limits(steps_with(ns=[200, 610, 100, 90], limit=limit), window_ns=1250)
    assert found["share_of_busy_time"] == {
        "none": 0.09,
        "seats": 0.2,
        "tokens": 0.0,
        "blocks": 0.61,
        "gate": 0.1,
    }
    assert found["idle_share"] == pytest.approx(0.2)
    assert judge_limits(found) == (
        "Memory-bound 71 % of the busy time, seat-bound 20 %, nobody left waiting 9 %."
    )


class Counted:
    """Model work whose intensity tells its arguments: FLOP = area, bytes = context."""

    def __init__(self) -> None:
        self.asked: list[dict[str, int]] = []

    def work(self, *, tokens: int, rows: int, area: int, context: int, steps: int = 1) -> Work:
        self.asked.append(
            {"tokens": tokens, "rows": rows, "area": area, "context": context, "steps": steps}
        )
        return Work(flop=area, bytes=context)


def test_phases_and_what_they_compute() -> None:
    """A chunk (4, 3) beside a decode at 9; three steps of two decodes, 10 + 12 + 14."""
    steps = steps_with(
        ns=[40, 60],
        steps=[1, 3],
        chunks=[1, 0],
        chunk_tokens=[3, 0],
        decodes=[1, 2],
        decode_context=[9, 10],
    )
    chunks = pd.DataFrame({"replica": 0, "step": [0], "computed_before": [4], "tokens": [3]})
    work = Counted()
    found = share_phases(steps, chunks, model_work=work, ridge_flop_per_byte=2.0)
    mixed_area = (5 + 6 + 7) + 9
    assert work.asked == [
        {"tokens": 4, "rows": 2, "area": mixed_area, "context": 7 + 9, "steps": 1},
        {"tokens": 6, "rows": 6, "area": 36, "context": 36, "steps": 3},
    ]
    phases = found["phases"]
    assert phases["mixed"]["share_of_busy_time"] == 0.4
    assert phases["mixed"]["intensity_flop_per_byte"] == mixed_area / 16
    assert phases["decode_only"]["times_ridge"] == 0.5
    assert phases["prefill_only"]["intensity_flop_per_byte"] is None
    unknown = share_phases(steps, chunks, model_work=None, ridge_flop_per_byte=None)
    assert unknown["phases"]["mixed"] == {"steps": 1, "share_of_busy_time": 0.4}


def test_memory_of_several_replicas_is_weighted_by_their_time() -> None:
    memory = pd.DataFrame({"used_first_slots": [3, 10], "used_last_slots": [5, 30]})
    slot_ns = [[300, 50, 10, 0, 0, 0, 40, 7], [0, 0, 0, 0, 0, 540, 60, 0]]
    found = share_memory(
        memory, slot_ns=slot_ns, deployment={"num_gpu_blocks": 10, "block_size": 4}
    )
    assert found["pool_slots"] == 40
    assert found["share_of_pool"]["used"] == 0.3
    assert found["share_of_pool"]["free"] == 0.54
    assert found["savings_share"] == 0.007
    assert found["peak_used_share"] == 0.75


@pytest.fixture
def by_hand() -> tuple[Frames, Any]:
    """One request alone, then two at once; steps last 1,000 ns + 10 per token.

    r0 arrives at 0: steps 0-1,100, then two decodes, 1,010 each: tokens at 1,100, 2,110,
    3,120. r1 and r2 arrive at 10,000: one step of 14 tokens, 1,140 ns, then r2's decode.
    """
    latency = Linear(base_ns=1000, per_token_ns=10, per_context_token_ns=0)
    requests = [
        ask(0, prompt=10, output=3),
        ask(1, at_ns=10_000, prompt=4, output=5, max_tokens=1),
        ask(2, at_ns=10_000, prompt=10, output=2),
        ask(3, at_ns=11_000, prompt=200),
        ask(4, at_ns=11_500, prompt=300),
    ]
    return serve(requests, Server(latency=latency, max_model_len=100, front_end_ns=50))


def test_latencies_by_hand(by_hand: tuple[Frames, Any]) -> None:
    frames, _ = by_hand
    latencies = read_latencies(frames["requests"]).set_index(frames["requests"]["id"])
    assert latencies["ttft"].to_dict() == {"r0": 1150, "r1": 1190, "r2": 1190}
    assert latencies["e2e"].to_dict() == {"r0": 3170, "r1": 1190, "r2": 2200}
    assert latencies["tpot"].dropna().to_dict() == {"r0": 1010, "r2": 1010}
    assert (latencies["queue"] == 0).all()


def test_a_summary_by_hand(by_hand: tuple[Frames, Any]) -> None:
    frames, context = by_hand
    context["config"]["slo"] = {"ttft_ms": 0.00118, "tpot_ms": None, "e2e_ms": None}
    context["trace"]["notes"] = {"zero lengths dropped": 2}
    summary = summarize(frames, context)
    counts = summary["counts"]
    reason = "prompt of N tokens leaves no room for an answer within max_model_len 100"
    assert (counts["arrived"], counts["finished"], counts["rejected"]) == (5, 3, 2)
    assert counts["rejected_for"] == {reason: 2}
    assert counts["clipped_answers"] == 1
    assert counts["trace_notes"] == {"zero lengths dropped": 2}
    assert summary["latency_ms"]["itl"]["count"] == 3
    assert summary["latency_ms"]["itl"]["max"] == pytest.approx(0.00101)
    rate = summary["throughput"]
    makespan_s = (10_000 + 1140 + 1010) / 1e9
    assert rate["makespan_s"] == makespan_s
    assert rate["requests_per_s"] == 3 / makespan_s
    assert rate["prompt_tokens_per_s"] == 24 / makespan_s
    assert rate["output_tokens_per_s"] == 6 / makespan_s
    assert rate["goodput"]["requests"] == 1
    assert rate["goodput"]["requests_per_s"] == 1 / makespan_s
    busy_ns = 1100 + 2 * 1010 + 1140 + 1010
    assert summary["limits"]["idle_share"] == pytest.approx(1 - busy_ns / 12_150)
    assert summary["simulator"]["steps"] == 5


def test_a_run_that_answers_nobody() -> None:
    frames, context = serve([ask(0, prompt=50)], Server(max_model_len=20))
    check(frames, context)
    summary = summarize(frames, context)
    assert summary["counts"]["rejected"] == 1
    assert summary["latency_ms"]["ttft"] == {"count": 0}
    assert summary["throughput"]["requests_per_s"] is None
    assert summary["verdicts"] == {
        "ttft": "No request got a first token.",
        "limits": "No step ran.",
    }


def test_the_reference_defines_every_part_limit_and_column() -> None:
    text = (Path(__file__).parents[1] / "docs" / "reference" / "metrics.md").read_text()
    parts = {f"{part}_ns" for part in PARTS}
    memory = set(COLUMNS["memory"]) - {"replica", "first_step"}
    columns = {column for names in COLUMNS.values() for column in names} - parts - memory
    named = {*columns, *PARTS, *Slots._fields, *PHASES, *(limit.name.lower() for limit in Limit)}
    assert [name for name in sorted(named) if f"`{name}`" not in text] == []
