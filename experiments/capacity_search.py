"""The highest rate at which a deployment keeps its SLO, or the fewest replicas that do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from experiments.bracket import Ladder, counts, rates, search
from experiments.build_trace import build_trace
from experiments.capacity_result import Axis, Capacity, Case, Point, describe
from experiments.cluster_config import MOST_REPLICAS
from experiments.config import Config, check_repeatable
from experiments.deployment import MOST_BLOCKS_OF_ALL, resolve
from experiments.errors import ConfigError
from experiments.identity import name_by
from experiments.latency_config import ReplayLatency
from experiments.results import CAPACITY, FIGURES, Draft
from experiments.simulate import Survey, Watcher, simulate, survey
from experiments.slo import Goal, judge
from experiments.transform_config import ScaleRateTransform
from experiments.words import say_count

MOST_TIMES = 2.0**10
"""The start so many times is the highest rate that is tried, and that part of it the lowest."""
_LEAST_FACTOR, _MOST_FACTOR = 1e-6 * MOST_TIMES, 1e6 / MOST_TIMES
"""Of the trace's own rate: what leaves room for the search within what `scale_rate` takes."""

Watch = Callable[[Survey], Watcher]
X = TypeVar("X", int, float)


def open_case(config: Config, *, place: str) -> Case:
    """Check that a config has limits, and a trace whose rate can be changed; reads the trace.

    `place` is what errors call the config. Raises ConfigError, and what `simulate` raises.
    """
    if not any(config.slo.model_dump().values()):
        raise ConfigError(
            f"{place}: slo: found no limit; allowed: what a good answer keeps, as in"
            " slo: {ttft_ms: 500, tpot_ms: 50} (or --set slo.ttft_ms=500)"
        )
    check_repeatable(config, wanted_by="capacity")
    if isinstance(config.latency, ReplayLatency):
        raise ConfigError(
            f"{place}: latency: found replay, whose steps were recorded at one rate; allowed: a"
            " clock that knows other steps, as roofline, table or steps"
        )
    most_blocks = MOST_BLOCKS_OF_ALL // resolve(config).num_gpu_blocks
    seen = survey(build_trace(config))
    if seen.rate is None:
        raise ConfigError(
            f"{place}: trace: found {seen.requests:,} requests that arrive at one instant; allowed:"
            " arrivals in which time passes, whose rate can be changed"
        )
    # With more replicas than requests, somebody would have none to serve.
    most_replicas = min(MOST_REPLICAS, most_blocks, seen.requests)
    return Case(config, seen, seen.rate, most_replicas)


def check_rate(rate: float | None, case: Case) -> None:
    """Raise ConfigError for a rate to which the trace cannot be brought."""
    low, high = case.own_rate * _LEAST_FACTOR, case.own_rate * _MOST_FACTOR
    if rate is not None and not low <= rate <= high:
        raise ConfigError(
            f"--rate: found {rate:g}; allowed: {say_count(low)} to {say_count(high)}, since the"
            f" trace has {say_count(case.own_rate)} requests/s"
        )


class Trials:
    """Simulates points, each of them an ordinary run in `out`, and judges them."""

    def __init__(
        self,
        case: Case,
        *,
        goal: Goal,
        out: Path,
        force: bool = False,
        watch: Callable[[str], Watch | None] | None = None,
        tell: Callable[[Point], None] | None = None,
    ) -> None:
        self.points: list[Point] = []
        self.case = case
        self.goal = goal
        self.out = out
        self._force = force
        self._watch = watch
        self._tell = tell

    def simulate(self, *, factor: float, replicas: int) -> Point:
        """The trace at `factor` times its rate, on so many replicas."""
        rate = self.case.own_rate * factor
        where = f" on {replicas:,} replicas" if replicas > 1 else ""
        outcome = simulate(
            _vary(self.case.config, factor=factor, replicas=replicas),
            out=self.out,
            force=self._force,
            figures=False,
            watch=self._watch and self._watch(f"{say_count(rate)} requests/s{where}:"),
        )
        judged = judge(outcome.result)
        point = Point(
            rate, replicas, judged.keeps(self.goal), judged, outcome.result, outcome.reused
        )
        self.points.append(point)
        if self._tell is not None:
            self._tell(point)
        return point

    @property
    def futile(self) -> bool:
        """Whether there is no use in making it easier once more: at half the load too many are
        doomed, or as many fail as before, and for no backlog, not even one that chance explains."""
        if len(self.points) < 2 or any(point.keeps for point in self.points):
            return False
        before, last = (point.judged for point in self.points[-2:])
        if (last.arrived - last.doomed) / last.arrived < self.goal.share:
            return True
        same = all(
            getattr(before, count) == getattr(last, count)
            for count in ("good", "refused", "missed")
        )
        return same and not any(each.backlog.exceeds(self.goal.within) for each in (before, last))


def search_rate(trials: Trials, *, rate: float | None = None) -> Capacity:
    """Between which two rates, in requests per second, the config's replicas cease to keep the SLO.

    The trace is squeezed or stretched in time: all points serve the same requests in the same
    order, with the shape of their bursts. It starts from `rate`, or the trace's own rate.
    Raises what `simulate` raises.
    """
    case, replicas = trials.case, trials.case.config.cluster.replicas
    check_rate(rate, case)
    start = 1.0 if rate is None else rate / case.own_rate
    ladder = rates(start, within=trials.goal.within, most=MOST_TIMES)
    return _search(
        "rate", trials, start, ladder, lambda at: trials.simulate(factor=at, replicas=replicas)
    )


def search_replicas(trials: Trials, *, rate: float | None = None) -> Capacity:
    """The fewest replicas that keep the SLO at `rate`, or at the trace's own.

    It starts from the config's. Raises what `simulate` raises.
    """
    case = trials.case
    check_rate(rate, case)
    factor = 1.0 if rate is None else rate / case.own_rate
    start = case.config.cluster.replicas
    ladder = counts(most=max(start, case.most_replicas))
    return _search(
        "replicas", trials, start, ladder, lambda at: trials.simulate(factor=factor, replicas=at)
    )


def _search(
    axis: Axis, trials: Trials, start: X, ladder: Ladder[X], run: Callable[[X], Point]
) -> Capacity:
    seen: dict[X, Point] = {}

    def keeps(at: X) -> bool:
        seen[at] = run(at)
        return seen[at].keeps

    def ease(at: X) -> X | None:
        return None if trials.futile else ladder.easier(at)

    kept, failed = search(keeps, start, replace(ladder, easier=ease))
    with Draft(trials.out, run_id=_name(axis, trials)) as draft:
        capacity = Capacity(
            axis=axis,
            goal=trials.goal,
            case=trials.case,
            points=tuple(trials.points),
            kept=None if kept is None else seen[kept],
            failed=None if failed is None else seen[failed],
            futile=trials.futile,
            path=draft.final,
        )
        draft.write_json(CAPACITY, describe(capacity))
        from experiments.capacity_figure import draw_capacity  # seaborn is slow to import

        (draft.path / FIGURES).mkdir()
        draw_capacity(capacity, draft.path / FIGURES)
        draft.publish()
    return capacity


def _vary(config: Config, *, factor: float, replicas: int) -> Config:
    """At a factor of 1 and its own replicas it is the config itself, and has the same run."""
    scale = ScaleRateTransform(kind="scale_rate", factor=factor)
    transforms = config.transforms if factor == 1 else [*config.transforms, scale]
    cluster = config.cluster.model_copy(update={"replicas": replicas})
    return config.model_copy(update={"transforms": transforms, "cluster": cluster})


def _name(axis: Axis, trials: Trials) -> str:
    runs = [point.result.path.name for point in trials.points]
    return name_by(f"{trials.case.config.name}-capacity", [axis, trials.goal, runs])
