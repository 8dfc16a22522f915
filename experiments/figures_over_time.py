"""Figures along simulated time: who ran and waited, what filled memory, what bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import style
from experiments.context import Frames
from experiments.limits import judge_limits
from experiments.timeline import StepAxis
from experiments.windows import Floats, Level, Windows
from experiments.words import say_share
from sim.plan import Limit
from sim.record.rows import Event

_WINDOWS = 500
_KV_COLOURS = {
    "used": "#1b7f79",
    "reserved + internal": "#a6d8d3",
    "idle cached": "#d9d9d9",
}
_LIMIT_LABELS = {
    "none": "nobody left waiting",
    "seats": "seats",
    "tokens": "token budget",
    "blocks": "KV blocks",
    "gate": "admission gate",
}


def draw_load(frames: Frames, summary: dict[str, Any], footer: str) -> Figure:
    """Running sequences, waiting requests, and what fills the KV pool."""
    windows = _cut_time(frames)
    running, waiting = count_load(frames)
    memory = summary["memory"]
    replicas = summary["about"]["replicas"]
    counts = f"{running.values.max():,}", f"{waiting.values.max():,}"
    peak = f"at most {say_share(memory['peak_used_share'])} used"
    together, of_whom = "", "share of its slots"
    title = f"Up to {counts[0]} sequences run and {counts[1]} wait; the KV pool is {peak}"
    if replicas > 1:
        together = f", {replicas} replicas together"
        of_whom = f"mean share of the slots over the replicas that run ({replicas} in all)"
        title = (
            f"{replicas} replicas together: up to {counts[0]} run and {counts[1]} wait;"
            f" the fullest pool is {peak}"
        )
    figure = style.begin(title, footer=footer, size=(10, 6.2))
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1, 1.5))
    for axes, level, label, colour in (
        (top, running, "running sequences", style.DECODE),
        (middle, waiting, "waiting requests", style.PART_COLOURS["queue_tokens"]),
    ):
        x, unit = _clock(windows)
        mean, low, high = windows.follow(level)
        axes.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0, step="mid")
        axes.plot(x, mean, color=colour, linewidth=1.2, drawstyle="steps-mid")
        title = f"{label}{together}: mean, and lowest to highest"
        axes.set(title=title, ylim=(0, None), ylabel="count")
    _stack_memory(bottom, frames, windows, pool=memory["pool_slots"])
    bottom.set_title(f"KV pool: {of_whom}")
    bottom.set(xlabel=f"time since the first arrival [{unit}]", xlim=(x[0], x[-1]))
    return figure


def draw_composition(frames: Frames, summary: dict[str, Any], footer: str) -> Figure:
    """What steps compute, and which limit closes them."""
    windows, steps = _cut_time(frames), frames["steps"]
    x, unit = _clock(windows)
    busy = _integrate(windows, steps, np.ones(len(steps)))
    figure = style.begin(judge_limits(summary["limits"]).rstrip("."), footer=footer, size=(10, 6.2))
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    for axes, column, label, colour in (
        (top, "decodes", "decode tokens per step", style.DECODE),
        (middle, "chunk_tokens", "prefill (chunk) tokens per step", style.CHUNK),
    ):
        per_step = _divide(_integrate(windows, steps, steps[column]), busy)
        axes.fill_between(x, 0, per_step, color=colour, alpha=0.25, linewidth=0, step="mid")
        axes.plot(x, per_step, color=colour, linewidth=1.1, drawstyle="steps-mid")
        axes.set(title=f"{label}, mean over the time that steps run (idle: 0)", ylabel="tokens")
        axes.set_ylim(bottom=0)
    total = windows.length_ns * summary["about"]["replicas"]
    shares = [
        _integrate(windows, steps, steps["limit"] == limit) / total for limit in reversed(Limit)
    ]
    names = [limit.name.lower() for limit in reversed(Limit)]
    seen = [at for at, share in enumerate(shares) if share.any()]
    bottom.stackplot(
        x,
        [shares[at] for at in seen],
        colors=[style.LIMIT_COLOURS[names[at]] for at in seen],
        labels=[_LIMIT_LABELS[names[at]] for at in seen],
        step="mid",
        linewidth=0,
    )
    bottom.set(
        title="share of time by the limit that closed the step (the rest: idle)",
        ylim=(0, 1),
        ylabel="share of time",
        xlim=(x[0], x[-1]),
        xlabel=f"time since the first arrival [{unit}]",
    )
    style.list_above(bottom)
    return figure


def count_load(frames: Frames) -> tuple[Level, Level]:
    """(running sequences, waiting requests) from moment to moment, all replicas together.

    Exact: requests join and leave at arrivals, starts and ends of steps.
    """
    axis, events = StepAxis(frames["step_ends"]), frames["events"]
    at = axis.position(events["replica"], events["step"])
    start_ns, end_ns = axis.start_ns(frames["steps"])[at], axis.end_ns[at]
    kind = events["event"].to_numpy()
    enters = start_ns[(kind == Event.ADMIT) | (kind == Event.RESUME)]
    gives_way, finishes = start_ns[kind == Event.PREEMPT], end_ns[kind == Event.FINISH]
    arrives = frames["requests"]["arrival_ns"]
    running = Level([(enters, 1), (gives_way, -1), (finishes, -1)])
    return running, Level([(arrives, 1), (gives_way, 1), (enters, -1)])


def _stack_memory(axes: Axes, frames: Frames, windows: Windows, *, pool: int) -> None:
    steps, memory = frames["steps"], frames["memory"]
    x, _ = _clock(windows)
    busy = _integrate(windows, steps, np.ones(len(steps)))
    sums = {
        "used": ("used",),
        "reserved + internal": ("reserved", "internal"),
        "idle cached": ("idle",),
    }
    shares: list[Floats] = []
    for parts in sums.values():
        first = memory[[f"{part}_first_slots" for part in parts]].sum(axis=1) / pool
        last = memory[[f"{part}_last_slots" for part in parts]].sum(axis=1) / pool
        integral = windows.integrate_rows(
            steps, first.to_numpy(dtype=np.float64), last.to_numpy(dtype=np.float64)
        )
        shares.append(_divide(integral, busy))
    # Nobody holds anything while no step runs; what is cached stays as the next step finds it.
    cached = pd.Series(shares[-1]).where(busy > 0).bfill()
    shares[-1] = np.asarray(cached, dtype=np.float64)
    axes.stackplot(
        x, shares, colors=list(_KV_COLOURS.values()), labels=list(sums), step="mid", linewidth=0
    )
    axes.set(ylim=(0, 1), ylabel="share")
    style.list_above(axes)


def _cut_time(frames: Frames) -> Windows:
    start_ns = int(frames["requests"]["arrival_ns"].min())
    return Windows(start_ns, int(frames["step_ends"]["end_ns"].max()), count=_WINDOWS)


def _clock(windows: Windows) -> tuple[Floats, str]:
    """Middles of the windows since the first arrival, and their unit."""
    unit, unit_ns = style.choose_clock(float(windows.edges_ns[-1] - windows.edges_ns[0]))
    return windows.middles_ns / unit_ns, unit


def _integrate(windows: Windows, steps: pd.DataFrame, values: Any) -> Floats:
    constant = np.asarray(values, dtype=np.float64)
    return windows.integrate_rows(steps, constant, constant)


def _divide(integral: Floats, busy: Floats) -> Floats:
    """Mean over busy time; 0 where no step ran."""
    return np.divide(integral, busy, out=np.zeros(len(busy)), where=busy > 0)
