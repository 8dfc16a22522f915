"""How far a simulation has come, on the terminal; silent where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sim.moves import Takes
from sim.parting import Fork
from sim.plan import Departure, Plan
from sim.request import BRANCHES, Request, Sequence

if TYPE_CHECKING:
    from experiments.simulate import Survey

_BETWEEN_UPDATES_S = 0.1
_NS_PER_S = 1e9


def watch_aloud(label: str, *, quiet: bool = False) -> Callable[[Survey], ProgressBar] | None:
    """What makes a progress bar on stderr; None where nobody looks."""
    errors = Console(stderr=True, quiet=quiet)
    if quiet or not errors.is_terminal:
        return None
    return lambda survey: ProgressBar(
        errors, requests=survey.requests, last_arrival_ns=survey.last_arrival_ns, label=label
    )


class ProgressBar:
    """An observer that shows simulated time, answers per second of real time, and time left.

    The bar's end is a projection: simulated time goes on until all of `requests` are answered,
    as many per simulated second as so far, but at least until `last_arrival_ns`.
    """

    def __init__(
        self, console: Console, *, requests: int, last_arrival_ns: int, label: str = ""
    ) -> None:
        self._progress = Progress(
            *([TextColumn(label, markup=False)] if label else ()),
            TextColumn("simulated {task.completed:,.0f} s"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[answered]:,} of {task.fields[requests]:,} requests,"),
            TextColumn("{task.fields[rate]:,.0f}/s,"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, answered=0, requests=requests, rate=0)
        self._requests = requests
        self._last_arrival_ns = last_arrival_ns
        self._answered = 0
        self._started_s = self._shown_s = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None:
        """Nothing to show yet."""

    def refused(self, request: Request, reason: str, now_ns: int) -> None:
        self._answered += 1

    def began(self, plan: Plan, now_ns: int) -> None:
        """Nothing to show."""

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        """Nothing to show."""

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        """Nothing to show."""

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        # Of several answers to a request, the first one stands for it.
        self._answered += sum(departure.sequence.index < BRANCHES for departure in departures)
        real_s = time.monotonic()
        if real_s - self._shown_s < _BETWEEN_UPDATES_S:
            return
        self._shown_s = real_s
        projected_ns = now_ns * self._requests / max(self._answered, 1)
        self._progress.update(
            self._task,
            completed=now_ns / _NS_PER_S,
            total=max(self._last_arrival_ns, projected_ns) / _NS_PER_S,
            answered=self._answered,
            rate=self._answered / (real_s - self._started_s),
        )
