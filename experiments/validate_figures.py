"""A validation drawn: both distributions over each other, and the error of each request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from experiments import style
from experiments.case import METRICS
from experiments.case_kernels import THEM
from experiments.distribution import NS_PER_MS
from experiments.validate_screen import NAMES, say_off
from experiments.validation import Validation
from experiments.windows import Floats

_PREDICTED, _OTHER = "#fd8d3c", "#9e9ac8"
_MARKED = ("p50", "p90", "p99")
_SHOWN_OFF = 0.5
_BANDS = 20
_FEWEST = 3


def draw_validation(validation: Validation, folder: Path) -> list[Path]:
    """CASE-cdf.png and CASE-errors.png in an existing folder; returns their paths."""
    name = validation.case.name
    with style.styled():
        return [
            style.save(_draw_distributions(validation), folder / f"{name}-cdf.png"),
            style.save(_draw_errors(validation), folder / f"{name}-errors.png"),
        ]


def _draw_distributions(validation: Validation) -> Figure:
    metrics = validation.report["metrics"]
    means = ", ".join(
        f"{NAMES[name]} {say_off(cells['mean']['error_pct'])}"
        for name, cells in metrics.items()
        if name != "ttft_from_queued_ms"
    )
    title = f"{validation.case.name}: means are off by {means}"
    figure = style.begin(title, footer=_say_source(validation), size=(11, 3.6))
    shown = _shown(validation)
    for at, (axes, metric) in enumerate(
        zip(np.ravel(figure.subplots(1, len(shown), sharey=True)), shown, strict=True)
    ):
        _draw_distribution(axes, validation, metric)
        axes.set(ylabel="share of requests" if at == 0 else "")
    figure.axes[0].legend(loc="lower right")
    return figure


def _draw_distribution(axes: Axes, validation: Validation, metric: str) -> None:
    cells = validation.report["metrics"][f"{metric}_ms"]
    drawn = {
        "real": (validation.case.real, style.INK, "-", 2.2),
        "predicted": (validation.predicted, _PREDICTED, "-", 1.6),
        **{name: (frame, _OTHER, ":", 1.2) for name, frame in validation.others.items()},
    }
    values = [frame[metric].dropna() / NS_PER_MS for frame, *_ in drawn.values()]
    low, high = (min(v.quantile(0.002) for v in values), max(v.max() for v in values))
    style.scale_time(axes, along="x", low_ms=float(low), high_ms=float(high))
    for (label, (_, colour, line, width)), each in zip(drawn.items(), values, strict=True):
        sns.ecdfplot(x=each, ax=axes, color=colour, linestyle=line, linewidth=width, label=label)
    said = "\n".join(f"{name.upper()} {say_off(cells[name]['error_pct']):>8}" for name in _MARKED)
    axes.text(
        *(0.04, 0.95, f"{said}\nKS  {cells['ks']:>8.3f}"),
        transform=axes.transAxes,
        va="top",
        family="monospace",
        fontsize=7.5,
        color=style.INK,
        bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0},
    )
    axes.set(title=NAMES[f"{metric}_ms"], xlabel="")


def _draw_errors(validation: Validation) -> Figure:
    """By arrival: predicted above real, of each request and in the median around it."""
    report = validation.report
    shown = [metric for metric in _shown(validation) if metric != "ttft_from_queued"]
    each = ", ".join(
        f"{NAMES[f'{metric}_ms']} {report['per_request_mape_pct'][f'{metric}_ms']:.1f} %"
        for metric in shown
    )
    title = f"{validation.case.name}: single requests are off, on average, by {each}"
    footer = f"line: median of the requests around; {_say_source(validation, others=False)}"
    figure = style.begin(title, footer=footer, size=(11, 3.6))
    real = validation.case.real
    unit, size_ns = style.choose_clock(float(np.ptp(real["arrival_ns"])))
    for axes, metric in zip(np.ravel(figure.subplots(1, len(shown))), shown, strict=True):
        off = (validation.predicted[metric] / real[metric] - 1).dropna()
        at = real["arrival_ns"].reindex(off.index).to_numpy() / size_ns
        _draw_off(axes, at, off.to_numpy())
        axes.set(title=f"{NAMES[f'{metric}_ms']}, predicted above real", xlabel=f"arrival, {unit}")
    return figure


def _draw_off(axes: Axes, at: Floats, off: Floats) -> None:
    """Errors beyond the axis are drawn at its edge, as triangles, and counted."""
    limit = min(_SHOWN_OFF, 1.15 * float(np.abs(off).max()) or _SHOWN_OFF)
    beyond = np.abs(off) > limit
    axes.scatter(at[~beyond], off[~beyond], s=9, color=_PREDICTED, alpha=0.5, linewidth=0)
    edge = np.sign(off[beyond]) * limit * 0.98
    for sign, marker in ((1, "^"), (-1, "v")):
        there = edge * sign > 0
        axes.scatter(at[beyond][there], edge[there], s=14, color=_PREDICTED, marker=marker)
    bands = pd.DataFrame({"at": at, "off": off}).groupby(
        np.arange(len(at)) * min(_BANDS, max(1, len(at) // _FEWEST)) // len(at)
    )
    middle = bands.median()
    axes.plot(middle["at"], middle["off"], color=style.INK, linewidth=1.4)
    axes.axhline(0, color=style.QUIET, linewidth=0.8)
    axes.set(ylim=(-limit, limit))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if beyond.any():
        axes.text(
            *(0.98, 0.03, f"{int(beyond.sum()):,} beyond the axis"),
            transform=axes.transAxes,
            ha="right",
            fontsize=7.5,
            color=style.QUIET,
        )


def _shown(validation: Validation) -> list[str]:
    return [metric for metric in METRICS if f"{metric}_ms" in validation.report["metrics"]]


def _say_source(validation: Validation, *, others: bool = True) -> str:
    latency = validation.report["latency"]
    who = f"; {THEM}: its own prediction" if others and THEM in validation.others else ""
    return f"{validation.case.made_by}; {latency['kind']}: {latency['source']}{who}"
