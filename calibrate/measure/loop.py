"""In which order what is measured, for how long, and what happens when memory runs out."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Protocol, TypeVar

from calibrate.measure.grid import Group, Point
from calibrate.measure.log import Log
from calibrate.measure.random_steps import RandomStep
from calibrate.measure.statistics import deviation, settled
from calibrate.measure.timers import Reading

PASSES = 3
MOST_PASSES = 5
"""Of points on which the passes do not agree."""
_GRID_SHARE = 0.6
"""Of each pass; whole steps have the rest."""

T = TypeVar("T")
Watch = Callable[[int, int, str], None]
"""watch(done, of how many, what)."""


class Measurable(Protocol):
    """What the loop needs of `bench.Bench`."""

    def read(self, point: Point) -> Reading: ...

    def read_step(self, step: RandomStep) -> Reading: ...

    def release(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class Loop:
    """One measurement, from where its log has got to.

    The first pass goes through the grid tier by tier, each tier shuffled, until its share of
    the budget is spent; what it did not reach is cut, and recorded as cut. The first tier is
    measured whatever the budget is. Later passes go through what is left in other orders. The
    whole steps are measured in each pass, behind the points; then points on which passes do not
    agree are measured again, as long as there is time.
    """

    bench: Measurable
    log: Log
    groups: Sequence[Group]
    steps: Sequence[RandomStep]
    budget_s: float
    seed: int
    refusals: tuple[type[BaseException], ...]
    """What the bench raises for a point that cannot be measured: memory, or no such kernel."""
    watch: Watch = lambda *_: None
    clocks: Callable[[], dict[str, str]] = dict
    """The device's, at this moment: asked at the end of each pass, when it is warm."""
    now_s: Callable[[], float] = time.monotonic
    _refused: list[Point] = field(init=False)
    _done: int = 0
    _total: int = 0

    def __post_init__(self) -> None:
        points = (point for group in self.groups for point in group.points)
        self._refused = [point for point in points if point.key in self.log.refused]

    def run(self) -> None:
        """Measure what is not in the log yet, and close it with an `end` line."""
        self._total = PASSES * (sum(len(g.points) for g in self.groups) + len(self.steps))
        kept = self._first_pass()
        self._total = PASSES * (len(kept) + len(self.steps))
        self._take_steps(turn=0)
        self._ask_clocks(turn=0)
        for turn in range(1, PASSES):
            for point in self._shuffled(kept, turn):
                if self._out_of_time(turn=turn, steps=False):
                    break
                self._take(point, turn)
            self._take_steps(turn=turn)
            self._ask_clocks(turn=turn)
        self._settle(kept)
        if not self.log.has("end", 0):
            self.log.add({"kind": "end", "key": "end", "pass": 0})

    def _first_pass(self) -> list[Point]:
        order = sorted(self._shuffled(self.groups, 0), key=lambda group: group.tier)
        kept: list[Point] = []
        cut: list[Point] = []
        closed = self.log.cut is not None
        for group in order:
            # One that was begun is ended: half a line misleads.
            known = any(self.log.has(point.key, 0) for point in group.points)
            if not known and group.tier and (closed or self._out_of_time(turn=0, steps=False)):
                cut += group.points
                continue
            for point in self._shuffled(group.points, 0):
                self._take(point, 0)
            kept += group.points
        if not closed:
            by = Counter(point.operator for point in cut)
            self.log.add({"kind": "cut", "points": len(cut), "by": dict(sorted(by.items()))})
        return kept

    def _take_steps(self, *, turn: int) -> None:
        for index, step in self._shuffled(enumerate(self.steps), turn):
            key = f"step/{index}"
            if not self.log.has(key, turn) and self._out_of_time(turn=turn, steps=True):
                continue
            line = {"kind": "step", "step": step.kind, "kv_format": step.format}
            self._read(key, turn, partial(self.bench.read_step, step), line, spans=step.spans)
            self._tick(f"whole steps, pass {turn + 1}")

    def _ask_clocks(self, *, turn: int) -> None:
        clocks = {} if self.log.has("clocks", turn) else self.clocks()
        if clocks:
            self.log.add({"kind": "clocks", "key": "clocks", "pass": turn, "clocks": clocks})

    def _settle(self, kept: Iterable[Point]) -> None:
        """Again what the passes do not agree on, the rest of the budget."""
        for turn in range(PASSES, MOST_PASSES):
            noisy = [
                point
                for point in kept
                if len(found := self.log.medians[point.key]) >= PASSES and not settled(found)
            ]
            self._total += len(noisy)
            for point in self._shuffled(noisy, turn):
                if self.log.spent_s >= self.budget_s:
                    return
                self._take(point, turn)

    def _take(self, point: Point, turn: int) -> None:
        line = {
            "kind": "point",
            "operator": point.operator,
            "variant": point.variant,
            "kv_format": point.format,
        }
        if any(map(point.covers, self._refused)):
            if point.key not in self.log.refused:
                self._refuse(point.key, turn, "larger than what could not be measured")
        elif not self._read(
            point.key, turn, partial(self.bench.read, point), line, axes=point.place
        ):
            self._refused.append(point)
        self._tick(f"{point.operator}, pass {turn + 1}")

    def _read(
        self, key: str, turn: int, read: Callable[[], Reading], line: dict[str, Any], **more: Any
    ) -> bool:
        """Measure, unless the log has it; False where that was not possible."""
        if self.log.has(key, turn):
            return True
        start_s, refused = self.now_s(), None
        try:
            reading = read()
        except self.refusals as error:
            refused = str(error).partition("\n")[0]
        spent: dict[str, Any] = {"spent_s": round(self.now_s() - start_s, 6)}
        if refused is not None:
            # Out of the handler, where nothing of the failed call is kept any more.
            self.bench.release()
            self._refuse(key, turn, refused, **spent)
            return False
        told = {
            "median_ns": round(median(reading.ns), 3),
            "mad_ns": round(deviation(reading.ns), 3),
            "reps": len(reading.ns),
            "clock": reading.clock,
        }
        if reading.eager_ns is not None and reading.launch_ns is not None:
            told |= {"eager_ns": round(reading.eager_ns), "launch_ns": round(reading.launch_ns)}
        self.log.add({**line, "key": key, "pass": turn, **more, **told, **spent})
        return True

    def _refuse(self, key: str, turn: int, reason: str, **spent: float) -> None:
        line = {"kind": "unmeasurable", "key": key, "pass": turn, "reason": reason}
        self.log.add(line | spent)

    def _out_of_time(self, *, turn: int, steps: bool) -> bool:
        """Passes have a third of the budget each; in it the grid goes first. Steps by themselves
        have what there is: each once is worth more than some of them thrice."""
        if not self.groups:
            return self.log.spent_s >= self.budget_s
        passed = turn + (1.0 if steps or not self.steps else _GRID_SHARE)
        return self.log.spent_s >= self.budget_s * passed / PASSES

    def _tick(self, what: str) -> None:
        self._done += 1
        self.watch(self._done, self._total, what)

    def _shuffled(self, items: Iterable[T], turn: int) -> list[T]:
        shuffled = list(items)
        random.Random(f"{self.seed}/{turn}").shuffle(shuffled)
        return shuffled
