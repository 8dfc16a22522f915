"""Which part of TTFT costs the time, and which makes it vary."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.distribution import NS_PER_MS
from experiments.words import say_share
from sim.record.ttft import PARTS


class Part(NamedTuple):
    """How a part of TTFT is spoken of."""

    label: str
    finding: str
    """Completes "71 % of the variance of TTFT is ..."."""
    remedy: str
    """Completes "what would change it: ..."."""
    variation: str = ""
    """Why it varies, where that is not plain."""


_MORE_BLOCKS = "more KV blocks (gpu_memory_utilization, a smaller kv_cache_dtype)"

PARTS_IN_WORDS: dict[str, Part] = {
    "queue_flight": Part(
        "queue: step in flight",
        "waiting for the step that runs on arrival",
        "shorter steps (a smaller max_num_batched_tokens)",
    ),
    "queue_seats": Part(
        "queue: seats",
        "queueing for seats",
        "a larger max_num_seqs, or more replicas",
    ),
    "queue_tokens": Part(
        "queue: token budget",
        "queueing for the steps' token budget",
        "a larger max_num_batched_tokens, more prefix hits, or more replicas",
    ),
    "queue_memory": Part(
        "queue: KV memory",
        "queueing for KV memory",
        f"{_MORE_BLOCKS}, or more replicas",
    ),
    "queue_behind": Part(
        "queue: behind the head",
        "queueing behind a head of the queue that finds no room",
        f"{_MORE_BLOCKS}, chunked prefill where it is off, or more replicas",
    ),
    "own": Part(
        "own prefill",
        "the prefill itself",
        "more prefix hits, or a faster device",
        ": prompts differ in length",
    ),
    "interference": Part(
        "interference",
        "the work of others in the same steps",
        "more replicas, or a faster device; fewer seats trade it for queueing, a"
        " long_prefill_token_threshold for more steps of each prompt",
    ),
    "compute": Part(
        "compute (own + interference)",
        "computing, alone and beside others (recorded durations do not tell which)",
        "more prefix hits, fewer seats, or a faster device",
    ),
    "preemption": Part(
        "preemption",
        "preemption of prefills",
        f"{_MORE_BLOCKS}, fewer seats, or a watermark",
    ),
    "transfer": Part(
        "transfer",
        "moving KV blocks",
        "a faster link, or fewer preemptions",
    ),
    "host": Part(
        "host",
        "host time, between steps and in front of the engine",
        "fewer steps per prompt (a larger max_num_batched_tokens), or a faster host",
    ),
    "search": Part(
        "beam search",
        "beam search, from its first token to its end",
        "shorter answers, narrower beams, or fewer seats",
    ),
}
"""In the order in which time passes; what `compute` stands for never stands beside it."""


def read_parts(requests: pd.DataFrame, *, knows_alone: bool) -> pd.DataFrame:
    """The parts of each request's TTFT, in ns; each row sums to its `ttft_ns`.

    Where no chunk has a price by itself, `compute` takes the place of own + interference.
    """
    parts = requests[[f"{part}_ns" for part in PARTS]].set_axis(list(PARTS), axis="columns")
    if not knows_alone:
        parts = parts.assign(compute=parts["own"] + parts["interference"])
    return parts[[part for part in PARTS_IN_WORDS if _is_shown(part, knows_alone=knows_alone)]]


def decompose_ttft(requests: pd.DataFrame, *, knows_alone: bool) -> dict[str, Any]:
    """Mean, share of the mean, and share of the variance of each part of TTFT.

    share_of_variance = Cov(part, TTFT) / Var(TTFT); the shares sum to 1 within rounding and
    may be negative. They are None where TTFT does not vary, and `saved_by_prefix_mean_ms`
    is None where no chunk has a price by itself.
    """
    parts = read_parts(requests, knows_alone=knows_alone)
    ttft = requests["ttft_ns"].to_numpy(dtype=np.float64)
    rows: dict[str, dict[str, float | None]] = {}
    mean = float(ttft.mean()) if len(ttft) else 0.0
    deviation = ttft - mean
    # Equal values need not have an exact mean: what rounding leaves is no variance.
    variance = float(deviation @ deviation) if len(ttft) and np.ptp(ttft) else 0.0
    for name, column in parts.items():
        values = column.to_numpy(dtype=np.float64)
        part_mean = float(values.mean()) if len(values) else 0.0
        covariance = float((values - part_mean) @ deviation)
        rows[str(name)] = {
            "mean_ms": part_mean / NS_PER_MS,
            "share_of_mean": part_mean / mean if mean else None,
            "share_of_variance": covariance / variance if variance else None,
        }
    saved = requests["saved_by_prefix_ns"]
    return {
        "requests": len(ttft),
        "mean_ms": mean / NS_PER_MS,
        "parts": rows,
        "saved_by_prefix_mean_ms": (
            float(saved.mean()) / NS_PER_MS if knows_alone and len(saved) else None
        ),
        "requests_with_negative_interference": int((requests["interference_ns"] < 0).sum()),
    }


def judge_ttft(decomposed: dict[str, Any]) -> str:
    """One sentence on what makes TTFT vary, and what would change it."""
    rows = decomposed["parts"]
    if not decomposed["mean_ms"]:
        return "No request got a first token."
    varies = rows["host"]["share_of_variance"] is not None
    by = "share_of_variance" if varies else "share_of_mean"
    largest = max(rows, key=lambda part: float(rows[part][by]))
    row, words = rows[largest], PARTS_IN_WORDS[largest]
    share = say_share(row[by])
    offset = " (other parts offset the excess)" if row[by] > 1 else ""
    remedy = f"what would change it: {words.remedy}."
    if varies:
        return (
            f"{share} of the variance of TTFT{offset} is {words.finding}{words.variation}"
            f" (and {say_share(row['share_of_mean'])} of its mean); {remedy}"
        )
    if decomposed["requests"] == 1:
        return f"{share} of the one TTFT{offset} is {words.finding}; {remedy}"
    return f"TTFT does not vary; {share} of it{offset} is {words.finding}; {remedy}"


def _is_shown(part: str, *, knows_alone: bool) -> bool:
    return part not in (("compute",) if knows_alone else ("own", "interference"))
