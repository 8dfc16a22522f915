"""The figure of a capacity: the share within the SLO, and latency, over load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments import style
from experiments.capacity_result import Capacity, Point
from experiments.capacity_screen import say_rate, say_who_keeps
from experiments.words import say_source, say_time

_KEPT, _FAILED = "#1b7f79", "#cb181d"
_LABELS = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "e2e": "end to end",
}
_ABOVE_LIMIT = 30
"""Times the limit: what takes longer is off the picture, and points there."""
_LOG_ABOVE = 3
"""A range of loads wider than this is shown on a logarithmic axis."""
_MOST_TICKS = 9


def draw_capacity(capacity: Capacity, folder: Path) -> Path:
    """Draw `capacity.png` into an existing folder."""
    points = sorted(capacity.points, key=lambda point: _load(capacity, point))
    limits = points[0].judged.limits
    names = [name for name in _LABELS if f"{name}_ms" in limits or _is_told(points, name)]
    piling = any(point.judged.backlog.grows(capacity.goal.within) for point in points)
    below = len(names) + piling
    with style.styled():
        figure = style.begin(
            _say_title(capacity), footer=_say_footer(capacity), size=(9.2, 2.6 + 1.75 * below)
        )
        panels = figure.subplots(1 + below, 1, sharex=True, height_ratios=[1.3, *[1] * below])
        _draw_share(panels[0], capacity, points)
        for axes, name in zip(panels[1:], names, strict=False):
            _draw_latency(axes, capacity, points, name)
        if piling:
            _draw_backlog(panels[-1], capacity, points)
        _scale_load(panels[-1], capacity, points)
        for axes in panels:
            _shade(axes, capacity)
        return style.save(figure, folder / "capacity.png")


def _draw_share(axes: Axes, capacity: Capacity, points: list[Point]) -> None:
    loads = np.array([_load(capacity, point) for point in points])
    shares = np.array([point.judged.share for point in points])
    low, high = np.transpose([point.judged.bounds for point in points])
    axes.plot(loads, shares, color=style.QUIET, linewidth=1, zorder=1)
    for keeps, colour, marker in ((True, _KEPT, "o"), (False, _FAILED, "X")):
        these = np.array([point.keeps == keeps for point in points])
        if these.any():
            reach = np.clip([(shares - low)[these], (high - shares)[these]], 0, None)
            axes.errorbar(
                loads[these],
                shares[these],
                yerr=reach,
                fmt=marker,
                color=colour,
                markersize=6,
                elinewidth=1.2,
                capsize=2.5,
                label="keeps the SLO" if keeps else "fails",
            )
    goal = capacity.goal.share
    axes.axhline(
        goal, color=style.INK, linewidth=1, linestyle="--", label=f"{goal * 100:.6g} % asked"
    )
    worst = min(float(low.min()), goal)
    margin = 0.12 * (1 - worst) + 1e-4
    axes.set(ylim=(max(0.0, worst - margin), min(1.0, float(high.max())) + margin))
    axes.set(title="requests within the SLO")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:.6g} %"))
    style.list_above(axes)


def _draw_latency(axes: Axes, capacity: Capacity, points: list[Point], name: str) -> None:
    """P50 and P99; a value far above the limit is an arrow at the upper edge."""
    limit_ms = points[0].judged.limits.get(f"{name}_ms")
    seen: list[float] = [] if limit_ms is None else [limit_ms]
    lines: list[tuple[str, list[float], list[float]]] = []
    for number in ("p50", "p99"):
        told = [(_load(capacity, p), _read(p, name, number)) for p in points]
        known = [(load, ms) for load, ms in told if ms is not None]
        lines.append((number, [load for load, _ in known], [ms for _, ms in known]))
        seen += [ms for _, ms in known]
    title = f"{_LABELS[name]} ({name.upper()})"
    axes.set(title=title)
    most = max(seen) if limit_ms is None else min(max(seen), limit_ms * _ABOVE_LIMIT)
    style.scale_time(axes, along="y", low_ms=min(seen), high_ms=most)
    for (number, loads, times), alpha in zip(lines, (0.45, 1.0), strict=True):
        shown = np.minimum(times, most)
        axes.plot(
            *(loads, shown),
            marker="o",
            color=style.DECODE,
            linewidth=1.6,
            markersize=4,
            label=number.upper(),
            alpha=alpha,
        )
        above = [at for at, ms in enumerate(times) if ms > most]
        axes.plot(
            [loads[at] for at in above],
            [most] * len(above),
            "^",
            color=style.DECODE,
            markersize=7,
            alpha=alpha,
        )
    if limit_ms is not None:
        axes.axhline(
            limit_ms,
            color=style.INK,
            linewidth=1,
            linestyle="--",
            label=f"limit {say_time(limit_ms)}",
        )
    style.list_above(axes)


def _draw_backlog(axes: Axes, capacity: Capacity, points: list[Point]) -> None:
    """What shows an overload that no limit sees."""
    loads = [_load(capacity, point) for point in points]
    backlogs = [point.judged.backlog for point in points]
    quarters = {
        "second quarter of the arrivals": [each.before for each in backlogs],
        "last quarter": [each.after for each in backlogs],
    }
    for (label, counts), alpha in zip(quarters.items(), (0.45, 1.0), strict=True):
        axes.plot(
            *(loads, counts),
            marker="o",
            color=style.PART_COLOURS["queue_memory"],
            linewidth=1.6,
            markersize=4,
            label=label,
            alpha=alpha,
        )
    axes.set(title="unanswered requests, mean", ylim=(0, None))
    style.list_above(axes)


def _shade(axes: Axes, capacity: Capacity) -> None:
    """Where it keeps and where it fails; between the two nobody looked."""
    left, right = axes.get_xlim()
    ends = (left, right) if capacity.axis == "rate" else (right, left)
    for point, end, colour in (
        (capacity.kept, ends[0], _KEPT),
        (capacity.failed, ends[1], _FAILED),
    ):
        if point is not None:
            load = _load(capacity, point)
            axes.axvspan(min(load, end), max(load, end), color=colour, alpha=0.06, linewidth=0)
            axes.axvline(load, color=colour, linewidth=1, linestyle=":")
    axes.set_xlim(left, right)


def _scale_load(axes: Axes, capacity: Capacity, points: list[Point]) -> None:
    loads = sorted({_load(capacity, point) for point in points})
    wide = loads[-1] > _LOG_ABOVE * loads[0]
    if wide:
        axes.set_xscale("log")
    edge = [_load(capacity, each) for each in (capacity.kept, capacity.failed) if each is not None]
    ticks = _choose_ticks([*edge, *loads], wide=wide)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda load, _: say_rate(load)))
    axes.set(xlabel="replicas" if capacity.axis == "replicas" else "requests/s that arrive")


def _choose_ticks(loads: list[float], *, wide: bool) -> list[float]:
    """The loads, the edge before the others, but for those too near to one before to be read."""
    place = np.log(loads) if wide else np.array(loads)
    least = np.ptp(place) / _MOST_TICKS
    chosen: list[int] = []
    for at in range(len(loads)):
        if all(abs(place[at] - place[other]) >= least for other in chosen):
            chosen.append(at)
    return sorted(loads[at] for at in chosen)


def _load(capacity: Capacity, point: Point) -> float:
    return point.rate if capacity.axis == "rate" else float(point.replicas)


def _is_told(points: list[Point], name: str) -> bool:
    """Answers of one token have no TPOT; E2E without a limit is of no interest."""
    return name != "e2e" and any(_read(point, name, "p50") is not None for point in points)


def _read(point: Point, name: str, number: str) -> float | None:
    value: float | None = point.result.summary["latency_ms"][name].get(number)
    return value


def _say_title(capacity: Capacity) -> str:
    kept, failed = capacity.kept, capacity.failed
    if kept is None:
        return "Nothing that was tried keeps the SLO"
    if capacity.axis == "replicas":
        return f"{say_who_keeps(kept.replicas)} the SLO at {say_rate(kept.rate)} requests/s"
    said = f"Keeps the SLO up to {say_rate(kept.rate)} requests/s"
    return said if failed is None else f"{said}, fails at {say_rate(failed.rate)}"


def _say_footer(capacity: Capacity) -> str:
    about: dict[str, Any] = capacity.points[0].result.summary["about"]
    names = [about["name"], about["model"], about["device"], about["trace"]]
    said = ", ".join(str(name) for name in names if name)
    replicas = capacity.points[0].replicas
    where = f" on {replicas} replicas" if capacity.axis == "rate" and replicas > 1 else ""
    return f"{said}{where}; latency {say_source(about)}; bars: 95 of 100 cases"
