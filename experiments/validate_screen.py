"""A validation on a terminal: real, predicted and how far off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.events_screen import show_events
from experiments.fidelity import STATISTICS
from experiments.words import say_count, say_time

NAMES = {
    "ttft_ms": "TTFT",
    "ttft_from_queued_ms": "TTFT from queued",
    "tpot_ms": "TPOT",
    "e2e_ms": "E2E",
}

_MORE = ("each", "KS", "W1")
"""Mean absolute error of single requests in percent, Kolmogorov-Smirnov distance, Wasserstein
distance in the unit of the row."""
_IN_BUDGET = ("ttft_ms", "tpot_ms", "e2e_ms")


def show_validation(report: Mapping[str, Any], screen: Console) -> None:
    """Made for 100 columns; errors are shares of the real value."""
    show_comparison(report, screen)
    for said in _say_blocks(report["kv_blocks"]):
        screen.print(Text(said))
    if report["fitted"] is not None:
        screen.print(Text(f"\n{_say_fit(report['fitted'])}"))
        screen.print(_tabulate_fit(report["fitted"], report["others"]))
    if "budget" in report:
        screen.print(Text("\nOne effect off at a time: how far off the prediction is then"))
        screen.print(_tabulate_budget(report))
    if "events" in report:
        show_events(report["events"], screen)


def show_comparison(report: Mapping[str, Any], screen: Console) -> None:
    """Real, predicted and how far off; no more than every report has."""
    latency = report["latency"]
    modelled = "modelled: " if latency["modelled"] else ""
    screen.print(Text.assemble("\n", (report["case"], "bold cyan"), f"  {report['engine']}"))
    screen.print(Text(f"{latency['kind']}: {modelled}{latency['source']}", style="dim"))
    for note in report["notes"]:
        screen.print(Text(f"! {note}", style="yellow"))
    screen.print(_tabulate_metrics(report))
    screen.print(_tabulate_totals(report))


def _say_blocks(blocks: Mapping[str, Any] | None) -> Iterator[str]:
    if blocks is None:
        return
    terms = ", ".join(f"{term} {part['blocks']:,.0f}" for term, part in blocks["uncertain"].items())
    unsure = f"; uncertain terms, in blocks: {terms}" if terms else ""
    if blocks["recorded"] is None:
        yield f"KV blocks were not recorded: {blocks['used']:,} are taken{unsure}"
    else:
        off = say_off(blocks["error_pct"])
        yield (
            f"KV blocks: {blocks['derived']:,} derived, {blocks['recorded']:,} recorded ({off});"
            f" {blocks['used']:,} are taken{unsure}"
        )


def _tabulate_metrics(report: Mapping[str, Any]) -> Table:
    table = _table("", *map(name_statistic, STATISTICS), *_MORE)
    for metric, cells in report["metrics"].items():
        unit, ms = _choose_unit(cells["mean"]["real"])
        for row, label in (("real", f"{NAMES[metric]}, {unit}"), ("predicted", "  predicted")):
            said = (f"{cells[name][row] / ms:.4g}" for name in STATISTICS)
            table.add_row(label, *said, style="bold cyan" if row == "real" else "")
        table.add_row("  off, %", *_say_errors(report, metric, ms), style="bold")
        for bounds in _say_bounds(cells):
            table.add_row(*bounds, style="dim")
        for name, other in report["others"].items():
            if metric in other["metrics"]:
                table.add_row(f"  {name}, %", *_say_errors(other, metric, ms), style="dim")
        table.add_section()
    return table


def _say_bounds(cells: Mapping[str, Any]) -> Iterator[list[str]]:
    """A row of lower bounds of the errors and one of upper ones; none where all are unknown."""
    for bound, label in (("low_pct", "    95 %: from"), ("high_pct", "    to")):
        if any(cells[name][bound] is not None for name in STATISTICS):
            yield [label, *(say_percent(cells[name][bound]) for name in STATISTICS)]


def _choose_unit(ms: float) -> tuple[str, float]:
    return ("s", 1e3) if ms >= 1e3 else ("ms", 1.0)


def _tabulate_totals(report: Mapping[str, Any]) -> Table:
    table = _table("", "real", "predicted", "off")
    for name, label in (
        ("makespan_s", "makespan, s"),
        ("requests_per_s", "requests/s"),
        ("output_tokens_per_s", "output tokens/s"),
    ):
        cell = report[name]
        said = (say_count(cell["real"]), say_count(cell["predicted"]), say_off(cell["error_pct"]))
        table.add_row(label, *said)
    preemptions = report["preemptions"]
    real = "not recorded" if preemptions["real"] is None else f"{preemptions['real']:,}"
    table.add_row("preemptions", real, f"{preemptions['predicted']:,}", "")
    return table


def _say_fit(fitted: Mapping[str, Any]) -> str:
    if fitted["floored"]:
        return "Nothing fitted: even without host time the first half is predicted too long."
    name, what, where = (
        ("launch_ns", "Launch time", "step that no graph replays")
        if "launch_ns" in fitted
        else ("host_ns", "Host time", "step")
    )
    return (
        f"{what} fitted on the first half of the requests: {say_time(fitted[name] / 1e6)} a"
        f" {where}, instead of {say_time(fitted[f'unfitted_{name}'] / 1e6)}"
        f" ({fitted['simulations']} simulations). The second half judges it:"
    )


def _tabulate_fit(fitted: Mapping[str, Any], others: Mapping[str, Any]) -> Table:
    table = _table("off, %", *map(name_statistic, STATISTICS), *_MORE)
    judging = fitted["second_half"]
    beside = (
        *((f"  {name}", other["second_half"]) for name, other in others.items()),
        ("  unfitted", fitted["unfitted_second_half"]),
        ("  first half", fitted["first_half"]),
        ("  all, unfitted", fitted["unfitted"]),
    )
    for metric, cells in judging["metrics"].items():
        unit, ms = _choose_unit(cells["mean"]["real"])
        own = _say_errors(judging, metric, ms)
        table.add_row(f"{NAMES[metric]}, {unit}", *own, style="bold")
        for label, told in beside:
            if metric in told["metrics"]:
                table.add_row(label, *_say_errors(told, metric, ms), style="dim")
        table.add_section()
    return table


def _tabulate_budget(report: Mapping[str, Any]) -> Table:
    """Errors of mean and P50, and the mean absolute one of single requests."""
    shown = [metric for metric in _IN_BUDGET if metric in report["metrics"]]
    heads = [f"{NAMES[metric]}\n{name}" for metric in shown for name in ("mean", "P50", "each")]
    table = _table("off, %", *heads)
    for row in ({"effect": "as above", **report}, *report["budget"]):
        if "refused" in row:
            table.add_row(row["effect"], "refused")
            continue
        cells: list[str] = []
        for metric in shown:
            errors = row["metrics"][metric]
            cells += (say_percent(errors[name]["error_pct"]) for name in ("mean", "p50"))
            cells.append(f"{row['per_request_mape_pct'][metric]:.1f}")
        table.add_row(row["effect"], *cells)
    return table


def _say_errors(told: Mapping[str, Any], metric: str, ms: float) -> list[str]:
    """Percent, the KS distance, and the Wasserstein distance in the row's unit."""
    cells = told["metrics"][metric]
    return [
        *(say_percent(cells[name]["error_pct"]) for name in STATISTICS),
        f"{told['per_request_mape_pct'][metric]:.1f}",
        f"{cells['ks']:.3f}",
        f"{cells['wasserstein_ms'] / ms:.3g}",
    ]


def say_percent(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:+.1f}"


def say_off(percent: float | None) -> str:
    return "-" if percent is None else f"{say_percent(percent)} %"


def name_statistic(statistic: str) -> str:
    return statistic.upper() if statistic.startswith("p") else statistic


def _table(*columns: str) -> Table:
    """The first column is words."""
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False, padding=(0, 1)
    )
    for at, name in enumerate(columns):
        table.add_column(name, justify="right" if at else "left", no_wrap=True)
    return table
