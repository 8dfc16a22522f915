"""A trace at a glance: when requests come, how long they are, how much of them repeats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from experiments import style
from experiments.words import say_share, say_time
from traces.statistics import NS_PER_S, Columns, Int64, Statistics

if TYPE_CHECKING:
    from matplotlib.typing import HashableList

_BINS = 120
_ZOOM = 40
"""The second panel of arrivals shows this part of the whole, around its peak."""
_LEAST_REQUESTS = 3
_PROMPT, _OUTPUT = style.PART_COLOURS["queue_tokens"], style.PART_COLOURS["interference"]
_RATE, _POISSON = style.DECODE, style.QUIET
_WHOLE = style.PART_COLOURS["queue_memory"]


def draw_trace(statistics: Statistics, columns: Columns, path: Path) -> Path:
    """Draw the figure of a trace as PNG; panels for which there are no data are left out."""
    arrivals = statistics.arrivals
    timed = arrivals.requests_per_s is not None and statistics.requests >= _LEAST_REQUESTS
    panels: list[HashableList[str]] = (
        [["rate", "zoom"], ["gaps", "lengths"]] if timed else [["lengths"]]
    )
    if timed and statistics.sharing is not None:
        panels.append(["hits", "hits"])
    with style.styled():
        figure = style.begin(
            _say_title(statistics), footer=_say_footer(statistics), size=(11, 2.6 * len(panels) + 1)
        )
        axes = figure.subplot_mosaic(panels)
        _draw_lengths(axes["lengths"], statistics, columns)
        if timed:
            _draw_rates(axes["rate"], axes["zoom"], columns.arrival_ns)
            _draw_gaps(axes["gaps"], columns.arrival_ns, cv=arrivals.cv_of_gaps)
        if "hits" in axes:
            _draw_hits(axes["hits"], columns, statistics)
        return style.save(figure, path)


def _say_title(statistics: Statistics) -> str:
    rate = statistics.arrivals.requests_per_s
    said = f"{statistics.requests:,} requests"
    if rate is not None:
        said += f", {rate:.3g} a second"
    prompt, output = (
        f"{row.mean:,.0f}" for row in (statistics.prompt_tokens, statistics.output_tokens)
    )
    said += f", {prompt} prompt and {output} output tokens each"
    if statistics.sharing is not None:
        said += f", {statistics.sharing.seen_share * 100:.1f} % of the prompt seen before"
    return said


def _say_footer(statistics: Statistics) -> str:
    said = statistics.name
    if statistics.notes:
        said += "; " + ", ".join(f"{what}: {n:,}" for what, n in statistics.notes.items())
    return said


def _draw_rates(whole: Axes, zoom: Axes, arrival_ns: Int64) -> None:
    """Requests a second over the whole trace, and over a small part of it around its peak."""
    first, last = int(arrival_ns[0]), int(arrival_ns[-1])
    width_ns = _draw_rate(whole, arrival_ns, origin_ns=first, start_ns=first, end_ns=last)
    counts, edges = np.histogram(arrival_ns, bins=_BINS)
    part_ns = max((last - first) / _ZOOM, 2.0)
    centre = float(edges[int(counts.argmax())]) + width_ns / 2
    start_ns = min(max(first, centre - part_ns / 2), last - part_ns)
    end_ns = start_ns + part_ns
    inside = arrival_ns[(arrival_ns >= start_ns) & (arrival_ns <= end_ns)]
    _draw_rate(zoom, inside, origin_ns=first, start_ns=start_ns, end_ns=end_ns)
    unit, size_ns = style.choose_clock(last - first)
    whole.axvspan(
        (start_ns - first) / size_ns,
        (end_ns - first) / size_ns,
        color=style.PART_COLOURS["interference"],
        alpha=0.25,
        linewidth=0,
    )
    whole.set(xlabel=f"time since the first request [{unit}]")
    zoom.set(ylabel="")


def _draw_rate(
    axes: Axes, arrival_ns: Int64, *, origin_ns: int, start_ns: float, end_ns: float
) -> float:
    """Mean rates in equal bins; returns their width."""
    counts, edges = np.histogram(arrival_ns, bins=_BINS, range=(start_ns, end_ns))
    width_ns = (end_ns - start_ns) / _BINS
    rate = counts / (width_ns / NS_PER_S)
    unit, size_ns = style.choose_clock(end_ns - start_ns)
    axes.stairs(rate, (edges - origin_ns) / size_ns, fill=True, color=_RATE, alpha=0.85)
    mean = len(arrival_ns) * NS_PER_S / (end_ns - start_ns)
    axes.axhline(mean, color=style.INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set(
        title=f"requests/s in bins of {say_time(width_ns / 1e6)}; dashed: their mean, {mean:.3g}",
        ylabel="requests/s",
        xlabel=f"the shaded part: time since the first request [{unit}]",
        ylim=(0, None),
        xlim=((start_ns - origin_ns) / size_ns, (end_ns - origin_ns) / size_ns),
    )
    return width_ns


def _draw_gaps(axes: Axes, arrival_ns: Int64, *, cv: float | None) -> None:
    """The share of gaps longer than x, and what a Poisson process of that rate would show."""
    gaps_ms = np.sort(np.diff(arrival_ns)) / 1e6
    mean, together = float(gaps_ms.mean()), float((gaps_ms == 0).mean())
    longer = 1 - np.arange(1, len(gaps_ms) + 1) / len(gaps_ms)
    lowest = min(mean / 100, float(np.quantile(gaps_ms[gaps_ms > 0], 0.01)))
    x = np.geomspace(lowest, max(float(gaps_ms[-1]) * 1.5, mean * 7), 300)
    axes.plot(x, np.exp(-x / mean), color=_POISSON, linewidth=1.2, linestyle=(0, (4, 3)))
    # From the left edge on, where the gaps of nothing are already counted out.
    steps = np.append(lowest, gaps_ms[gaps_ms > lowest])
    shares = np.append(1 - (gaps_ms <= lowest).mean(), longer[gaps_ms > lowest])
    axes.step(steps, shares, where="post", color=_RATE, linewidth=1.5)
    said = "" if cv is None else f", CV {cv:.3g}"
    if together > 0:
        said += f"; {say_share(together)} are 0"
    axes.set(
        title=f"gaps longer than x{said}; dashed: Poisson",
        ylabel="share of gaps",
        xlabel="gap between two requests",
        xscale="log",
        yscale="log",
        ylim=(max(0.5 / len(gaps_ms), 1e-6), 1.3),
        xlim=(float(x[0]), float(x[-1])),
    )
    axes.xaxis.set_major_locator(LogLocator(10, numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: say_time(ms)))
    axes.yaxis.set_major_formatter(FuncFormatter(_say_tick))


def _draw_lengths(axes: Axes, statistics: Statistics, columns: Columns) -> None:
    longest = max(statistics.prompt_tokens.max, statistics.output_tokens.max)
    bins = np.geomspace(1, max(longest, 2), 60).tolist()
    for tokens, spread, label, colour in (
        (columns.prompt_tokens, statistics.prompt_tokens, "prompt", _PROMPT),
        (columns.output_tokens, statistics.output_tokens, "output", _OUTPUT),
    ):
        weights = np.full(len(tokens), 1 / len(tokens))
        ranks = f"{label}: P50 {spread.p50:,.0f}, P99 {spread.p99:,.0f}"
        axes.hist(tokens, bins=bins, weights=weights, color=colour, alpha=0.6, label=ranks)
        axes.axvline(spread.p50, color=colour, linewidth=1.2)
    axes.set(title="lengths", ylabel="share of requests", xlabel="tokens", xscale="log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tokens, _: f"{tokens:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(_say_tick))
    style.list_above(axes)


def _draw_hits(axes: Axes, columns: Columns, statistics: Statistics) -> None:
    """The share of prompt tokens seen before, bin by bin, and of all so far."""
    first = int(columns.arrival_ns[0])
    unit, size_ns = style.choose_clock(int(columns.arrival_ns[-1]) - first)
    edges = np.linspace(0, int(columns.arrival_ns[-1]) - first, _BINS + 1)
    seen, prompt = (
        np.histogram(columns.arrival_ns - first, bins=edges, weights=tokens)[0]
        for tokens in (columns.seen_tokens, columns.prompt_tokens)
    )
    x = edges / size_ns
    axes.stairs(
        seen / np.maximum(prompt, 1), x, fill=True, color=_WHOLE, alpha=0.35, label="in this bin"
    )
    so_far = seen.cumsum() / np.maximum(prompt.cumsum(), 1)
    axes.plot(x[1:], so_far, color=_WHOLE, linewidth=1.6, label="so far")
    total = say_share(statistics.sharing.seen_share) if statistics.sharing else "-"
    axes.set(
        title=f"prompt tokens seen before, in an endless cache ({total} in the end)",
        ylabel="share of prompt tokens",
        xlabel=f"time since the first request [{unit}]",
        ylim=(0, 1),
        xlim=(0, x[-1]),
    )
    axes.yaxis.set_major_formatter(FuncFormatter(_say_tick))
    style.list_above(axes)


def _say_tick(share: float, _: int) -> str:
    """Not rounded, or a tick at 2.5 % would be called 2 %."""
    return f"{share * 100:g} %"
