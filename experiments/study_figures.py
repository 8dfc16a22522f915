"""The figures of a study: where each variant's memory goes, and how long answers take."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from experiments import style
from experiments.context import Frames
from experiments.distribution import NS_PER_MS
from experiments.figures_over_time import count_load
from experiments.metrics import NS_PER_S, read_latencies
from experiments.study_screen import say_percent
from experiments.windows import Floats, Windows
from experiments.words import say_share, say_source, say_time

if TYPE_CHECKING:
    from experiments.study import Variant

_POOL = {
    "used": ("used", "#1b7f79"),
    "reserved": ("reserved: to be written", "#fdbe85"),
    "internal": ("internal: never written", "#e6550d"),
    "external": ("external: free, but in pieces", "#756bb1"),
    "idle": ("idle cached", "#bdbdbd"),
    "free": ("free", "#f2f2f2"),
}
"""Parts of the pool from below: label, colour. What is lost is warm."""
_TABLES = ("requests", "events", "steps", "memory", "step_ends")
_WINDOWS = 160
_INCHES = 9.2
_TITLE_CHARACTERS = 88
_PERCENT = FuncFormatter(lambda share, _: say_share(round(share, 6)))
_LABELS = {"ttft": "time to first token (TTFT)", "tpot": "time per output token (TPOT)"}


def draw_study(variants: Mapping[str, Variant], folder: Path, *, name: str) -> list[Path]:
    """Draw the figures into an existing folder, as PNG; returns their paths.

    Variants that answered nobody are left out; nothing is drawn where none is left.
    """
    answered = {
        each: variant
        for each, variant in variants.items()
        if variant.result.summary["counts"]["finished"]
    }
    if not answered:
        return []
    frames = {
        each: {table: variant.result[table] for table in _TABLES}
        for each, variant in answered.items()
    }
    footer = _say_footer(name, answered)
    with style.styled():
        return [
            style.save(figure, folder / f"{stem}.png")
            for stem, figure in (
                ("memory", _draw_memory(answered, frames, footer)),
                ("latency", _draw_latencies(answered, frames, footer)),
            )
        ]


def _draw_memory(
    variants: Mapping[str, Variant], frames: Mapping[str, Frames], footer: str
) -> Figure:
    """The pool over time in a panel for each variant; running sequences, and the waste."""
    # The legend takes a panel's place.
    columns = 2 if len(variants) in (1, 3) else 3
    rows = -(-(len(variants) + 1) // columns)
    heights = 2.0 * rows, 2.7
    title = textwrap.fill(_say_waste(variants), width=_TITLE_CHARACTERS)
    footer = f"{footer}; dotted: the middle half of the run, over which numbers are means"
    figure = style.begin(title, footer=footer, size=(_INCHES, sum(heights) + 0.9))
    grid = figure.add_gridspec(2, 1, height_ratios=heights)
    upper, lower = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    unit, unit_ns = style.choose_clock(
        max(float(_windows_of(each).edges_ns[-1]) for each in frames.values())
    )
    panels = list(upper.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for at, (axes, name) in enumerate(zip(panels, variants, strict=False)):
        _stack_pool(axes, variants[name], frames[name], unit_ns=unit_ns)
        axes.set_title(name, fontweight="bold")
        axes.set_title(_say_panel(variants[name]), loc="right", color=style.QUIET)
        axes.tick_params(labelbottom=at + columns >= len(variants))
    for axes in panels[-columns:]:
        axes.set_xlabel(f"time [{unit}]")
    for axes in panels[len(variants) :]:
        axes.set_axis_off()
    panels[len(variants)].legend(
        handles=_explain_colours(variants),
        loc="center left",
        handlelength=1.2,
        handleheight=1.2,
        title="Token slots of the KV pool",
        alignment="left",
    )
    left, right = lower.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_running(left, frames, _colour(variants), unit=unit, unit_ns=unit_ns)
    _draw_waste(right, variants, _colour(variants))
    return figure


def _stack_pool(axes: Axes, variant: Variant, frames: Frames, *, unit_ns: float) -> None:
    """Means in equal windows of time, each over the time in it that steps run."""
    steps, memory = frames["steps"], frames["memory"]
    windows = _windows_of(frames)
    busy = windows.integrate_rows(steps, *(np.ones(len(steps)),) * 2)
    pool = variant.result.summary["memory"]["pool_slots"]
    shares: list[Floats] = []
    for part in _POOL:
        first, last = (
            memory[f"{part}_{when}_slots"].to_numpy(dtype=np.float64) / pool
            for when in ("first", "last")
        )
        integral = windows.integrate_rows(steps, first, last)
        shares.append(np.divide(integral, busy, out=np.zeros(_WINDOWS), where=busy > 0))
    since = (windows.edges_ns - windows.edges_ns[0]) / unit_ns
    labels, colours = zip(*_POOL.values(), strict=True)
    axes.stackplot((since[1:] + since[:-1]) / 2, shares, labels=labels, colors=colours, linewidth=0)
    for second in (variant.middle["from_s"], variant.middle["to_s"]):
        axes.axvline(second * NS_PER_S / unit_ns, color=style.INK, linewidth=0.8, linestyle=":")
    axes.set(ylim=(0, 1), xlim=(0, None))
    axes.margins(x=0)
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.grid(visible=False)


def _draw_running(
    axes: Axes,
    frames: Mapping[str, Frames],
    colours: Mapping[str, Any],
    *,
    unit: str,
    unit_ns: float,
) -> None:
    for name, each in frames.items():
        running, _ = count_load(each)
        windows = _windows_of(each)
        mean, _, _ = windows.follow(running)
        axes.plot(
            windows.middles_ns / unit_ns, mean, color=colours[name], linewidth=1.6, label=name
        )
    axes.set(title="sequences that run at once", xlabel=f"time [{unit}]")
    axes.set(xlim=(0, None), ylim=(0, None))


def _draw_waste(axes: Axes, variants: Mapping[str, Variant], colours: Mapping[str, Any]) -> None:
    """A bar for what was measured, a diamond for what the lengths alone say."""
    names = list(variants)
    waste = [variants[name].middle["waste"] or 0.0 for name in names]
    axes.barh(range(len(names)), waste, color=[colours[name] for name in names], height=0.62)
    expected = [variants[name].middle["waste_expected"] for name in names]
    known = [(share, at) for at, share in enumerate(expected) if share is not None]
    if known:  # an empty line would count as one at the figure's corner, and crush the panels
        axes.plot(
            *zip(*known, strict=True),
            *("D",),
            color="white",
            markeredgecolor=style.INK,
            markersize=5,
            label="by arithmetic",
            clip_on=False,
        )
        axes.legend(loc="lower right")
    for at, share in enumerate(waste):
        right = max(share, expected[at] or 0.0)
        axes.annotate(
            say_percent(variants[names[at]].middle["waste"]),
            (right, at),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=style.INK,
        )
    axes.set(title="waste: share of what sequences hold", yticks=range(len(names)))
    axes.set(yticklabels=names, xlim=(0, 1))
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.grid(visible=False, axis="y")
    axes.invert_yaxis()


def _draw_latencies(
    variants: Mapping[str, Variant], frames: Mapping[str, Frames], footer: str
) -> Figure:
    """The distributions of TTFT and TPOT over requests, a line for each variant."""
    ttft = {
        name: variant.result.summary["latency_ms"]["ttft"] for name, variant in variants.items()
    }
    worst, best = (pick(ttft, key=lambda name: ttft[name]["p50"]) for pick in (max, min))
    title = f"Half of the first tokens come within {say_time(ttft[best]['p50'])} ({best})"
    if worst != best:
        title += f" to {say_time(ttft[worst]['p50'])} ({worst})"
    figure = style.begin(title, footer=footer, size=(_INCHES, 3.9))
    colours = _colour(variants)
    latencies = {
        name: read_latencies(each["requests"]) / NS_PER_MS for name, each in frames.items()
    }
    for at, (axes, (kind, label)) in enumerate(
        zip(figure.subplots(1, 2, sharey=True), _LABELS.items(), strict=True)
    ):
        values = {name: each[kind].dropna() for name, each in latencies.items()}
        for name, column in values.items():
            sns.ecdfplot(x=column, ax=axes, color=colours[name], linewidth=1.8, label=name)
        seen = [column for column in values.values() if len(column)]
        if seen:
            low = min(float(column.quantile(0.002)) for column in seen)
            high = max(float(column.max()) for column in seen)
            style.scale_time(axes, along="x", low_ms=low, high_ms=high)
        axes.set(title=label, xlabel="", ylabel="share of requests" if at == 0 else "")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _explain_colours(variants: Mapping[str, Variant]) -> list[Patch]:
    """From above, as they are stacked; parts that no run has are left out."""
    shares = [variant.result.summary["memory"]["share_of_pool"] for variant in variants.values()]
    return [
        Patch(color=colour, label=label, linewidth=0)
        for part, (label, colour) in reversed(_POOL.items())
        if any(each[part] for each in shares)
    ]


def _windows_of(frames: Frames) -> Windows:
    start_ns = int(frames["requests"]["arrival_ns"].min())
    return Windows(start_ns, int(frames["step_ends"]["end_ns"].max()), count=_WINDOWS)


def _colour(variants: Mapping[str, Variant]) -> dict[str, Any]:
    return dict(zip(variants, sns.color_palette("colorblind", len(variants)), strict=True))


def _say_waste(variants: Mapping[str, Variant]) -> str:
    middles = {name: variant.middle for name, variant in variants.items()}
    waste = {name: each["waste"] for name, each in middles.items() if each["waste"] is not None}
    if not waste:
        return "Where the KV pool goes"
    worst, best = max(waste, key=lambda name: waste[name]), min(waste, key=lambda name: waste[name])
    said = f"{worst} wastes {say_percent(waste[worst])} of the KV memory that its sequences hold"
    if worst == best:
        return said
    running = [round(middles[name]["running"]) for name in (worst, best)]
    return (
        f"{said}, {best} {say_percent(waste[best])}:"
        f" {running[0]} and {running[1]} sequences run at once"
    )


def _say_panel(variant: Variant) -> str:
    waste, running = variant.middle["waste"], variant.middle["running"]
    return "" if waste is None else f"{running:.0f} run, {say_percent(waste)} waste"


def _say_footer(name: str, variants: Mapping[str, Variant]) -> str:
    summaries = [variant.result.summary for variant in variants.values()]
    about = summaries[0]["about"]
    sources = dict.fromkeys(say_source(summary["about"]) for summary in summaries)
    where = ", ".join(str(part) for part in (name, about["model"], about["device"]) if part)
    return f"{where}; latency {'; '.join(sources)}"
