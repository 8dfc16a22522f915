"""What whole steps say of a table: factors for its operators, what every step takes, and how far
its clock is off on steps that it has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibrate.step_fit import FEWEST_STEPS, Errors, solve
from calibrate.step_log import FitError
from calibrate.steptime import StepTime
from calibrate.table import Table
from calibrate.table_schema import OPERATORS
from sim.plan import Chunk, DecodeList, Plan

Floats = NDArray[np.float64]

GROUPS = (
    ("linear", "kv_write"),
    ("head", "sampling"),
    ("attention_decode",),
    ("attention_prefill",),
)
"""Operators that share a factor. Mixed attention is priced from the last two."""
_LEAST = 0.1
"""No operator becomes free, however well the others stand in for it."""


class MeasuredStep(NamedTuple):
    """A whole step that was timed."""

    spans: Sequence[tuple[int, int]]
    """(tokens computed before, tokens in this step) of each row."""
    kv_dtype: str
    ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What was fitted on all steps, and what its like is worth on steps that it did not see."""

    factors: dict[str, float]
    step_ns: float
    residuals: dict[str, float]
    """predicted / measured - 1 of the steps kept aside: p5, p50, p95."""
    before: Errors
    """Of the table as it is, on those steps."""
    after: Errors
    fitted: int

    def apply(self, table: Table) -> Table:
        told = replace(
            table.provenance,
            factors=self.factors,
            step_ns=self.step_ns,
            residuals=self.residuals,
            notes=(*table.provenance.notes, self._say()),
        )
        return replace(table, provenance=told)

    def _say(self) -> str:
        return (
            f"corrected on {self.fitted} whole steps; when {self.after.steps} of them were kept"
            f" aside, these were off by {self.after.mean:.1%} on average,"
            f" {self.before.mean:.1%} without correction"
        )


def fit_correction(
    table: Table, steps: Sequence[MeasuredStep], *, holdout: float = 0.3, seed: int = 0
) -> Correction:
    """Non-negative factors and a constant, of relative errors.

    Raises FitError for fewer than FEWEST_STEPS steps, or of a KV dtype that the table has not;
    TableError where the table lacks what a step needs.
    """
    if len(steps) < FEWEST_STEPS:
        raise FitError(
            f"{table.name}: found {len(steps)} whole steps; allowed: {FEWEST_STEPS} or more"
        )
    measured_ns = np.array([step.ns for step in steps])
    columns = _price_groups(table, steps)
    shuffled = np.random.default_rng(seed).permutation(len(steps))
    aside, seen = np.split(shuffled, [round(holdout * len(steps))])
    tried = _fit(columns[seen], measured_ns[seen])
    plain = np.array([*[1.0] * len(GROUPS), 0.0])
    predicted_ns = columns[aside] @ tried
    off = predicted_ns / measured_ns[aside] - 1
    p5, p50, p95 = np.quantile(off, (0.05, 0.5, 0.95)).tolist()
    *factors, step_ns = _fit(columns, measured_ns).tolist()
    return Correction(
        factors={
            operator: factor
            for group, factor in zip(GROUPS, factors, strict=True)
            for operator in group
        },
        step_ns=step_ns,
        residuals={"p5": p5, "p50": p50, "p95": p95},
        before=Errors.of(columns[aside] @ plain, measured_ns[aside]),
        after=Errors.of(predicted_ns, measured_ns[aside]),
        fitted=len(steps),
    )


def _fit(columns: Floats, measured_ns: Floats) -> Floats:
    """Factors and the constant.

    Beside the steps stands one imagined step for each group, which has nothing but this group
    and takes what was measured of it: where steps cannot tell a small part from their noise,
    its factor stays near 1; of a large part they outweigh it.
    """
    parts = len(GROUPS)
    typical_ns = float(np.median(measured_ns))
    imagined = np.column_stack([typical_ns * np.eye(parts), np.zeros(parts)])
    return solve(
        np.vstack([columns, imagined]),
        np.append(measured_ns, [typical_ns] * parts),
        floor=np.array([*[_LEAST] * parts, 0.0]),
    )


def _price_groups(table: Table, steps: Sequence[MeasuredStep]) -> Floats:
    """(steps, groups and a constant): what each group adds to each step.

    A clock is linear in its factors, so a group's part is what the clock says when all other
    factors are 0.
    """
    columns = np.ones((len(steps), len(GROUPS) + 1))
    by_cache = _by_cache(table)
    for at, group in enumerate(GROUPS):
        factors = {operator: float(operator in group) for operator in OPERATORS}
        clocks = {cache: _clock(part, factors) for cache, part in by_cache.items()}
        for row, step in enumerate(steps):
            if step.kv_dtype not in clocks:
                known = ", ".join(clocks)
                raise FitError(f"{table.name}: found a step with {step.kv_dtype}; allowed: {known}")
            columns[row, at] = clocks[step.kv_dtype].durations(plan_of(step.spans), 1)[0]
    return columns


def _clock(table: Table, factors: Mapping[str, float]) -> StepTime:
    told = replace(table.provenance, factors=factors, step_ns=0.0)
    return StepTime(replace(table, provenance=told))


def _by_cache(table: Table) -> dict[str, Table]:
    return {name.rpartition(" ")[2]: part for name, part in table.kinds().items()}


def plan_of(spans: Sequence[tuple[int, int]]) -> Plan:
    """A step of these rows, whoever they are of."""
    nobody: Any = None
    return Plan(DecodeList(), chunks=[Chunk(nobody, before, n) for before, n in spans])
