"""A step model drawn: predicted against measured, and where the two part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from calibrate.step_fit import Fit
from calibrate.step_log import StepLog
from experiments import style
from experiments.distribution import NS_PER_MS
from experiments.windows import Floats
from experiments.words import say_share, say_time

_SHOWN_OFF = 1.0
_MOST_BANDS, _STEPS_PER_BAND = 24, 18
_MANY = 5000


def draw_fit(fit: Fit, log: StepLog, path: Path) -> None:
    """Steps that were held out at random, as a model of the others predicts them; PNG."""
    trial = fit.random
    measured_ns = log.duration_ns[trial.rows]
    off = measured_ns / trial.predicted_ns - 1
    title = (
        f"Half of the steps the model has not seen are within {say_share(trial.errors.p50)},"
        f" nine in ten within {say_share(trial.errors.p90)}"
    )
    footer = (
        f"{log.name}: {len(trial.rows):,} of {len(log.duration_ns):,} steps, predicted by a model"
        " of the others; line: median of the steps around, band: 5 % to 95 %"
    )
    if hidden := int((np.abs(off) > _SHOWN_OFF).sum()):
        footer += f"; {hidden:,} farther off than {say_share(_SHOWN_OFF)} are not shown there"
    with style.styled():
        figure = style.begin(title, footer=footer, size=(11, 4))
        left, middle, right = figure.subplots(1, 3)
        _draw_pairs(left, trial.predicted_ns / NS_PER_MS, measured_ns / NS_PER_MS)
        _draw_off(middle, trial.rows.astype(float), off, logarithmic=False)
        middle.set(title="measured above predicted, over the log", xlabel="step")
        tokens = log.features[trial.rows, 0]
        _draw_off(right, tokens, off, logarithmic=True)
        right.set(title="... and over its tokens", xlabel="scheduled tokens")
        style.save(figure, path)


def _draw_pairs(axes: Axes, predicted_ms: Floats, measured_ms: Floats) -> None:
    low = float(min(predicted_ms.min(), measured_ms.min())) * 0.9
    high = float(max(predicted_ms.max(), measured_ms.max())) * 1.1
    _scatter(axes, predicted_ms, measured_ms)
    axes.plot([low, high], [low, high], color=style.INK, linewidth=0.9)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(title="measured against predicted", xlabel="predicted", ylabel="measured")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axis.set_major_formatter(lambda ms, _: say_time(ms))
        axis.set_minor_formatter(NullFormatter())


def _draw_off(axes: Axes, at: Floats, off: Floats, *, logarithmic: bool) -> None:
    _scatter(axes, at, off)
    ranks = pd.Series(at).rank(method="min") - 1
    count = min(_MOST_BANDS, max(1, len(at) // _STEPS_PER_BAND))
    bands = pd.DataFrame({"at": at, "off": off}).groupby(ranks * count // len(at))
    middles = bands["at"].median()
    low, median, high = (bands["off"].quantile(share) for share in (0.05, 0.5, 0.95))
    axes.fill_between(middles, low, high, color=style.DECODE, alpha=0.16, linewidth=0)
    axes.plot(middles, median, color=style.INK, linewidth=1.4)
    axes.axhline(0, color=style.QUIET, linewidth=0.8)
    shown = min(_SHOWN_OFF, 1.1 * float(np.abs(off).max()))
    axes.set(ylim=(-shown, shown))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if logarithmic:
        axes.set(xscale="log")
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:,.0f}")


def _scatter(axes: Axes, x: Floats, y: Floats) -> None:
    size, alpha = (3, 0.15) if len(x) > _MANY else (9, 0.45)
    axes.scatter(x, y, s=size, color=style.DECODE, alpha=alpha, linewidth=0, rasterized=True)
