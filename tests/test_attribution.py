"""Which part of TTFT costs the time, and which makes it vary: by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd

from experiments.attribution import decompose_ttft, judge_ttft
from sim.record.ttft import PARTS


def requests_with(**parts: list[int]) -> pd.DataFrame:
    """Requests whose TTFT has these parts, in ms, and no others."""
    count = len(next(iter(parts.values())))
    columns = {f"{part}_ns": parts.get(part, [0] * count) for part in PARTS}
    frame = pd.DataFrame(columns) * 1_000_000
    return frame.assign(ttft_ns=frame.sum(axis=1), saved_by_prefix_ns=3_000_000)


def shares(decomposed: dict[str, Any], of: str) -> dict[str, float]:
    """The shares that are not 0."""
    return {part: row[of] for part, row in decomposed["parts"].items() if row[of]}


def test_variance_goes_to_the_part_that_varies() -> None:
    requests = requests_with(own=[10, 10, 10], queue_seats=[0, 10, 20])
    found = decompose_ttft(requests, knows_alone=True)
    assert found["mean_ms"] == 20
    assert found["saved_by_prefix_mean_ms"] == 3
    assert shares(found, "share_of_mean") == {"own": 0.5, "queue_seats": 0.5}
    assert shares(found, "share_of_variance") == {"queue_seats": 1}
    assert judge_ttft(found) == (
        "100 % of the variance of TTFT is queueing for seats (and 50 % of its mean);"
        " what would change it: a larger max_num_seqs, or more replicas."
    )


def test_a_part_that_falls_as_ttft_rises_has_a_negative_share() -> None:
    requests = requests_with(own=[10, 5, 0], queue_memory=[0, 15, 30])
    found = decompose_ttft(requests, knows_alone=True)
    assert shares(found, "share_of_variance") == {"own": -0.5, "queue_memory": 1.5}


def test_negative_interference_is_kept_and_counted() -> None:
    requests = requests_with(own=[10, 20], interference=[-2, 4])
    found = decompose_ttft(requests, knows_alone=True)
    assert found["requests_with_negative_interference"] == 1
    assert found["parts"]["interference"]["mean_ms"] == 1


def test_own_and_interference_are_one_where_durations_are_recorded() -> None:
    requests = requests_with(own=[0, 0], interference=[5, 7], queue_flight=[1, 1])
    found = decompose_ttft(requests, knows_alone=False)
    assert shares(found, "share_of_variance") == {"compute": 1}
    assert "own" not in found["parts"]
    assert "interference" not in found["parts"]
    assert found["saved_by_prefix_mean_ms"] is None


def test_one_request_has_no_variance_to_share() -> None:
    found = decompose_ttft(requests_with(own=[9], host=[1]), knows_alone=True)
    assert not shares(found, "share_of_variance")
    assert judge_ttft(found) == (
        "90 % of the one TTFT is the prefill itself; what would change it: more prefix hits, or a"
        " faster device."
    )


def test_equal_requests_have_no_variance_to_share() -> None:
    found = decompose_ttft(requests_with(own=[9] * 7, host=[1] * 7), knows_alone=True)
    assert not shares(found, "share_of_variance")
    assert judge_ttft(found).startswith("TTFT does not vary; 90 % of it is the prefill itself;")


def test_a_share_above_one_is_explained() -> None:
    found = decompose_ttft(requests_with(own=[0, 30], queue_seats=[10, 0]), knows_alone=True)
    assert judge_ttft(found).startswith(
        "150 % of the variance of TTFT (other parts offset the excess) is the prefill itself:"
        " prompts differ in length (and 75 % of its mean);"
    )
