"""The summary of a run on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from experiments.attribution import PARTS_IN_WORDS
from experiments.words import say_count, say_share, say_source, say_time

_LATENCIES = {
    "ttft": "TTFT  to the first token",
    "tpot": "TPOT  per token after it",
    "itl": "ITL   each gap",
    "e2e": "E2E   to the last token",
    "queue": "queue to admission",
}
_COLUMNS = ("mean", "std", "p50", "p90", "p95", "p99", "max")
FULL_COLUMNS = 100
"""On fewer, down to 80, tables stand closer and bars are shorter."""
_BAR_CELLS, _SHORT_BAR_CELLS = 16, 10
_GIB = 2**30
_LEAST_BYTES = _GIB // 200
"""What two decimals of a GiB do not show: one block."""


def show(
    summary: dict[str, Any], console: Console | None = None, *, folder: Path | None = None
) -> None:
    """Print a summary, made for 80 columns or more; `folder` is where the results lie."""
    console = console or Console()
    narrow = console.width < FULL_COLUMNS
    parts: list[RenderableType] = [
        say_headline(summary["about"]),
        Text(_count(summary), style="dim"),
        *(Text(f"! {note}", style="yellow") for note in list_losses(summary)),
        "",
        _tabulate_latencies(summary["latency_ms"], narrow=narrow),
        "",
        _tabulate_parts(summary["ttft"], narrow=narrow),
        *_say_beside(summary["ttft"]),
        Text(summary["verdicts"]["ttft"], style="bold"),
        "",
        Text(summary["verdicts"]["limits"], style="bold"),
        *map(Text, _say_steps(summary)),
        "",
        *_say_pool(summary),
        _tabulate_memory(summary, narrow=narrow),
        *_say_swaps(summary["swapping"]),
        "",
        *_say_next(summary, folder),
    ]
    console.print(Group(*parts))


def say_headline(about: dict[str, Any]) -> Text:
    """Who runs where and serves what, and where the times come from."""
    text = Text()
    text.append(str(about["name"] or "run"), style="bold cyan")
    where = [about["model"], about["device"]]
    text.append("  " + " on ".join(str(name) for name in where if name))
    if about["replicas"] > 1:
        text.append(f" x {about['replicas']} replicas")
    text.append(f"  <-  {about['trace']}\n")
    if about["modelled"]:
        text.append(" MODELLED ", style="bold black on yellow")
        text.append(" no measurement stands behind these times\n", style="yellow")
    text.append(f"latency: {say_source(about)}", style="dim")
    return text


def _count(summary: dict[str, Any]) -> str:
    counts, rate = summary["counts"], summary["throughput"]
    said = f"{counts['arrived']:,} requests arrived, {counts['finished']:,} answered"
    if rate["requests_per_s"] is not None:
        said += (
            f" in {say_time(rate['makespan_s'] * 1e3)}\n{rate['requests_per_s']:.3g} requests/s,"
            f" {rate['prompt_tokens_per_s']:,.0f} prompt tokens/s,"
            f" {rate['output_tokens_per_s']:,.0f} output tokens/s"
        )
    goodput = rate["goodput"]
    if goodput and goodput["requests_per_s"] is not None:
        said += (
            f"\ngoodput {goodput['requests_per_s']:.3g} requests/s:"
            f" {say_share(goodput['share_of_finished'])} keep {say_limits(goodput['slo'])}"
        )
    return said


def say_limits(slo: Mapping[str, float]) -> str:
    """What counts as good."""
    return ", ".join(
        f"{name.removesuffix('_ms').upper()} <= {say_time(limit)}" for name, limit in slo.items()
    )


def list_losses(summary: dict[str, Any]) -> list[str]:
    """Everything that was dropped, clipped, refused or done twice."""
    counts, swapping = summary["counts"], summary["swapping"]
    lines = [f"{n:,} rejected: {reason}" for reason, n in counts["rejected_for"].items()]
    if counts["clipped_answers"]:
        lines.append(f"{counts['clipped_answers']:,} answers clipped (max_tokens, max_model_len)")
    if counts["preemptions"]:
        lines.append(
            f"{counts['preemptions']:,} preemptions of {counts['preempted_requests']:,} requests"
        )
    if swapping and swapping["recomputed"]:
        lines.append(
            f"{swapping['recomputed']:,} of them recomputed, since the host had no room left"
            f" ({swapping['num_cpu_blocks']:,} blocks: engine.preemption.swap_space)"
        )
    lines += [f"trace: {what}: {n:,}" for what, n in counts["trace_notes"].items() if n]
    return lines


def _tabulate_latencies(latency_ms: dict[str, Any], *, narrow: bool) -> Table:
    table = make_table("latency")
    if narrow:
        table.padding = 0
        table.columns[0].no_wrap = False  # a number that is cut would be a wrong one
    for column in _COLUMNS:
        title = column.upper() if column[0] == "p" else column
        table.add_column(title, justify="right", no_wrap=True)
    for name, label in _LATENCIES.items():
        numbers = latency_ms[name]
        table.add_row(label, *(say_time(numbers.get(column)) for column in _COLUMNS))
    return table


def _tabulate_parts(ttft: dict[str, Any], *, narrow: bool) -> Table:
    table = make_table("where TTFT goes")
    cells = _SHORT_BAR_CELLS if narrow else _BAR_CELLS
    if narrow:
        table.padding = (0, 0, 0, 1)
        table.columns[0].no_wrap = False
    table.add_column("mean", justify="right", no_wrap=True)
    for share in ("of mean", "of variance"):
        table.add_column(share, justify="right", no_wrap=True)
        table.add_column("", width=cells, no_wrap=True)
    for name, row in ttft["parts"].items():
        if row["mean_ms"] == 0 and not row["share_of_variance"]:
            continue
        table.add_row(
            PARTS_IN_WORDS[name].label,
            say_time(row["mean_ms"]),
            say_share(row["share_of_mean"]),
            _draw_bar(row["share_of_mean"], cells=cells, colour="cyan"),
            say_share(row["share_of_variance"]),
            _draw_bar(row["share_of_variance"], cells=cells, colour="magenta"),
        )
    if ttft["requests_with_negative_interference"]:
        count = ttft["requests_with_negative_interference"]
        table.add_row("negative interference", f"{count:,} req.", style="yellow")
    return table


def _say_beside(ttft: dict[str, Any]) -> list[Text]:
    """What is of interest next to the parts, but none of them."""
    if not ttft["saved_by_prefix_mean_ms"]:
        return []
    price = say_time(ttft["saved_by_prefix_mean_ms"])
    return [Text(f"beside the sum: prefix hits, computed alone, would take {price}", style="dim")]


def _draw_bar(share: float | None, *, cells: int, colour: str) -> Text:
    """Eighths of a cell; a negative share is red."""
    if not share:
        return Text()
    eighths = min(cells * 8, round(abs(share) * cells * 8))
    bar = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return Text(bar, style="red" if share < 0 else colour)


def _say_steps(summary: dict[str, Any]) -> list[str]:
    limits, phases = summary["limits"], summary["phases"]
    lines = []
    if limits["idle_share"] is not None:
        lines.append(f"Idle {say_share(limits['idle_share'])} of the makespan.")
    said = []
    for name, row in phases["phases"].items():
        if row["steps"]:
            text = f"{name.replace('_', ' ')} {say_share(row['share_of_busy_time'])}"
            if row.get("intensity_flop_per_byte") is not None:
                text += f" at {say_count(row['intensity_flop_per_byte'])} FLOP/byte"
            said.append(text)
    if said:
        ridge = phases["ridge_flop_per_byte"]
        bound = f" (memory bandwidth binds below the ridge, {say_count(ridge)})" if ridge else ""
        lines.append(f"Steps: {', '.join(said)}{bound}.")
    return lines


def _say_pool(summary: dict[str, Any]) -> list[Text]:
    """How large the pool is, and where the device's memory went."""
    memory = summary["memory"]
    tokens = memory["pool_slots"]
    each = " of each replica" if summary["about"]["replicas"] > 1 else ""
    lines = [
        Text(
            f"KV pool{each}: {memory['num_gpu_blocks']:,} blocks of {memory['block_size']} tokens"
            f" = {tokens:,} tokens; means over the time that steps run",
            style="bold",
        )
    ]
    terms = [
        f"{row['term']} {row['bytes'] / _GIB:.2f}"
        for row in memory["device_memory"]
        if row["bytes"] >= _LEAST_BYTES
    ]
    if terms:
        lines.append(Text(f"GPU memory [GiB]: {', '.join(terms)}", style="dim"))
    return lines


def _tabulate_memory(summary: dict[str, Any], *, narrow: bool) -> Table:
    memory, prefix = summary["memory"], summary["prefix_cache"]
    cells = {
        "idle cached" if part == "idle" else part: say_share(share)
        for part, share in memory["share_of_pool"].items()
        if share
    }
    cells["peak used"] = say_share(memory["peak_used_share"])
    cells["shared"] = say_share(memory["savings_share"])
    cells["prefix hits"] = say_share(prefix["hit_rate"])
    cells["evicted"] = say_count(prefix["evicted_blocks"])
    first, *others = cells
    table = make_table(first)
    table.padding = (0, 0, 0, 0 if narrow else 1)
    for name in others:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    table.add_row(*cells.values())
    return table


def _say_swaps(swapping: dict[str, Any] | None) -> list[Text]:
    """What went to the host and back."""
    if swapping is None:
        return []
    moved = [
        f"{count:,} blocks {way}" + (f" ({size / _GIB:.2f} GiB)" if size is not None else "")
        for way, count, size in (
            ("out", swapping["out_blocks"], swapping["out_bytes"]),
            ("in", swapping["in_blocks"], swapping["in_bytes"]),
        )
    ]
    said = f"Swapped: {swapping['swapped']:,} preemptions, {', '.join(moved)}"
    if swapping["copy_ms"]:
        said += f", {say_share(swapping['share_of_busy_time'])} of the time that steps run"
    used = (
        f"Host memory: {swapping['num_cpu_blocks']:,} blocks, at most"
        f" {swapping['host_peak_blocks']:,} used, {say_share(swapping['host_used_share'])} in the"
        " mean."
    )
    return [Text(f"{said}."), Text(used)]


def _say_next(summary: dict[str, Any], folder: Path | None) -> list[Text]:
    simulator = summary["simulator"]
    said = (
        f"{simulator['steps']:,} steps simulated in {simulator['wall_s']:.2f} s,"
        f" {simulator['cpu_s']:.2f} CPU-seconds"
    )
    if simulator["requests_per_cpu_s"] is not None:
        said += f" ({simulator['requests_per_cpu_s']:,.0f} requests per CPU-second)"
    lines = [Text(said, style="dim")]
    if folder is not None:
        lines.append(Text.assemble("results: ", (str(folder), "bold cyan")))
        lines.append(
            Text(
                "look at figures/ in it; change one thing with --set engine.max_num_seqs=N"
                " and compare",
                style="dim",
            )
        )
    return lines


def make_table(title: str) -> Table:
    """A table in the style of all reports; the first column is left-aligned."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column(title, no_wrap=True)
    return table
