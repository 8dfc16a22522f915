"""How well times between measured points are guessed: each point from the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibrate.steptime import chunks_of, decodes_of, line_of, mixing_of
from calibrate.table import Points, Table
from calibrate.table_schema import OPERATORS

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = "held out"
_EDGES = (0, 16, 256, 4096, 65_536)


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
    points of split `check`, guessed from all others. Columns: operator, variant, axis, region
    (of the axis; of context or tokens for what is held out), points, median and p90 of the
    absolute error, worst, and bias (mean error). The table is of one model, GPU count and
    dtype (`Table.select`).
    """
    import pandas as pd

    guesses = pd.DataFrame([*_leave_out(table), *_hold_out(table)], columns=list(_Guess._fields))
    by = ["operator", "variant", "axis", "region"]
    order = {_region(edge): at for at, edge in enumerate(_EDGES)}
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
        {**{name: frame[name] for name in by}, "region": frame["region"].map(order)}
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
        yield _Guess(points.operator, points.variant, axis, _region(x), guessed / time - 1)


def _whole(points: Points, outer: str) -> Iterator[_Guess]:
    """All points of one batch or chunk, from the other batches or chunks."""
    for value in np.unique(points.axes[outer])[1:-1].tolist():
        here = points.axes[outer] == value
        guess = _guesser(_only(points, ~here))
        for error in _errors(guess, _only(points, here)):
            yield _Guess(points.operator, points.variant, outer, _region(value), error)


def _hold_out(table: Table) -> Iterator[_Guess]:
    apart = {
        operator: _guesser(found[0])
        for operator in ("attention_decode", "attention_prefill")
        if (found := table.of(operator))
    }
    mixing = mixing_of(table)

    def mixed(chunk: int, before: int, batch: int, context: int) -> float:
        assert mixing is not None
        sum_ns = apart["attention_prefill"](chunk, before) + apart["attention_decode"](
            batch, context
        )
        return sum_ns * mixing.at(chunk, before, batch, context)

    for operator in OPERATORS:
        fitted = {points.variant: points for points in table.of(operator)}
        for points in table.of(operator, split="check"):
            if operator == "attention_mixed" and mixing is not None:
                guess: Callable[..., float] = mixed
            elif points.variant in fitted:
                guess = _guesser(fitted[points.variant])
            else:
                continue
            size = points.axes[OPERATORS[operator].axes[-1]].tolist()
            for x, error in zip(size, _errors(guess, points), strict=True):
                yield _Guess(operator, points.variant, HELD_OUT, _region(x), error)


def _guesser(points: Points) -> Callable[..., float]:
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


def _region(x: int) -> str:
    low = max(edge for edge in _EDGES if edge <= x)
    above = [edge for edge in _EDGES if edge > x]
    return f"{low:,}-{above[0] - 1:,}" if above else f"{low:,} and more"
