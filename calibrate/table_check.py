"""Whether points are what a latency table may hold."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from calibrate.table_schema import AXES, COLUMNS, OPERATORS, SHAPE, SPLITS, TableError

_SLOWEST_NS = 1e12
_LARGEST = 2**40
_KEYS = ("operator", "variant", *SHAPE, "tp", "dtype", "kv_dtype", *AXES, "split")


def arrow_schema() -> Any:
    """A pyarrow.Schema of all columns."""
    import pyarrow as pa

    fields = [
        pa.field(name, getattr(pa, column.type)(), nullable=not column.required)
        for name, column in COLUMNS.items()
    ]
    return pa.schema(fields)


def check_points(points: Any, name: str) -> Any:
    """The points, if they are what the schema says. Raises TableError."""
    expected = arrow_schema()
    found = {field.name: str(field.type) for field in points.schema}
    wanted = {field.name: str(field.type) for field in expected}
    for column in wanted.keys() | found.keys():
        if found.get(column) != wanted.get(column):
            raise TableError(
                f"{name}: column {column}: found {found.get(column, 'none')}; allowed:"
                f" {wanted.get(column, 'no such column')}"
            )
    points = points.select(expected.names)
    if not len(points):
        raise TableError(f"{name}: found no points")
    frame = points.to_pandas()
    _check_values(frame, name)
    _check_axes(frame, name)
    again = frame.duplicated(list(_KEYS))
    if again.any():
        _refuse(frame, name, again, "the same point again", "each point once")
    return points.cast(expected)


def _check_values(frame: Any, name: str) -> None:
    for column, meaning in COLUMNS.items():
        if meaning.required and frame[column].isna().any():
            _refuse(frame, name, frame[column].isna(), f"no {column}", meaning.meaning)
    for column, known in (("operator", OPERATORS), ("split", SPLITS)):
        unknown = ~frame[column].isin(list(known))
        _refuse(frame, name, unknown, f"{column} = {{{column}!r}}", ", ".join(known))
    times = frame["median_ns"]
    wrong = ~(np.isfinite(times) & (times > 0) & (times <= _SLOWEST_NS))
    _refuse(frame, name, wrong, "median_ns = {median_ns}", "above 0 and up to 1e12")
    for column in (*SHAPE, "tp", "calls"):
        _refuse(frame, name, frame[column] < 1, f"{column} = {{{column}}}", "1 or more")


def _check_axes(frame: Any, name: str) -> None:
    for axis, least in AXES.items():
        users = [operator for operator, known in OPERATORS.items() if axis in known.axes]
        uses, given = frame["operator"].isin(users), frame[axis].notna()
        _refuse(frame, name, uses & ~given, f"no {axis}", "a value in a row of {operator}")
        _refuse(frame, name, given & ~uses, f"{axis} in a row of {{operator}}", "null there")
        low = given & ((frame[axis] < least) | (frame[axis] > _LARGEST))
        _refuse(
            frame, name, low, f"{axis} = {{{axis}:.0f}}", f"{least} or more, up to {_LARGEST:,}"
        )
    calls = frame.groupby(["operator", "variant", *SHAPE, "tp", "dtype"])["calls"]
    mixed = calls.transform("nunique") > 1
    _refuse(frame, name, mixed, "several numbers of calls", "one for all points of a variant")


def _refuse(frame: Any, name: str, wrong: Any, found: str, allowed: str) -> None:
    """Raise TableError about the first row that is wrong, if any is."""
    if not wrong.any():
        return
    at = int(np.flatnonzero(wrong.to_numpy())[0])
    row = cast("dict[str, object]", frame.iloc[at].to_dict())
    raise TableError(
        f"{name}: row {at}: found {found.format(**row)}; allowed: {allowed.format(**row)}"
    )
