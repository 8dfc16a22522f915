"""How well times between measured points are guessed: each point from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibrate.mixing import mixing_of
from calibrate.table import Points, Table
from calibrate.table_curves import chunks_of, decodes_of, line_of
from calibrate.table_schema import OPERATORS
from calibrate.table_seen import REGIONS, region_of

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = "held out"


class _Guess(NamedTuple):
    operator: str
    variant: str
    axis: str
    region: str
    error: float


def leave_one_out(table: Table) -> pd.DataFrame:
    """Errors of interpolation, as shares of the measured time, by operator, axis and region.

    `axis` says what was left out: a point along it, or (batch, chunk) all points of one value
    of it; points at the ends are not, since nothing stands behind them. `held out` are the
    points of split `check`, guessed from all others, and those of further grids of mixed calls,
    guessed from the first. Columns: operator, variant, axis, region
    (of the axis; of context or tokens for what is held out), points, median and p90 of the
    absolute error, worst, and bias (mean error). The table is of one model, GPU count and
    dtype (`Table.select`).
    """
    import pandas as pd

    guesses = pd.DataFrame([*_leave_out(table), *_hold_out(table)], columns=list(_Guess._fields))
    by = ["operator", "variant", "axis", "region"]
    rows = [
        (
            *key,
            len(errors),
            errors.abs().median(),
            errors.abs().quantile(0.9),
            errors.abs().max(),
            errors.mean(),
        )
        for key, errors in guesses.groupby(by)["error"]
    ]
    frame = pd.DataFrame(rows, columns=[*by, "points", "median", "p90", "worst", "bias"])
    keys = pd.DataFrame(
        {**{name: frame[name] for name in by}, "region": frame["region"].map(REGIONS)}
    )
    return frame.loc[keys.sort_values(by).index].reset_index(drop=True)


def _leave_out(table: Table) -> Iterator[_Guess]:
    for operator, known in OPERATORS.items():
        if len(known.axes) > 2:
            continue
        for points in table.of(operator):
            if len(known.axes) == 1:
                yield from _along(points, known.axes[0])
                continue
            outer, inner = known.axes
            for value in np.unique(points.axes[outer]).tolist():
                line = _only(points, points.axes[outer] == value)
                yield from _along(replace(line, axes={inner: line.axes[inner]}), inner)
            yield from _whole(points, outer)


def _along(points: Points, axis: str) -> Iterator[_Guess]:
    """Each inner point of a line, from the others."""
    order = np.argsort(points.axes[axis])
    for at in order[1:-1].tolist():
        others = np.arange(len(order)) != at
        x, time = int(points.axes[axis][at]), float(points.ns[at])
        guessed = line_of(_only(points, others)).at(x)
        yield _Guess(points.operator, points.variant, axis, region_of(x), guessed / time - 1)


def _whole(points: Points, outer: str) -> Iterator[_Guess]:
    """All points of one batch or chunk, from the other batches or chunks."""
    for value in np.unique(points.axes[outer])[1:-1].tolist():
        here = points.axes[outer] == value
        guess = guesser(_only(points, ~here))
        for error in _errors(guess, _only(points, here)):
            yield _Guess(points.operator, points.variant, outer, region_of(value), error)


def _hold_out(table: Table) -> Iterator[_Guess]:
    mixed = mixed_guesser(table, grids=1)
    if mixed is not None:
        for points in table.of("attention_mixed")[1:]:
            yield from _held_out(points, _errors(mixed, points))
    for operator in OPERATORS:
        fitted = {points.variant: points for points in table.of(operator)}
        for points in table.of(operator, split="check"):
            if operator == "attention_mixed" and mixed is not None:
                guess = mixed
            elif points.variant in fitted:
                guess = guesser(fitted[points.variant])
            else:
                continue
            yield from _held_out(points, _errors(guess, points))


def _held_out(points: Points, errors: Iterable[float]) -> Iterator[_Guess]:
    size = points.axes[OPERATORS[points.operator].axes[-1]].tolist()
    for x, error in zip(size, errors, strict=True):
        yield _Guess(points.operator, points.variant, HELD_OUT, region_of(x), error)


def mixed_guesser(table: Table, *, grids: int | None = None) -> Callable[..., float] | None:
    """The time of one mixed call at (chunk, its context, batch, context), from the table's first
    `grids` of them or from all; None where it has none."""
    mixing = mixing_of(table, grids=grids)
    if mixing is None:
        return None
    prefill = guesser(table.of("attention_prefill")[0])
    decode = guesser(table.of("attention_decode")[0])

    def mixed(chunk: int, before: int, batch: int, context: int) -> float:
        apart = prefill(chunk, before) + decode(batch, context)
        return apart * mixing.at(chunk, before, batch, context)

    return mixed


def guesser(points: Points) -> Callable[..., float]:
    """The time of one call at a point of the operator's axes."""
    if points.operator == "attention_decode":
        decodes = decodes_of(points)
        return lambda batch, context: decodes.row(batch).at(batch * context)
    if points.operator == "attention_prefill":
        return chunks_of(points).one
    return line_of(points).at


def _errors(guess: Callable[..., float], points: Points) -> Iterator[float]:
    places = zip(*(axis.tolist() for axis in points.axes.values()), strict=True)
    for place, time in zip(places, points.ns.tolist(), strict=True):
        yield guess(*place) / time - 1


def _only(points: Points, where: NDArray[np.bool_]) -> Points:
    axes = {name: axis[where] for name, axis in points.axes.items()}
    return replace(points, axes=axes, ns=points.ns[where])
