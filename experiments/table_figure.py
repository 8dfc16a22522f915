"""Latency tables drawn: decodes, prompts, matrices, and the peak or each other beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from calibrate.attention_curves import area_of
from calibrate.curves import Floats
from calibrate.step_parts import Parts
from calibrate.table import Table
from calibrate.table_compare import Kind
from calibrate.table_peak import Peak, share_of_peak
from calibrate.table_schema import TableError
from calibrate.table_seen import Seen, size_of
from experiments import style
from experiments.distribution import NS_PER_MS
from experiments.table_report import Against, KindReport, TableReport
from experiments.words import say_share, say_time

_COLOURS = (style.DECODE, "#d95f02", "#6a51a3", "#8c6d31")
_OPERATORS = {
    "attention_mixed": "#d4cde6",
    "attention_decode": style.DECODE,
    "attention_prefill": "#fd8d3c",
    "linear": "#2171b5",
    "head": "#6a51a3",
}
_MOST_LINES = 5
_MOST_TOKENS = 2048
_DOTS: dict[str, Any] = {"marker": "o", "markersize": 2.4, "linewidth": 1.1}
_PEAK: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 0.9, "alpha": 0.75}


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One kind of one table."""

    name: str
    colour: str
    report: KindReport
    parts: Parts | None
    """None where the table has not all that a step needs."""

    @property
    def table(self) -> Table:
        return self.report.table

    @property
    def peak(self) -> Peak | None:
        return self.report.peak


def draw_tables(reports: Sequence[TableReport], pairs: Sequence[Against], path: Path) -> None:
    """Four panels; PNG. Of several tables the kind they share is drawn, else all kinds, four
    at the most; the footer says which are left out."""
    drawn, left_out = _choose(reports)
    told = [report.table.provenance for report in reports]
    footer = "; ".join(dict.fromkeys(f"{each.source}, on {each.device}" for each in told))
    footer += f"; dots: measured, dashes: the peaks of {_say_devices(drawn)}"
    if left_out:
        footer += f"; not drawn: {'; '.join(left_out)}"
    models = " and ".join(dict.fromkeys(each.report.what.partition(",")[0] for each in drawn))
    ratios = [seen for pair in pairs[:1] for one in pair.found for seen in one.ratios]
    with style.styled():
        title = f"Measured steps of {models}, part by part"
        figure = style.begin(title, footer=footer, size=(11, 7.6))
        (decodes, prompts), (matrices, last) = figure.subplots(2, 2)
        _draw_decodes(decodes, drawn)
        _draw_prompts(prompts, drawn)
        _draw_matrices(matrices, drawn)
        if ratios:
            _draw_seen(last, ratios, along="time, second over first")
            last.set(title=f"{pairs[0].second.name} over {pairs[0].first.name}")
        else:
            first = drawn[0]
            _draw_seen(last, list(_share(first)), along="share of the peak")
            of = f" of {first.name}" if len(drawn) > 1 else ""
            last.set(title=f"share of the peak{of}; above 100 %: from a cache?")
        if len(drawn) > 1:
            handles = [
                Line2D([], [], color=each.colour, label=each.name, **_DOTS) for each in drawn
            ]
            matrices.legend(handles=handles, loc="upper left")
        style.save(figure, path)


def _choose(reports: Sequence[TableReport]) -> tuple[list[_Drawn], list[str]]:
    """What to draw, and what is left out."""
    kinds = [(report, kind) for report in reports for kind in report.kinds]
    held = [{Kind.of(kind.table) for kind in report.kinds} for report in reports]
    common = set.intersection(*held)
    shared = next((Kind.of(kind.table) for _, kind in kinds if Kind.of(kind.table) in common), None)
    chosen = kinds
    if len(reports) > 1 and shared is not None:
        chosen = [(report, kind) for report, kind in kinds if Kind.of(kind.table) == shared]
    drawn = [
        _Drawn(_name(report, kind, chosen), colour, kind, _parts_of(kind.table))
        for (report, kind), colour in zip(chosen, _COLOURS, strict=False)
    ]
    shown = [each.report for each in drawn]
    left_out = [
        f"{report.table.name}: {kind.what}"
        for report, kind in kinds
        if not any(kind is each for each in shown)
    ]
    return drawn, left_out


def _name(
    report: TableReport, kind: KindReport, chosen: Iterable[tuple[TableReport, KindReport]]
) -> str:
    """The file's; the dtypes that tell them apart where one file has several kinds."""
    kinds = [other.what for file, other in chosen if file is report]
    parts = [what.split(", ") for what in kinds]
    differ = [part for part in kind.what.split(", ") if not all(part in each for each in parts)]
    return ", ".join(differ) if len(kinds) > 1 else report.table.name


def _parts_of(table: Table) -> Parts | None:
    try:
        return Parts.of(table)
    except TableError:
        return None


def _say_devices(drawn: Iterable[_Drawn]) -> str:
    names = dict.fromkeys(each.peak.device.name for each in drawn if each.peak is not None)
    return " and ".join(names) or "no known device"


def _draw_decodes(axes: Axes, drawn: Sequence[_Drawn]) -> None:
    """A line for each of a few batches, alike in all tables where they have them."""
    axes.set(title="attention of the decodes in a step, by batch", xlabel="context of each")
    found = [(each, points) for each in drawn for points in each.table.of("attention_decode")]
    held = [{*points.axes["batch"].tolist()} for _, points in found]
    batches = _few(sorted(set.intersection(*held))) if held else []
    for each, points in found:
        own = batches or _few(sorted({*points.axes["batch"].tolist()}))
        for batch in own:
            here = np.flatnonzero(points.axes["batch"] == batch)
            here = here[np.argsort(points.axes["context"][here])]
            context = points.axes["context"][here]
            step_ms = points.calls * points.ns[here] / NS_PER_MS
            axes.plot(context, step_ms, color=each.colour, **_DOTS)
            _label(axes, context[-1], step_ms[-1], f"{batch:,}", each.colour)
            if each.peak is not None:
                tokens = batch * context.astype(float)
                least = points.calls * each.peak.attention_ns(tokens, tokens) / NS_PER_MS
                seen = least > step_ms.min() / 2
                axes.plot(context[seen], least[seen], color=each.colour, **_PEAK)
    _scale(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: say_time(ms)))


def _draw_prompts(axes: Axes, drawn: Sequence[_Drawn]) -> None:
    """Tokens a second of steps with one chunk and nothing else."""
    axes.set(title="prefill rate of steps with one chunk, by its context", xlabel="tokens a chunk")
    for each in drawn:
        for points in each.table.of("attention_prefill"):
            if each.parts is None:
                continue
            tokens = each.parts.tokens
            measured = np.unique(points.axes["chunk"])
            chunk = measured[(measured > 1) & (measured <= tokens.last)]
            fixed_ns = tokens.at_many(chunk) + each.parts.rows.at(1)
            for context in _contexts(points.axes["chunk_context"]):
                before = np.full(len(chunk), context)
                rate = chunk / (fixed_ns + each.parts.chunks.many(chunk, before)) * 1e9
                axes.plot(chunk, rate, color=each.colour, **_DOTS)
                _label(axes, chunk[-1], rate[-1], f"behind {context:,}", each.colour)
            if each.peak is not None:
                axes.plot(
                    chunk, _peak_rate(each.peak, chunk, points.calls), color=each.colour, **_PEAK
                )
    _scale(axes, along=("x",))
    axes.set(ylim=(0, None))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}/s"))


def _peak_rate(peak: Peak, chunk: Any, calls: int) -> Floats:
    """Tokens a second of prompts without a context."""
    attention = calls * peak.attention_ns(area_of(chunk, 0), chunk)
    rate: Floats = chunk / (peak.linear_ns(chunk) + peak.head_ns(1) + attention) * 1e9
    return rate


def _draw_matrices(axes: Axes, drawn: Sequence[_Drawn]) -> None:
    """All that depends on tokens, on plain axes: kernels work in tiles, and times in stairs."""
    axes.set(
        title=f"matrices and norms of all layers, up to {_MOST_TOKENS:,} tokens",
        xlabel="scheduled tokens",
    )
    for each in drawn:
        if each.parts is None:
            continue
        line = each.parts.tokens
        nodes = np.array([node for node in line.nodes if node <= _MOST_TOKENS])
        axes.plot(nodes, line.at_many(nodes) / NS_PER_MS, color=each.colour, **_DOTS)
        if each.peak is not None:
            fine = np.linspace(1, nodes[-1], 400)
            axes.plot(fine, each.peak.linear_ns(fine) / NS_PER_MS, color=each.colour, **_PEAK)
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:,.0f}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: say_time(ms)))


def _share(each: _Drawn) -> Iterator[Seen]:
    if each.peak is not None:
        yield from share_of_peak(each.table, each.peak)


def _draw_seen(axes: Axes, seen: Sequence[Seen], *, along: str) -> None:
    """A dot for each point, over how large what it works on is."""
    for operator, colour in _OPERATORS.items():
        own = whole_of(operator, seen)
        if not own:
            continue
        sizes = [size_of(operator, each.point)[1] for each in own]
        values = [each.value for each in own]
        many = len(own) > 1000
        axes.scatter(
            sizes,
            values,
            s=3 if many else 9,
            alpha=0.35 if many else 0.7,
            linewidth=0,
            color=colour,
            label=operator.replace("_", " "),
            rasterized=True,
        )
    axes.axhline(1, color=style.INK, linewidth=0.9)
    axes.set(xscale="log", xlabel="tokens, rows, chunk or KV tokens", ylabel=along)
    axes.set(ylim=(0, None))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: say_share(share)))
    if axes.get_legend_handles_labels()[0]:
        for handle in axes.legend(markerscale=2, handletextpad=0.2).legend_handles:
            if handle is not None:
                handle.set_alpha(1)


def whole_of(operator: str, seen: Iterable[Seen]) -> list[Seen]:
    """Those of all variants together, where there are such; else those of each."""
    own = [each for each in seen if each.operator == operator]
    return [each for each in own if each.variant == "all"] or own


def _few(values: Sequence[int]) -> list[int]:
    """The first, the last, and some evenly between."""
    if len(values) <= _MOST_LINES:
        return list(values)
    return [values[round(at)] for at in np.linspace(0, len(values) - 1, _MOST_LINES)]


def _contexts(measured: NDArray[np.int64]) -> list[int]:
    """The shortest, the longest, and the one nearest to half of that."""
    half = measured[np.abs(measured - measured.max() / 2).argmin()]
    return sorted({int(measured.min()), int(half), int(measured.max())})


def _label(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.annotate(
        text, (x, y), (4, 0), textcoords="offset points", color=colour, fontsize=7.5, va="center"
    )


def _scale(axes: Axes, *, along: Sequence[str] = ("x", "y")) -> None:
    """Logarithmic, with room at the right for labels."""
    axes.set(**{f"{each}scale": "log" for each in along})
    axes.margins(x=0.1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.0f}"))
    for axis in (axes.xaxis, axes.yaxis)[: len(along)]:
        axis.set_major_locator(LogLocator(10, numticks=12))
        axis.set_minor_formatter(NullFormatter())
