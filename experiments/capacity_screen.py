"""What a search for a capacity found, on a terminal: its points, then the answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import ceil

from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.attribution import PARTS_IN_WORDS
from experiments.capacity_result import Capacity, Point
from experiments.screen import list_losses, make_table, say_headline, say_limits
from experiments.slo import Goal
from experiments.words import say_count, say_share, say_time, say_whole

_LEAST_SHARE = 0.0005
"""Of the requests; what is less is not worth a word."""
_SHORT = 10
"""A trace whose arrivals take less than so many answers one after the other tells little of load
that lasts."""


def show_capacity(capacity: Capacity, console: Console) -> None:
    """Print what was found, made for 100 columns."""
    about = capacity.points[0].result.summary["about"]
    if capacity.axis == "replicas":
        about = about | {"replicas": 1}
    console.print(say_headline(about), "", tabulate(capacity), "", sep="\n")
    colour = "green" if capacity.kept else "red"
    console.print(Text(say_answer(capacity), style=f"bold {colour}"))
    for line in list_notes(capacity):
        console.print(Text(f"! {line}", style="yellow"))
    if reused := sum(point.reused for point in capacity.points):
        said = f"{reused} of {len(capacity.points)} runs were made before; --force makes them again"
        console.print(Text(said, style="dim"))
    for point in (capacity.kept, capacity.failed):
        if point is not None:
            said = f"run: {point.result.path}  {_say_load(capacity, point)}"
            console.print(Text(said, style="dim"), soft_wrap=True)
    console.print(Text.assemble("capacity: ", (str(capacity.path), "bold cyan")), soft_wrap=True)


def say_point(point: Point, goal: Goal) -> str:
    """One line, as the search goes on."""
    latency_ms = point.result.summary["latency_ms"]
    late = ", ".join(
        f"{name.upper()} P99 {say_time(latency_ms[name].get('p99'))}" for name in ("ttft", "tpot")
    )
    where = f" on {_count_replicas(point.replicas)}" if point.replicas > 1 else ""
    within = f"{say_whole(point.judged.share)} within the SLO"
    return f"{say_rate(point.rate)} requests/s{where}: {within}, {late}: {_judge(point, goal)}"


def say_rate(rate: float) -> str:
    """Four digits, so that neighbours differ: 12.37, 0.05432, 12,370."""
    return f"{rate:,.0f}" if rate >= 999.95 else f"{rate:.4g}"


def say_who_keeps(replicas: int) -> str:
    """To be followed by what is kept."""
    return f"{_count_replicas(replicas)} {'keeps' if replicas == 1 else 'keep'}"


def tabulate(capacity: Capacity) -> Table:
    """The points, from the least load to the most."""
    first = capacity.points[0]
    limits = first.judged.limits
    shown = [name for name in ("ttft", "tpot", "e2e") if name != "e2e" or "e2e_ms" in limits]
    alone = capacity.axis == "rate" and first.replicas == 1
    table = make_table("requests/s" if capacity.axis == "rate" else "replicas")
    table.columns[0].justify = "right"
    if not alone:
        table.add_column("each\n/s", justify="right")
    table.add_column("within\nSLO", justify="right", no_wrap=True)
    table.add_column("95 % of\ncases", justify="right", no_wrap=True)
    for name in shown:
        limit = limits.get(f"{name}_ms")
        said = "" if limit is None else f"<= {say_time(limit)}"
        table.add_column(f"{name.upper()}\nP50", justify="right", no_wrap=True)
        table.add_column(f"{said}\nP99", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    if "e2e" in shown:
        table.padding = (0, 0, 0, 1)
    for point in capacity.by_load():
        latency_ms = point.result.summary["latency_ms"]
        low, high = point.judged.bounds
        row = [say_rate(point.rate) if capacity.axis == "rate" else f"{point.replicas:,}"]
        row += [] if alone else [say_rate(point.rate / point.replicas)]
        row += [say_whole(point.judged.share), f"{low * 100:.1f}-{high * 100:.1f}"]
        times = [
            _say_limited(latency_ms[name].get(number), limits.get(f"{name}_ms"))
            for name in shown
            for number in ("p50", "p99")
        ]
        verdict = Text(_judge(point, capacity.goal), style="green" if point.keeps else "red")
        table.add_row(*row, *times, verdict, style="bold" if point is capacity.kept else "")
    return table


def say_answer(capacity: Capacity) -> str:
    """What is claimed, and not more: what was seen to keep, and what was seen to fail."""
    goal, kept, failed = capacity.goal, capacity.kept, capacity.failed
    limits = say_limits(capacity.points[0].judged.limits)
    promise = f"{limits} for {_say_goal(goal.share)} of the requests"
    if kept is None:
        assert failed is not None
        what = "rate" if capacity.axis == "rate" else "number of replicas"
        lead = f"No {what} keeps"
        if failed.judged.share >= goal.share and _measure_span(failed) < 2 * _read_answer(failed):
            lead = f"It cannot be told whether any {what} keeps"  # what piles up may be the start
        said = f"{lead} {promise}: even {_say_load(capacity, failed)} {explain(failed, goal)}"
        return f"{said}. Less load did not help." if capacity.futile else f"{said}."
    if capacity.axis == "rate":
        each = f", {say_rate(kept.rate / kept.replicas)} a replica" if kept.replicas > 1 else ""
        said = f"Keeps {promise} up to {say_rate(kept.rate)} requests/s{each}"
        if failed is None:
            return f"{said}, the highest rate tried: so few requests do not overload it."
        return f"{said}; at {say_rate(failed.rate)} it fails: {explain(failed, goal)}."
    said = f"{say_who_keeps(kept.replicas)} {promise} at {say_rate(kept.rate)} requests/s"
    if failed is None:
        return f"{said}."
    verb = "fails" if failed.replicas == 1 else "fail"
    return f"{said}; {_count_replicas(failed.replicas)} {verb}: {explain(failed, goal)}."


def explain(point: Point, goal: Goal) -> str:
    """Why a point fails: who misses what, what their first token waits for, what piles up."""
    judged = point.judged
    said = []
    if judged.share < goal.share:
        most = max(judged.missed.values())
        for name, missed in sorted(judged.missed.items(), key=lambda each: -each[1]):
            if missed and (missed == most or missed / judged.arrived >= _LEAST_SHARE):
                limit = say_limits({name: judged.limits[name]})
                text = f"{_say_part(missed / judged.arrived)} of the requests miss {limit}"
                if name == "ttft_ms" and judged.cause is not None:
                    finding = PARTS_IN_WORDS[judged.cause.part].finding
                    text += f" ({say_share(judged.cause.share)} of them by {finding})"
                said.append(text)
        refused = judged.refused / judged.arrived
        if judged.refused and (judged.refused >= most or refused >= _LEAST_SHARE):
            said.append(f"{_say_part(refused)} are refused")
    if judged.backlog.grows(goal.within):
        backlog = judged.backlog
        said.append(
            f"unanswered requests pile up, from {say_count(backlog.before)} to"
            f" {say_count(backlog.after)} while {backlog.arrived:,} arrive"
        )
    return ", ".join(said)


def list_notes(capacity: Capacity) -> Iterator[str]:
    """What a reader should know before the number is believed."""
    decided = [point for point in (capacity.kept, capacity.failed) if point is not None]
    first = decided[0]
    if unclear := [point for point in decided if _is_unclear(point, capacity.goal)]:
        where = " and ".join(_say_load(capacity, point) for point in unclear)
        yield (
            f"{where} {_say_goal(capacity.goal.share)} lies within the interval of the share: more"
            " requests would tell better"
        )
    if (unseen := first.judged.backlog.unseen) > capacity.goal.within:
        yield (
            f"of {first.judged.arrived:,} requests {say_share(min(unseen, 1))} may pile up by"
            " chance, so a smaller overload is not seen: more requests would tell better"
        )
    # Of what fails the answer may be late for its load, and not long.
    answer_ms = min(_read_answer(each) for each in ([first] if first.keeps else capacity.points))
    span_ms = _measure_span(first)
    if span_ms < _SHORT * answer_ms:
        yield (
            f"{_say_load(capacity, first)} all requests arrive within {say_time(span_ms)}, and an"
            f" answer takes {say_time(answer_ms)}: too short a trace for a load that lasts. Take"
            f" {ceil(_SHORT * answer_ms * first.rate / 1e3):,} requests or more"
        )
    case = capacity.case
    if case.trace.in_sessions and any(point.rate != case.own_rate for point in capacity.points):
        yield (
            f"{case.trace.in_sessions:,} requests belong to sessions, whose pauses shrink as the"
            " rate grows: as many others come between two turns at every rate. More users, each at"
            " the old pace, would press the prefix cache harder"
        )
    if case.config.variants:
        yield "the config's variants are left out: --set what one of them replaces to search that"
    summary = first.result.summary
    yield from summary["run"]["notes"]
    for loss in list_losses(summary):
        yield f"{_say_load(capacity, first)}: {loss}"


def _is_unclear(point: Point, goal: Goal) -> bool:
    """Whether chance may have decided: the share does, and the goal is within its bounds."""
    low, high = point.judged.bounds
    decides = point.keeps or point.judged.share < goal.share
    return decides and low < goal.share <= high


def _measure_span(point: Point) -> float:
    """Milliseconds from the first arrival to the last."""
    return (point.judged.arrived - 1) / point.rate * 1e3


def _read_answer(point: Point) -> float:
    """Mean E2E in milliseconds; 0 where nobody was answered."""
    mean: float = point.result.summary["latency_ms"]["e2e"].get("mean", 0.0)
    return mean


def _say_load(capacity: Capacity, point: Point) -> str:
    if capacity.axis == "rate":
        return f"at {say_rate(point.rate)} requests/s"
    return f"with {_count_replicas(point.replicas).lower()}"


def _count_replicas(replicas: int) -> str:
    return "One replica" if replicas == 1 else f"{replicas:,} replicas"


def _say_part(share: float) -> str:
    """12.3 %, 0.9 %, <0.1 %: never nothing."""
    return say_whole(share) if share >= 0.01 else say_share(share)


def _say_goal(share: float) -> str:
    return f"{share * 100:.6g} %"


def _say_limited(ms: float | None, limit_ms: float | None) -> Text:
    late = ms is not None and limit_ms is not None and ms > limit_ms
    return Text(say_time(ms), style="red" if late else "")


def _judge(point: Point, goal: Goal) -> str:
    """In a few words: what keeps it from keeping."""
    return "keeps" if point.keeps else " + ".join(_list_failures(point, goal))


def _list_failures(point: Point, goal: Goal) -> Iterable[str]:
    judged = point.judged
    if judged.share < goal.share:
        misses = judged.missed | {"refused": judged.refused}
        worst = max(misses, key=lambda name: misses[name])
        said = worst.removesuffix("_ms").upper() if worst != "refused" else worst
        if worst == "ttft_ms" and judged.cause is not None:
            said += f" ({PARTS_IN_WORDS[judged.cause.part].label})"
        yield said
    if judged.backlog.grows(goal.within):
        yield "piles up"
