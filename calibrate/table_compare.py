"""Two tables point by point: the second interpolated where the first has points."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from calibrate.curves import add
from calibrate.leave_one_out import guesser, mixed_guesser
from calibrate.table_curves import line_of
from calibrate.table_schema import OPERATORS, SHAPE
from calibrate.table_seen import Seen

if TYPE_CHECKING:
    from calibrate.table import Points, Table

_ALIKE = {"float16": "bfloat16"}
"""Dtypes that run at one speed."""


class Kind(NamedTuple):
    """One model's shape, GPU count and dtypes: what two tables must share."""

    shape: tuple[int, ...]
    tp: int
    dtype: str
    kv_dtype: str

    @classmethod
    def of(cls, table: Table) -> Kind:
        """Of a table of one kind."""
        first = table.points.slice(0, 1).to_pylist()[0]
        (cache,) = {*table.points["kv_dtype"].unique().to_pylist()} - {None}
        dtypes = (_ALIKE.get(dtype, dtype) for dtype in (first["dtype"], cache))
        return cls(tuple(first[column] for column in SHAPE), first["tp"], *dtypes)


@dataclass
class Comparison:
    """Times of the second table over those of the first."""

    what: str
    """The kind, as the first table calls it."""
    ratios: list[Seen] = field(default_factory=list)
    outside: Counter[str] = field(default_factory=Counter)
    """Points of the first beyond what the second has measured, by operator: not compared."""
    lacking: tuple[str, ...] = ()
    """Operators that only one of the two has."""


def compare(first: Table, second: Table) -> list[Comparison]:
    """A comparison of each kind that both have; `explain_nothing` says why there is none.

    One-axis operators are compared as a whole (all variants and calls of a step together,
    variant "all"), and variant by variant where both call them the same.
    """
    others = {Kind.of(table): table for table in second.kinds().values()}
    return [
        compare_kinds(what, table, others[Kind.of(table)])
        for what, table in first.kinds().items()
        if Kind.of(table) in others
    ]


def explain_nothing(first: Table, second: Table) -> str:
    """In what two tables differ that share no kind."""
    left, right = ([Kind.of(one) for one in table.kinds().values()] for table in (first, second))
    differ = []
    for name in Kind._fields:
        here, there = ({getattr(kind, name) for kind in kinds} for kinds in (left, right))
        if here & there:
            continue
        if name == "shape":
            differ.append(f"model {_list_models(first)} against {_list_models(second)}")
        else:
            sides = (", ".join(sorted(map(str, side))) for side in (here, there))
            differ.append(f"{name} {' against '.join(sides)}")
    return "; ".join(differ) or (
        f"{'; '.join(first.kinds())} against {'; '.join(second.kinds()) or 'none'}"
    )


def _list_models(table: Table) -> str:
    return ", ".join(sorted(table.points["model"].unique().to_pylist()))


def compare_kinds(what: str, first: Table, second: Table) -> Comparison:
    """Of two tables of one kind each, whatever their dtypes."""
    told = Comparison(what)
    lacking = []
    for operator, known in OPERATORS.items():
        here, there = first.of(operator), second.of(operator)
        if not (here and there):
            if here or there:
                lacking.append(f"{operator} (only {(first if here else second).name})")
            continue
        if len(known.axes) == 1:
            _compare_lines(told, here, there)
            continue
        guess = mixed_guesser(second) if operator == "attention_mixed" else guesser(there[0])
        assert guess is not None
        within = _make_limits(second, operator)
        for place, time in _walk(here[0]):
            if within(place):
                value = guess(*place.values()) / time
                told.ratios.append(Seen(operator, here[0].variant, place, value))
            else:
                told.outside[operator] += 1
    told.lacking = tuple(lacking)
    return told


def _walk(points: Points) -> Iterator[tuple[dict[str, int], float]]:
    for *place, time in zip(
        *(axis.tolist() for axis in points.axes.values()), points.ns.tolist(), strict=True
    ):
        yield dict(zip(points.axes, place, strict=True)), time


def _compare_lines(told: Comparison, here: list[Points], there: list[Points]) -> None:
    operator = here[0].operator
    theirs = {points.variant: points for points in there}
    told.outside[operator] += _compare_sums(told, "all", here, there)
    if len(here) > 1:
        for points in here:
            if points.variant in theirs:
                _compare_sums(told, points.variant, [points], [theirs[points.variant]])


def _compare_sums(told: Comparison, variant: str, here: list[Points], there: list[Points]) -> int:
    """All calls of a step, where every variant was measured; returns how many points of the
    first lie beyond the second."""
    (axis,) = here[0].axes
    mine, theirs = (
        add(line_of(points).scaled(points.calls) for points in side) for side in (here, there)
    )
    outside = 0
    own_first, own_last = _common_range(here, axis)
    first, last = _common_range(there, axis)
    for node, time in zip(mine.nodes, mine.times, strict=True):
        if first <= node <= last and own_first <= node <= own_last:
            place = {axis: int(node)}
            told.ratios.append(Seen(here[0].operator, variant, place, theirs.at(node) / time))
        else:
            outside += 1
    return outside


def _common_range(side: list[Points], axis: str) -> tuple[int, int]:
    ranges = [(int(points.axes[axis].min()), int(points.axes[axis].max())) for points in side]
    return max(low for low, _ in ranges), min(high for _, high in ranges)


def _make_limits(table: Table, operator: str) -> Callable[[Mapping[str, int]], bool]:
    """Whether a point of attention lies within what was measured."""
    (points,) = table.of(operator)
    if operator != "attention_mixed":
        return _limits_of(points)
    parts = [
        _make_limits(table, other)
        for other in ("attention_decode", "attention_prefill")
        if table.of(other)
    ]
    box = {name: (int(axis.min()), int(axis.max())) for name, axis in points.axes.items()}

    def within(place: Mapping[str, int]) -> bool:
        inside = all(low <= place[name] <= high for name, (low, high) in box.items())
        return inside and all(part(place) for part in parts)

    return within


def _limits_of(points: Points) -> Callable[[Mapping[str, int]], bool]:
    """Between two batches (chunks), and between the contexts that both were measured at.

    Batches are interpolated at equal total context, so it is totals that must lie between.
    """
    outer, inner = points.axes
    values = np.unique(points.axes[outer]).tolist()
    ranges = {}
    for value in values:
        here = points.axes[inner][points.axes[outer] == value]
        scale = value if outer == "batch" else 1
        ranges[value] = (scale * int(here.min()), scale * int(here.max()))

    def within(place: Mapping[str, int]) -> bool:
        value = place[outer]
        if not values[0] <= value <= values[-1]:
            return False
        x = place[inner] * (value if outer == "batch" else 1)
        sides = {values[bisect_right(values, value) - 1], values[bisect_left(values, value)]}
        return all(ranges[side][0] <= x <= ranges[side][1] for side in sides)

    return within
