"""Another trace of the same load on real kernels, in turn with the one that is to be predicted.

A step takes longer in the caches of another pool, less when no scheduler has run before it, and
rows that share blocks read less memory. So what is fitted on are steps of the same regime: drawn
with another seed, decided by a scheduler and a cache of their own, and as cold and as warm as
those of the run, with which they take turns.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from itertools import count

import numpy as np

from calibrate.roofline import attention_area
from calibrate.step_log import FEATURES, StepLog
from experiments.build import build_latency, build_simulation
from experiments.build_executor import MakeKernels
from experiments.build_trace import build_trace
from experiments.config import Config
from experiments.deployment import resolve
from sim.moves import Takes
from sim.observer import Observer
from sim.plan import Plan

TURN = 8
"""Steps: the first of them finds the caches cold, on both sides alike."""


class Steps(Observer):
    """What the steps of runs computed, and how long they took: one batch in flight at a time."""

    def __init__(self) -> None:
        self._features: list[list[int]] = []
        self._durations_ns = array("q")

    def __len__(self) -> int:
        return len(self._durations_ns)

    def began(self, plan: Plan, now_ns: int) -> None:
        if not plan.is_empty:
            self._features.append(_features([(row.computed_before, row.n) for row in plan.rows()]))

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        (end_ns,) = ends_ns
        self._durations_ns.append(end_ns - start_ns)

    def log(self, name: str) -> StepLog:
        """Those that have ended, in the form in which steps of engines are fitted."""
        steps = len(self)
        return StepLog(
            name=name,
            columns={feature: feature for feature in FEATURES},
            line=np.arange(steps, dtype=np.int64) + 1,
            duration_ns=np.array(self._durations_ns, dtype=np.float64),
            features=np.array(self._features[:steps], dtype=np.float64).reshape(-1, len(FEATURES)),
            known=FEATURES,
            host_ns=0,
            notes=Counter(),
        )


class Rehearsal(Observer):
    """An observer that, after every TURN steps of a run, lets traces of other seeds have as many.

    Simulated time of the run does not see them: each side has a clock, a pool and a cache of its
    own. The weights are shared.
    """

    def __init__(self, config: Config, make_kernels: MakeKernels) -> None:
        """`config` is that of the run."""
        self.steps = Steps()
        self._ran = 0
        self._events = self._serve(config, make_kernels)

    def ran(self, *_: object) -> None:
        self._ran += 1
        if self._ran % TURN == 0:
            until = len(self.steps) + TURN
            while len(self.steps) < until:
                next(self._events)

    def _serve(self, config: Config, make_kernels: MakeKernels) -> Iterator[None]:
        """One trace after the other, for ever; a step in most events."""
        for seed in count(config.seed + 1):
            drawn = config.model_copy(update={"seed": seed})
            deployment = resolve(drawn)
            simulation = build_simulation(
                deployment,
                latency=build_latency(deployment),
                observers=[self.steps],
                make_kernels=make_kernels,
            )
            yield from simulation.cluster.events(build_trace(drawn))


def _features(rows: list[tuple[int, int]]) -> list[int]:
    """Of (computed before, tokens) of each row, in the order of FEATURES."""
    decodes = [before for before, n in rows if n == 1]
    chunks = [(before, n) for before, n in rows if n > 1]
    return [
        sum(n for _, n in rows),
        len(decodes),
        sum(decodes) + len(decodes),
        len(chunks),
        sum(int(attention_area(before, n)) for before, n in chunks),
    ]
