"""How every figure looks: one colour per meaning, times with their unit, a footer."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.words import say_time

PART_COLOURS = {
    "queue_flight": "#c6dbef",
    "queue_seats": "#6baed6",
    "queue_tokens": "#2171b5",
    "queue_memory": "#6a51a3",
    "queue_behind": "#b3a8d1",
    "own": "#41ab5d",
    "compute": "#41ab5d",
    "interference": "#fd8d3c",
    "preemption": "#cb181d",
    "transfer": "#8c6d31",
    "host": "#969696",
    "search": "#c994c7",
}
LIMIT_COLOURS = {
    "none": "#e3e3e3",
    "seats": PART_COLOURS["queue_seats"],
    "tokens": PART_COLOURS["queue_tokens"],
    "blocks": PART_COLOURS["queue_memory"],
    "gate": PART_COLOURS["queue_behind"],
}
INK, QUIET = "#333333", "#777777"
DECODE, CHUNK = "#1b7f79", "#41ab5d"

_RC: dict[Any, Any] = {
    "figure.dpi": 130,
    "axes.edgecolor": "#b0b0b0",
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titlepad": 7,
    "axes.titlecolor": INK,
    "axes.labelsize": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ececec",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "font.size": 9,
    "text.parse_math": False,  # ids and names of files may have a $
}
_FOOTER_CHARACTERS_PER_INCH = 14
_LOG_ABOVE = 30
"""A quantity whose values span more than this is shown on a logarithmic axis."""


@contextmanager
def styled() -> Iterator[None]:
    """The look of all figures, undone afterwards."""
    with sns.axes_style("ticks"), sns.plotting_context("paper"), mpl.rc_context(_RC):
        yield


def begin(title: str, *, footer: str, size: tuple[float, float]) -> Figure:
    """An empty figure that says what is to be seen, and below where its times come from."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.008, ha="left", fontsize=12, fontweight="bold", color=INK)
    lines = textwrap.fill(footer, width=int(_FOOTER_CHARACTERS_PER_INCH * size[0]))
    figure.supxlabel(lines, x=0.008, ha="left", fontsize=8, color=QUIET)
    return figure


def save(figure: Figure, path: Path) -> Path:
    for axes in figure.axes:
        sns.despine(ax=axes)
    figure.savefig(path)
    return path


def scale_time(axes: Axes, *, along: str, low_ms: float, high_ms: float) -> None:
    """Label an axis of milliseconds; logarithmic where the values span decades."""
    axis = axes.xaxis if along == "x" else axes.yaxis
    if low_ms > 0 and high_ms / low_ms > _LOG_ABOVE:
        axes.set(**{f"{along}scale": "log"})
        axis.set_major_locator(LogLocator(10, numticks=12))
        axis.set_minor_formatter(NullFormatter())
    else:
        axes.set(**{f"{along}lim": (0, high_ms * 1.05)})
    axis.set_major_formatter(FuncFormatter(lambda ms, _: say_time(ms)))


def list_above(axes: Axes) -> None:
    """The legend in one line at the right, level with the panel's title."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles,
        labels,
        loc="lower right",
        bbox_to_anchor=(1, 0.99),
        ncols=len(labels),
        borderaxespad=0,
        handlelength=1,
        handleheight=1,
        columnspacing=1.4,
    )


def choose_clock(span_ns: float) -> tuple[str, float]:
    """(unit, nanoseconds in it) in which to label an axis of simulated time."""
    for unit, size_ns in (("h", 3.6e12), ("min", 6e10), ("s", 1e9), ("ms", 1e6)):
        if span_ns >= 5 * size_ns:
            return unit, size_ns
    return "µs", 1e3
