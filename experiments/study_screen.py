"""The comparison of a study on a terminal: a row for each variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.screen import FULL_COLUMNS, list_losses, make_table, say_limits
from experiments.words import say_count, say_share, say_source, say_time

if TYPE_CHECKING:
    from experiments.study import Study, Variant

_NAME_COLUMNS = 20
"""Longer names are folded."""


class _Column(NamedTuple):
    title: str
    read: Callable[[Mapping[str, Any]], float | None]
    say: Callable[[float], str]
    compared: bool
    """With the difference to the first variant in percent."""


def _latency(name: str, number: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda summary: summary["latency_ms"][name].get(number)


_COLUMNS = (
    _Column("TTFT\nmean", _latency("ttft", "mean"), say_time, compared=True),
    _Column("\nP50", _latency("ttft", "p50"), say_time, compared=True),
    _Column("\nP90", _latency("ttft", "p90"), say_time, compared=True),
    _Column("\nP99", _latency("ttft", "p99"), say_time, compared=True),
    _Column("TPOT\nmean", _latency("tpot", "mean"), say_time, compared=True),
    _Column("requests\n/s", lambda s: s["throughput"]["requests_per_s"], say_count, compared=True),
    _Column("output\ntokens/s", lambda s: s["throughput"]["output_tokens_per_s"], say_count, True),
    _Column("pre-\nempted", lambda s: s["counts"]["preemptions"], "{:,}".format, compared=False),
)
_GOODPUT = _Column("goodput\n/s", lambda s: _goodput(s)["requests_per_s"], say_count, compared=True)
"""Shown where a variant has an SLO."""
_SHARES = {
    "used": "used",
    "reserved": "reserved",
    "internal": "internal",
    "external": "external",
    "idle": "idle\ncached",
    "free": "free",
}


def _goodput(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return summary["throughput"]["goodput"] or {"requests_per_s": None}


def show_study(study: Study, console: Console) -> None:
    """Print the tables of a study, made for 80 columns or more, and where its files lie."""
    variants = study.variants
    first, *_ = variants.values()
    about = first.result.summary["about"]
    title = f"{about['name']}  {len(variants)} variants"
    console.print(Text(title, style="bold cyan"))
    modelled = [each.result.summary["about"]["modelled"] for each in variants.values()]
    if any(modelled):
        said = Text(" MODELLED ", style="bold black on yellow")
        which = "these" if all(modelled) else "some of these"
        console.print(said.append(f" no measurement stands behind {which} times", "yellow"))
    console.print(Text(f"latency: {say_source(about)}", style="dim"))
    tables = tabulate_latencies(variants), tabulate_memory(variants)
    for table in tables:
        table.padding = (0, 0, 0, 1 if console.width >= FULL_COLUMNS else 0)
    console.print(
        "", tables[0], *_say_slo(variants), "", _say_middle(variants), tables[1], sep="\n"
    )
    _say_next(study, console)


def _say_slo(variants: Mapping[str, Variant]) -> list[Text]:
    """What goodput means, where all variants mean the same."""
    told = [variant.result.summary["throughput"]["goodput"] for variant in variants.values()]
    limits = {say_limits(goodput["slo"]) for goodput in told if goodput}
    return [Text(f"goodput: {limits.pop()}", style="dim")] if len(limits) == 1 else []


def tabulate_latencies(variants: Mapping[str, Variant]) -> Table:
    """Latency and throughput; below a number its difference to the first variant's."""
    table = _begin_table()
    summaries = {name: variant.result.summary for name, variant in variants.items()}
    limited = any(summary["throughput"]["goodput"] for summary in summaries.values())
    columns = (*_COLUMNS, _GOODPUT) if limited else _COLUMNS
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    first = next(iter(summaries.values()))
    for name, summary in summaries.items():
        base = None if summary is first else first
        table.add_row(Text(name), *(_say_cell(column, summary, base) for column in columns))
    return table


def tabulate_memory(variants: Mapping[str, Variant]) -> Table:
    """Running sequences, waste and its arithmetic, and where the pool went."""
    table = _begin_table()
    for title in ("running", "waste", "by\narithmetic"):
        table.add_column(title, justify="right", no_wrap=True)
    shares = {name: variant.middle["share_of_pool"] for name, variant in variants.items()}
    seen = [part for part in _SHARES if any(each[part] for each in shares.values())]
    for part in seen:
        table.add_column(_SHARES[part], justify="right", no_wrap=True)
    for name, variant in variants.items():
        middle = variant.middle
        running = middle["running"]
        table.add_row(
            Text(name),
            "-" if running is None else f"{running:.1f}",
            Text(say_percent(middle["waste"]), style="bold"),
            say_percent(middle["waste_expected"]),
            *(say_share(shares[name][part]) for part in seen),
        )
    return table


def say_percent(share: float | None) -> str:
    """Two digits after the point below one percent, else one."""
    if share is None:
        return "-"
    return f"{share * 100:.2f} %" if abs(share) < 0.01 else f"{share * 100:.1f} %"


def _begin_table() -> Table:
    table = make_table("variant")
    table.columns[0].no_wrap = False
    table.columns[0].max_width = _NAME_COLUMNS
    table.columns[0].overflow = "fold"
    return table


def _say_cell(column: _Column, summary: Mapping[str, Any], base: Mapping[str, Any] | None) -> Text:
    value = column.read(summary)
    if value is None:
        return Text("-")
    said = Text(column.say(value))
    before = None if base is None or not column.compared else column.read(base)
    if before:
        said.append(f"\n{(value / before - 1) * 100:+.0f} %", style="dim")
    return said


def _say_middle(variants: Mapping[str, Variant]) -> Text:
    pools = {variant.result.summary["memory"]["pool_slots"] for variant in variants.values()}
    said = f"KV pool of {min(pools):,} tokens" if len(pools) == 1 else "KV pools"
    said += ", means over the middle half of each run; waste: of what sequences hold"
    return Text(said, style="bold")


def _say_next(study: Study, console: Console) -> None:
    variants = study.variants
    for note, names in _collect_notes(variants).items():
        whose = "all variants" if len(names) == len(variants) else ", ".join(names)
        console.print(Text(f"! {whose}: {note}", style="yellow"))
    reused = sum(variant.reused for variant in variants.values())
    if reused:
        console.print(
            f"{reused} of {len(variants)} runs were made before; --force makes them again.",
            style="yellow",
            highlight=False,
        )
    for name, variant in variants.items():
        console.print(Text(f"run: {variant.result.path}  {name}", style="dim"), soft_wrap=True)
    console.print(Text.assemble("comparison: ", (str(study.path), "bold cyan")), soft_wrap=True)


def _collect_notes(variants: Mapping[str, Variant]) -> dict[str, list[str]]:
    """Whatever was dropped, clipped, refused or done twice, and in which variants."""
    notes: dict[str, list[str]] = {}
    for name, variant in variants.items():
        summary = variant.result.summary
        for note in (*summary["run"]["notes"], *list_losses(summary)):
            notes.setdefault(note, []).append(name)
    return notes
