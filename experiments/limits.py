"""What was binding: the limit that closed each step, by the time it did."""

from __future__ import annotations

from typing import Any

import pandas as pd

from experiments.words import say_share
from sim.plan import Limit

_WORDS = {
    "memory": "memory-bound",
    "seats": "seat-bound",
    "tokens": "token-budget-bound",
    "none": "nobody left waiting",
}
_LEAST_SHARE = 0.01
"""What is less is not worth a word."""


def share_limits(steps: pd.DataFrame, *, window_ns: int) -> dict[str, Any]:
    """The share of busy time by limit, and of the window in which no step ran.

    The window counts replica by replica: replicas x makespan.
    """
    duration_ns = steps["end_ns"] - steps["start_ns"]
    busy_ns = int(duration_ns.sum())
    by_limit = duration_ns.groupby(steps["limit"]).sum()
    return {
        "share_of_busy_time": {
            limit.name.lower(): int(by_limit.get(limit, 0)) / busy_ns if busy_ns else None
            for limit in Limit
        },
        "busy_s": busy_ns / 1e9,
        "idle_share": 1 - busy_ns / window_ns if window_ns else None,
    }


def judge_limits(limits: dict[str, Any]) -> str:
    """One sentence: what kept more work out, in the order of its time."""
    share = limits["share_of_busy_time"]
    if share["none"] is None:
        return "No step ran."
    merged = {
        "memory": share["blocks"] + share["gate"],
        **{name: share[name] for name in ("seats", "tokens", "none")},
    }
    ranked = sorted(merged.items(), key=lambda item: -item[1])
    said = [f"{_WORDS[name]} {say_share(value)}" for name, value in ranked if value >= _LEAST_SHARE]
    said[0] += " of the busy time"
    sentence = ", ".join(said) + "."
    return sentence[0].upper() + sentence[1:]
