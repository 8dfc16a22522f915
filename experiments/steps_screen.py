"""A fitted step model on a terminal: what a step costs, and how far that is off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calibrate.step_fit import Errors, Fit, contributions
from calibrate.step_log import FEATURES, StepLog
from experiments.distribution import NS_PER_MS
from experiments.words import say_count, say_share, say_time

_DRIFT = 0.05
"""What the last steps may be off in sum before it is called a drift."""
_FEW = 0.05


class _Part(NamedTuple):
    name: str
    price: str
    seen: str
    share: str


def show_fit(fit: Fit, log: StepLog, screen: Console) -> None:
    """Made for 100 columns."""
    steps, engine_ms = len(log.duration_ns), float(log.duration_ns.sum()) / NS_PER_MS
    screen.print(
        Text.assemble((log.name, "bold cyan"), f"  {steps:,} steps, {say_time(engine_ms)} in all")
    )
    screen.print(Text(_say_mix(log), style="dim"))
    for warning in _warn(fit, log):
        screen.print(Text(f"! {warning}", style="yellow"))
    screen.print("", _tabulate_prices(fit, log))
    screen.print(Text(_say_curve(fit), style="dim"))
    screen.print("", _tabulate_errors(fit))
    screen.print(Text(_say_spread(fit, log)))


def _say_mix(log: StepLog) -> str:
    """Which steps there were; a kind that is missing was never measured."""
    if not {"decodes", "chunks"} <= set(log.known):
        return "the log does not say which steps computed prompts"
    decodes, chunks = (log.features[:, FEATURES.index(name)] > 0 for name in ("decodes", "chunks"))
    return (
        f"{int((decodes & ~chunks).sum()):,} of decodes only, {int((chunks & ~decodes).sum()):,} of"
        f" prompt chunks only, {int((decodes & chunks).sum()):,} of both"
    )


def _warn(fit: Fit, log: StepLog) -> Iterator[str]:
    """All that was left out or is not known, and what makes the errors larger than they look."""
    for what, count in log.notes.items():
        yield f"{what}: {count:,}"
    missing = [name for name in FEATURES if name not in log.known]
    if missing:
        yield f"not in the log, and so without a price: {', '.join(missing)}"
    if not log.host_ns:
        yield "no time between steps is known: a host's pause between them is not in the model"
    if fit.slow_steps:
        yield f"steps that took more than twice what the model says: {fit.slow_steps:,}"
    last = fit.last.errors
    if fit.last.outside > _FEW * last.steps:
        yield (
            f"{fit.last.outside:,} of the last {last.steps:,} steps were unlike any before them:"
            " their errors are those of extrapolation"
        )
    elif abs(last.total) > _DRIFT:
        yield (
            f"the last {last.steps:,} steps are {_say_off(last.total)} off in sum: the machine or"
            " the load changed"
        )


def _tabulate_prices(fit: Fit, log: StepLog) -> Table:
    table = _table("part of a step", "price", "fitted up to", "share of time", left=1)
    for part in _list_parts(fit, log):
        table.add_row(*part)
    return table


def _list_parts(fit: Fit, log: StepLog) -> Iterator[_Part]:
    parts = contributions(fit.prices, log)
    parts["host, between steps"] = float(fit.host_ns * len(log.duration_ns))
    total_ns = sum(parts.values())
    prices, seen = fit.prices, fit.seen
    said = {
        "every step": (_say_ns(min(prices.curve.ns)), None),
        "tokens": (f"a curve of {len(prices.curve.tokens)} nodes", seen.tokens[1]),
        "decodes": (f"{_say_ns(prices.decode_ns)} each", seen.decodes),
        "decode context": (f"{_say_ns(prices.context_token_ns)} a token", seen.decode_context),
        "chunks": (f"{_say_ns(prices.chunk_ns)} each", seen.chunks),
        "area": (f"{_say_ns(prices.pair_ns)} a query and key", seen.area),
        "host, between steps": (_say_ns(fit.host_ns), None),
    }
    for name, (price, most) in said.items():
        seen_up_to = "" if most is None else say_count(most)
        yield _Part(name, price, seen_up_to, say_share(parts[name] / total_ns))


def _say_curve(fit: Fit) -> str:
    curve = fit.prices.curve
    said = (f"{tokens:,}: {_say_ns(ns)}" for tokens, ns in zip(curve.tokens, curve.ns, strict=True))
    return f"Curve over tokens, every step's share included: {', '.join(said)}."


def _tabulate_errors(fit: Fit) -> Table:
    table = _table("off, of the measured", "steps", "mean", "P50", "P90", "in sum")
    for name, errors in (
        ("fitted on", fit.errors),
        ("held out at random", fit.random.errors),
        ("held out at the end", fit.last.errors),
    ):
        table.add_row(name, f"{errors.steps:,}", *_say_errors(errors))
    return table


def _say_errors(errors: Errors) -> list[str]:
    shares = [f"{100 * share:.1f} %" for share in (errors.mean, errors.p50, errors.p90)]
    return [*shares, _say_off(errors.total)]


def _say_off(share: float) -> str:
    return f"{100 * share:+.1f} %"


def _say_spread(fit: Fit, log: StepLog) -> str:
    low, middle, high = (
        f"{100 * (1 + fit.residuals[name]):.0f} %" for name in ("p5", "p50", "p95")
    )
    slowest = int((log.duration_ns / fit.predicted_ns).argmax())
    took, expected = (
        say_time(float(ns[slowest]) / NS_PER_MS) for ns in (log.duration_ns, fit.predicted_ns)
    )
    return (
        f"Unseen steps took between {low} and {high} of what was predicted (P5, P95), half of them"
        f" {middle} or less.\nSlowest against its prediction: {log.name}:{log.line[slowest]} took"
        f" {took}, predicted {expected}."
    )


def _say_ns(ns: float) -> str:
    return say_time(ns / NS_PER_MS)


def _table(*columns: str, left: int = 0) -> Table:
    """The first column and `left` more are words."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for at, name in enumerate(columns):
        table.add_column(name, justify="left" if at <= left else "right")
    return table
