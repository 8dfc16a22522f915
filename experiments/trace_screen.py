"""The statistics of a trace on a terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from experiments.screen import make_table
from experiments.words import say_count, say_share, say_time
from traces.statistics import NS_PER_S, Arrivals, Sessions, Sharing, Spread, Statistics

_MOST_TENANTS = 5


def show_trace(statistics: Statistics, console: Console, *, form: str) -> None:
    """Print what a trace is like, made for 100 columns; `form` says what kind of file it is."""
    arrivals = statistics.arrivals
    parts: list[RenderableType] = [
        Text.assemble((statistics.name, "bold cyan"), f"  {form}"),
        Text(_count(statistics), style="dim"),
        *(Text(f"! {what}: {n:,}", style="yellow") for what, n in statistics.notes.items() if n),
        "",
        _tabulate_lengths(statistics),
        "",
        *_show_arrivals(statistics.requests, arrivals),
        *_say_sharing(statistics.sharing),
        *_say_people(statistics),
    ]
    console.print(Group(*parts))


def _show_arrivals(requests: int, arrivals: Arrivals) -> list[RenderableType]:
    """Nothing of arrivals that are all one."""
    if arrivals.requests_per_s is None:
        return []
    return [
        _tabulate_arrivals(arrivals),
        *map(Text, _say_stamps(requests, arrivals)),
        *(Text(f"! {doubt}", style="yellow") for doubt in _doubt(arrivals)),
        "",
    ]


def _count(statistics: Statistics) -> str:
    arrivals = statistics.arrivals
    said = f"{statistics.requests:,} request" + "s" * (statistics.requests > 1)
    if statistics.requests == 1:
        said += ": there is no rate to speak of"
    elif arrivals.requests_per_s is None:
        said += ", all at one instant: there are no arrival times to speak of"
    else:
        tokens = statistics.prompt_tokens.total, statistics.output_tokens.total
        prompts, answers = (f"{total / arrivals.span_s:,.0f}" for total in tokens)
        said += (
            f" in {say_time(arrivals.span_s * 1e3)}: {arrivals.requests_per_s:.3g} requests/s,"
            f" {prompts} prompt tokens/s, {answers} output tokens/s"
        )
    if statistics.shifted_by is not None:
        said += f"\ntime 0 is the first request, in the file {statistics.shifted_by}"
    return said


def _tabulate_lengths(statistics: Statistics) -> Table:
    table = make_table("tokens")
    for column in ("mean", "P50", "P90", "P99", "max", "in all"):
        table.add_column(column, justify="right")
    rows: dict[str, Spread] = {
        "prompt": statistics.prompt_tokens,
        "output": statistics.output_tokens,
    }
    for label, row in rows.items():
        ranks = (f"{value:,.0f}" for value in (row.p50, row.p90, row.p99, row.max))
        table.add_row(label, f"{row.mean:,.1f}", *ranks, say_count(row.total))
    return table


def _tabulate_arrivals(arrivals: Arrivals) -> Table:
    """Beside what a Poisson process would show, which is 1 everywhere."""
    table = make_table("burstiness (Poisson: 1)")
    table.add_column("CV of gaps", justify="right")
    values = [arrivals.cv_of_gaps]
    for width, value in arrivals.dispersion.items():
        table.add_column(f"IDC {width} s", justify="right")
        values.append(value)
    table.add_row("", *("-" if value is None else f"{value:,.3g}" for value in values))
    return table


def _say_stamps(requests: int, arrivals: Arrivals) -> list[str]:
    if arrivals.distinct == requests:
        said = "Arrival times: all distinct"
    else:
        said = (
            f"Arrival times: {arrivals.distinct:,} distinct ones for {requests:,} requests, up to"
            f" {arrivals.most_at_once:,} at once (equal times keep the file's order)"
        )
    if arrivals.resolution_ns is not None:
        said += f"; resolution {say_time(arrivals.resolution_ns / 1e6)}"
    return [f"{said}."]


def _doubt(arrivals: Arrivals) -> list[str]:
    """Where the clock that stamped the requests shows more than their arrival."""
    if arrivals.grid_ns is None or arrivals.most_at_once == 1:
        return []
    grid = say_time(arrivals.grid_ns / 1e6)
    said = f"nearly all arrival times lie on a grid of {grid}, several requests on each"
    finer = [f"{width} s" for width in arrivals.dispersion if width * NS_PER_S < arrivals.grid_ns]
    bins = f" and the IDC of {', '.join(finer)}" if finer else ""
    return [f"{said}: the CV of gaps{bins} show the grid, not the arrivals"]


def _say_sharing(sharing: Sharing | None) -> list[Text]:
    if sharing is None:
        said = (
            "No prompt repeats a token of another: nothing is shared, or the file tells no content."
        )
        return [Text(said)]
    return [
        Text(f"Ideal prefix hits: {_exactly(sharing.seen_share)} of the prompt tokens", "bold"),
        Text(
            f"  in whole blocks of {sharing.block_size}, one token of each prompt left to compute:"
            f" {_exactly(sharing.whole_blocks_share)}"
        ),
        Text(
            f"  {sharing.fully_seen:,} prompts were seen before from end to end\n"
            "  (an endless cache that holds every prompt and answer from its arrival on:"
            " no real one finds more)",
            style="dim",
        ),
    ]


def _exactly(share: float) -> str:
    return f"{share * 100:.1f} %"


def _say_people(statistics: Statistics) -> list[Text]:
    lines = []
    if statistics.sessions is not None:
        lines.append(Text(_say_sessions(statistics.sessions, requests=statistics.requests)))
    if statistics.tenants:
        busiest = list(statistics.tenants.items())
        shown = ", ".join(
            f"{name} {say_share(n / statistics.requests)}" for name, n in busiest[:_MOST_TENANTS]
        )
        more = f", and {len(busiest) - _MOST_TENANTS:,} more" * (len(busiest) > _MOST_TENANTS)
        lines.append(Text(f"Tenants: {len(busiest):,} ({shown}{more})."))
    return lines


def _say_sessions(sessions: Sessions, *, requests: int) -> str:
    said = (
        f"Sessions: {sessions.sessions:,} with {sessions.turns_mean:.3g} turns on average, up to"
        f" {sessions.turns_max:,}; {say_share(sessions.of_one_turn / sessions.sessions)} have one"
    )
    alone = requests - sessions.requests
    return f"{said}. {alone:,} requests belong to none." if alone else f"{said}."
