"""The numbers of a run, as docs/reference/metrics.md defines them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.attribution import decompose_ttft, judge_ttft
from experiments.conservation import check
from experiments.context import Context, Frames
from experiments.distribution import NS_PER_MS, describe
from experiments.itl import measure_gaps
from experiments.kv_use import count_prefix_hits, share_memory
from experiments.limits import judge_limits, share_limits
from experiments.phases import share_phases
from experiments.swapping import measure_swaps
from sim.record.rows import Event

__all__ = ["check", "keeps_limits", "read_latencies", "summarize"]

NS_PER_S = 1e9


def summarize(frames: Frames, context: Context) -> dict[str, Any]:
    """Everything that is said of a run, ready for JSON.

    Times are milliseconds where a name ends in `_ms`; shares lie between 0 and 1 and are None
    where there is nothing to share.
    """
    requests, steps = frames["requests"], frames["steps"]
    latency = context["latency"]
    makespan_ns = measure_makespan(frames)
    ttft = decompose_ttft(requests, knows_alone=latency["knows_alone"])
    # Batches in flight when the last answer ends run to their end.
    after_ns = (
        max(0, int(steps["end_ns"].max()) - int(requests["finish_ns"].max())) if makespan_ns else 0
    )
    limits = share_limits(steps, window_ns=(makespan_ns + after_ns) * len(context["slot_ns"]))
    return {
        "about": _introduce(context),
        "counts": _count(frames, context),
        "latency_ms": _describe_latencies(frames),
        "throughput": _rate(requests, makespan_ns=makespan_ns, slo=context["config"].get("slo")),
        "ttft": ttft,
        "limits": limits,
        "phases": share_phases(
            steps,
            frames["chunks"],
            model_work=context["model_work"],
            ridge_flop_per_byte=latency["ridge_flop_per_byte"],
        ),
        "memory": share_memory(
            frames["memory"], slot_ns=context["slot_ns"], deployment=context["deployment"]
        ),
        "prefix_cache": count_prefix_hits(frames),
        "swapping": measure_swaps(frames, context["deployment"]),
        "verdicts": {"ttft": judge_ttft(ttft), "limits": judge_limits(limits)},
        "simulator": _price(frames, context),
    }


def read_latencies(requests: pd.DataFrame) -> pd.DataFrame:
    """TTFT, TPOT, E2E and queue time of each answered request, in ns.

    All as the user sees them: the front-end time that TTFT holds is in E2E too. An answer
    of one token has no TPOT (NaN), nor has a beam search, which shows all tokens at once. Several
    answers to a request are equally long, begin with the first of them and end with the last.
    """
    shown_ns = requests["first_token_ns"] + requests["search_ns"]
    decode_ns = requests["finish_ns"] - shown_ns
    gaps = (requests["output_tokens"] // requests["branches"] - 1).where(requests["beam"] == 0, 0)
    return pd.DataFrame(
        {
            "ttft": requests["ttft_ns"],
            "tpot": (decode_ns / gaps.where(gaps > 0)).astype("float64"),
            "e2e": requests["ttft_ns"] + decode_ns,
            "queue": requests["admit_ns"] - requests["arrival_ns"],
        }
    )


def measure_makespan(frames: Frames) -> int:
    """Nanoseconds from the first arrival to the last finish; 0 where nobody was answered."""
    requests, refused = frames["requests"], frames["refused"]
    if requests.empty:
        return 0
    arrivals = pd.concat([requests["arrival_ns"], refused["arrival_ns"]])
    return int(requests["finish_ns"].max()) - int(arrivals.min())


def _introduce(context: Context) -> dict[str, Any]:
    config, latency = context["config"], context["latency"]
    return {
        "name": config.get("name"),
        "model": config.get("model"),
        "device": config.get("device"),
        "replicas": len(context["slot_ns"]),
        "trace": context["trace"]["name"],
        "latency": latency["source"],
        "modelled": latency["modelled"],
        "knows_alone": latency["knows_alone"],
    }


def _count(frames: Frames, context: Context) -> dict[str, Any]:
    requests, refused = frames["requests"], frames["refused"]
    events = frames["events"]["event"]
    return {
        "arrived": context["arrived"],
        "finished": len(requests),
        "rejected": len(refused),
        "rejected_for": _count_reasons(refused),
        "clipped_answers": int((requests["output_tokens"] < requests["wanted_tokens"]).sum()),
        "preemptions": int((events == Event.PREEMPT).sum()),
        "preempted_requests": int((requests["preemptions"] > 0).sum()),
        "trace_notes": dict(context["trace"]["notes"]),
    }


def _count_reasons(refused: pd.DataFrame) -> dict[str, int]:
    """Refusals by reason; a reason that names the prompt's length is the same for all lengths."""
    reasons = Counter(
        reason.replace(str(prompt_tokens), "N", 1)
        for reason, prompt_tokens in zip(refused["reason"], refused["prompt_tokens"], strict=True)
    )
    return dict(reasons.most_common())


def _describe_latencies(frames: Frames) -> dict[str, Any]:
    requests, segments = frames["requests"], frames["segments"]
    latencies = read_latencies(requests)
    searches = requests["request"][requests["beam"] > 0]
    streamed = segments[~segments["request"].isin(searches)]
    gaps_ns, times = measure_gaps(streamed, frames["step_ends"])
    return {
        "ttft": describe(latencies["ttft"]),
        "tpot": describe(latencies["tpot"].dropna()),
        "itl": describe(gaps_ns, weights=times),
        "e2e": describe(latencies["e2e"]),
        "queue": describe(latencies["queue"]),
    }


def _rate(
    requests: pd.DataFrame, *, makespan_ns: int, slo: dict[str, float | None] | None
) -> dict[str, Any]:
    """Per second of makespan. Prompt tokens count whole, hits included."""
    makespan_s = makespan_ns / NS_PER_S
    totals = {
        "requests_per_s": len(requests),
        "prompt_tokens_per_s": int(requests["prompt_tokens"].sum()),
        "output_tokens_per_s": int(requests["output_tokens"].sum()),
    }
    rates: dict[str, Any] = {
        name: total / makespan_s if makespan_s else None for name, total in totals.items()
    }
    set_limits = {name: limit for name, limit in (slo or {}).items() if limit is not None}
    goodput: dict[str, Any] | None = None
    if set_limits:
        good = int(keeps_limits(requests, set_limits).all(axis="columns").sum())
        goodput = {
            "slo": set_limits,
            "requests": good,
            "share_of_finished": good / len(requests) if len(requests) else None,
            "requests_per_s": good / makespan_s if makespan_s else None,
        }
    return {"makespan_s": makespan_s, **rates, "goodput": goodput}


def keeps_limits(requests: pd.DataFrame, limits: Mapping[str, float]) -> pd.DataFrame:
    """Whether each answered request keeps each limit, given as `ttft_ms` and the like; a column
    for each of them. No TPOT keeps any."""
    latencies = read_latencies(requests)
    return pd.DataFrame(
        {
            name: ~(latencies[name.removesuffix("_ms")] > limit_ms * NS_PER_MS)
            for name, limit_ms in limits.items()
        },
        index=requests.index,
    )


def _price(frames: Frames, context: Context) -> dict[str, Any]:
    """What simulating cost."""
    cpu_s = context["cpu_s"]
    return {
        "steps": len(frames["step_ends"]),
        "step_rows": len(frames["steps"]),
        "wall_s": context["wall_s"],
        "cpu_s": cpu_s,
        "requests_per_cpu_s": len(frames["requests"]) / cpu_s if cpu_s else None,
    }
