"""Random steps beside a run: what real kernels take now, on this machine, as it is.

A table that was measured minutes ago on a shared machine is off by five to ten percent. So steps
of random shapes are run between those of a run, on a KV pool of their own, and a step model is
fitted on them: it has seen none of the run's steps, but requests of such lengths, and the same
neighbours.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np

from calibrate.roofline import attention_area
from calibrate.runner import Row, Runner, Step
from calibrate.step_log import FEATURES, StepLog
from sim.parting import Fork
from sim.plan import Departure, Plan, Takes
from sim.request import Request, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """What random steps may look like."""

    max_num_seqs: int
    max_num_batched_tokens: int
    lengths: Rows[tuple[int, int]]
    """(prompt, answer) of the requests that a load is made of."""


class Shadow:
    """An observer that runs a random step after every `every`-th step of a run.

    Simulated time does not see them: an executor says what its own steps took, and no more.
    """

    def __init__(self, shapes: Shapes, *, every: int = 3, seed: int = 0) -> None:
        self._shapes = shapes
        self._every = every
        self._random = random.Random(seed)
        self._runner: Runner | None = None
        self._seen = 0
        self._rows: list[list[int]] = []
        self._durations_ns = array("q")

    def use(self, runner: Runner) -> None:
        """With a pool of its own, as large as the run's: what it writes is nobody's."""
        self._runner = runner

    def measure(self, steps: int) -> None:
        for _ in range(steps):
            self._run_one()

    def log(self, name: str) -> StepLog:
        """The steps so far, in the form in which steps of engines are fitted."""
        return StepLog(
            name=name,
            columns={feature: feature for feature in FEATURES},
            line=np.arange(len(self._rows), dtype=np.int64) + 1,
            duration_ns=np.array(self._durations_ns, dtype=np.float64),
            features=np.array(self._rows, dtype=np.float64).reshape(-1, len(FEATURES)),
            known=FEATURES,
            host_ns=0,
            notes=Counter(),
        )

    def _run_one(self) -> None:
        assert self._runner is not None
        size = self._runner.pool.block_size
        blocks = list(range(self._runner.pool.blocks))
        lengths = self._fit(self._draw(), len(blocks), size)
        self._random.shuffle(blocks)
        rows = []
        for before, n in lengths:
            held = [blocks.pop() for _ in range(-(-(before + n) // size))]
            rows.append(Row([1] * n, before, held, gives=True))
        self._durations_ns.append(self._runner.run(Step(rows)).duration_ns)
        self._rows.append(_features(lengths))

    def _draw(self) -> list[tuple[int, int]]:
        """(computed before, tokens) of each row: only decodes, only chunks, or both. Any number of
        decodes is as likely as any other, each somewhere in its answer; of chunks, few."""
        kind = self._random.choice(("decodes", "chunks", "both"))
        left, rows = self._shapes.max_num_batched_tokens, []
        seats = self._random.randint(1, self._shapes.max_num_seqs)
        if kind != "chunks":
            for _ in range(seats if kind == "decodes" else self._random.randint(1, seats)):
                prompt, answer = self._random.choice(self._shapes.lengths)
                rows.append((prompt + self._random.randrange(answer), 1))
        left -= len(rows)
        if kind != "decodes":
            for _ in range(max(1, round(len(rows) * self._random.random() ** 2))):
                prompt, _ = self._random.choice(self._shapes.lengths)
                before = self._random.randrange(prompt) if self._random.random() < 0.3 else 0
                n = min(prompt - before, left)
                if n > 0:
                    rows.append((before, n))
                    left -= n
        return rows

    def _fit(self, lengths: list[tuple[int, int]], blocks: int, size: int) -> list[tuple[int, int]]:
        """As many of these rows, any of them, as the pool holds at once. Steps of more would read
        from more memory than any of the run's, and say that reading is slow."""
        fitting = []
        for before, n in self._random.sample(lengths, len(lengths)):
            blocks -= -(-(before + n) // size)
            if blocks < 0:
                break
            fitting.append((before, n))
        return fitting

    # --- what an observer is told

    def arrived(
        self, sequence: Sequence, request: Request, answer_tokens: int, now_ns: int
    ) -> None: ...

    def refused(self, request: Request, reason: str, now_ns: int) -> None: ...

    def began(self, plan: Plan, now_ns: int) -> None: ...

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        self._seen += 1
        if self._seen % self._every == 0:
            self._run_one()

    def forked(self, forks: list[Fork], now_ns: int) -> None: ...

    def ended(self, departures: list[Departure], now_ns: int) -> None: ...


def _features(lengths: list[tuple[int, int]]) -> list[int]:
    """In the order of FEATURES."""
    decodes = [before for before, n in lengths if n == 1]
    chunks = [(before, n) for before, n in lengths if n > 1]
    return [
        sum(n for _, n in lengths),
        len(decodes),
        sum(decodes) + len(decodes),
        len(chunks),
        sum(int(attention_area(before, n)) for before, n in chunks),
    ]
