"""The figures of a run. Each title says what is seen; metrics.md defines every quantity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import style
from experiments.attribution import PARTS_IN_WORDS, read_parts
from experiments.context import Frames
from experiments.distribution import NS_PER_MS
from experiments.figures_over_time import draw_composition, draw_load
from experiments.metrics import read_latencies
from experiments.windows import Floats
from experiments.words import say_share, say_source, say_time

Draw = Callable[[Frames, dict[str, Any], str], Figure]

_NAMES = {
    "ttft": "Time to first token (TTFT)",
    "tpot": "Time per output token (TPOT)",
    "e2e": "End to end (E2E)",
}
_MARKED = (50, 90, 99)
_MARKER: dict[str, Any] = {"color": style.INK, "markersize": 3.5}
_BUCKETS = (0, 25, 50, 75, 90, 99, 100)
"""Percentiles of TTFT between which requests are averaged."""


def draw(frames: Frames, summary: dict[str, Any], folder: Path) -> list[Path]:
    """Draw all figures of a run into an existing folder, as PNG; returns their paths.

    Nothing is drawn, and nothing returned, where no request was answered.
    """
    if frames["requests"].empty:
        return []
    about = summary["about"]
    footer = f"{_name_run(about)}; latency {say_source(about)}"
    figures: dict[str, Draw] = {
        "latency-cdf": draw_latencies,
        "load-over-time": draw_load,
        "ttft-over-arrival": draw_ttft_over_arrival,
        "steps-over-time": draw_composition,
        "ttft-parts-by-percentile": draw_ttft_by_percentile,
    }
    with style.styled():
        return [
            style.save(paint(frames, summary, footer), folder / f"{name}.png")
            for name, paint in figures.items()
        ]


def draw_latencies(frames: Frames, summary: dict[str, Any], footer: str) -> Figure:
    """The distribution of TTFT, TPOT and E2E over requests."""
    latencies = read_latencies(frames["requests"]) / NS_PER_MS
    ttft = summary["latency_ms"]["ttft"]
    title = (
        f"Half of the first tokens come within {say_time(ttft['p50'])},"
        f" 99 % within {say_time(ttft['p99'])}"
    )
    figure = style.begin(title, footer=footer, size=(10, 3.8))
    for at, (axes, (name, label)) in enumerate(
        zip(figure.subplots(1, 3, sharey=True), _NAMES.items(), strict=True)
    ):
        values = latencies[name].dropna()
        axes.set(title=label, xlabel="", ylabel="share of requests" if at == 0 else "")
        if values.empty:
            continue
        low, high = values.quantile(0.002), values.max()
        style.scale_time(axes, along="x", low_ms=float(low), high_ms=float(high))
        sns.ecdfplot(x=values, ax=axes, color=style.DECODE, linewidth=1.8)
        axes.set(xlabel="")
        said = [summary["latency_ms"][name][f"p{percentile}"] for percentile in _MARKED]
        axes.plot(said, [percentile / 100 for percentile in _MARKED], "o", **_MARKER)
        to_axes = axes.transData + axes.transAxes.inverted()
        on_the_right = to_axes.transform((said[0], 0.0))[0] > 0.55
        axes.text(
            *((0.04, 0.95) if on_the_right else (0.97, 0.05)),
            "\n".join(
                f"P{percentile} {say_time(value):>8}"
                for percentile, value in zip(_MARKED, said, strict=True)
            ),
            transform=axes.transAxes,
            ha="left" if on_the_right else "right",
            va="top" if on_the_right else "bottom",
            family="monospace",
            color=style.INK,
        )
    return figure


def draw_ttft_over_arrival(frames: Frames, summary: dict[str, Any], footer: str) -> Figure:
    """Each request's TTFT when it arrived, in the colour of its largest part."""
    requests = frames["requests"]
    parts = read_parts(requests, knows_alone=summary["about"]["knows_alone"])
    largest = parts.idxmax(axis="columns")
    counts = largest.value_counts()
    words = PARTS_IN_WORDS[str(counts.index[0])]
    share = counts.iloc[0] / len(requests)
    figure = style.begin(
        f"The largest part of TTFT is “{words.label}” for {say_share(share)} of the requests",
        footer=footer,
        size=(10, 4.6),
    )
    axes = figure.subplots()
    ttft_ms = requests["ttft_ns"] / NS_PER_MS
    since_ns = requests["arrival_ns"] - requests["arrival_ns"].min()
    unit, unit_ns = style.choose_clock(since_ns.max())
    style.scale_time(axes, along="y", low_ms=ttft_ms.min(), high_ms=ttft_ms.max())
    many = len(requests) > 3000
    sns.scatterplot(
        x=since_ns / unit_ns,
        y=ttft_ms,
        hue=largest,
        hue_order=[part for part in parts if part in counts],
        palette=style.PART_COLOURS,
        s=8 if many else 18,
        alpha=0.55 if many else 0.9,
        linewidth=0,
        rasterized=True,
        ax=axes,
    )
    axes.set(xlabel=f"arrival: time since the first one [{unit}]", ylabel="time to first token")
    handles, names = axes.get_legend_handles_labels()
    for handle in handles:
        handle.set(alpha=1, markersize=6)
    labels = [f"{PARTS_IN_WORDS[name].label}  ({counts[name]:,})" for name in names]
    axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1, 0.5), title="largest part")
    return figure


def draw_ttft_by_percentile(frames: Frames, summary: dict[str, Any], footer: str) -> Figure:
    """Mean parts of TTFT, from the fastest quarter of the requests to the slowest percent."""
    requests = frames["requests"]
    parts = read_parts(requests, knows_alone=summary["about"]["knows_alone"]) / NS_PER_MS
    rank = np.argsort(np.argsort(requests["ttft_ns"].to_numpy(), kind="stable"), kind="stable")
    bucket = np.searchsorted(_BUCKETS, (rank + 0.5) / len(requests) * 100) - 1
    means = parts.groupby(bucket).mean()
    totals = means.sum(axis="columns")
    shares = means.div(totals, axis="index")
    top = str(shares.iloc[-1].idxmax())
    figure = style.begin(
        f"The slowest requests spend {say_share(shares.iloc[-1][top])} of their TTFT on"
        f" “{PARTS_IN_WORDS[top].label}”",
        footer=footer,
        size=(11, 4.4),
    )
    left, right = figure.subplots(1, 2, sharex=True)
    shown = [part for part in means if shares[part].abs().max() >= 0.005]
    tops = _stack(left, means[shown])
    for at, total in enumerate(totals):
        left.annotate(
            say_time(total),
            (at, tops[at]),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=style.INK,
        )
    style.scale_time(left, along="y", low_ms=0, high_ms=float(tops.max()))
    left.set(title="mean time to first token", ylim=(None, float(tops.max()) * 1.08))
    _stack(right, shares[shown])
    right.set(title="share of it", ylim=(None, 1))
    right.yaxis.set_major_formatter(lambda share, _: say_share(round(share, 6)))
    counts = np.bincount(bucket)
    ranges = [f"P{_BUCKETS[at]}-{_BUCKETS[at + 1]}\n{counts[at]:,} req." for at in means.index]
    for axes in (left, right):
        axes.set(xticks=range(len(means)), xticklabels=ranges)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0)
    handles, labels = right.get_legend_handles_labels()
    right.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _stack(axes: Axes, heights: pd.DataFrame) -> Floats:
    """A bar for each row, negative parts below zero; returns where the bars end above."""
    above, below = np.zeros(len(heights)), np.zeros(len(heights))
    for part, column in heights.items():
        values = column.to_numpy()
        axes.bar(
            range(len(heights)),
            values,
            bottom=np.where(values >= 0, above, below),
            width=0.66,
            linewidth=0,
            color=style.PART_COLOURS[str(part)],
            label=PARTS_IN_WORDS[str(part)].label,
        )
        above, below = above + values.clip(min=0), below + values.clip(max=0)
    return above


def _name_run(about: dict[str, Any]) -> str:
    names = [about["name"], about["model"], about["device"], about["trace"]]
    return ", ".join(str(name) for name in names if name)
