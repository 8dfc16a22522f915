"""Which times the collectives of a latency table have: its own, or those of the link model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from calibrate.link import Ring, all_reduces, row_bytes, token_bytes
from calibrate.table import Table
from calibrate.table_schema import COLLECTIVES, SHAPE, TableError

if TYPE_CHECKING:
    from calibrate.device import Device
    from calibrate.model import Model

Source = Literal["auto", "measured", "modelled", "none"]


def settle_communication(
    table: Table, model: Model, device: Device | None, *, gpus: int, source: Source
) -> Table:
    """A table of one kind whose collectives come from where they should; one GPU's as it is.

    `measured`: the table's points alone; `modelled`: the device's link alone; `auto`: of each
    collective the table's points, or else the link; `none`: no time. What was modelled is in the
    provenance's notes. Raises TableError where `measured` finds no all-reduce, and where the
    link model is needed but has no device, no link, or too many GPUs.
    """
    if gpus == 1:
        return table
    kept = () if source in ("modelled", "none") else COLLECTIVES
    table = _without(table, [name for name in COLLECTIVES if name not in kept])
    lacking = [name for name in COLLECTIVES if not table.of(name)]
    if source == "none" or not lacking:
        return table
    if source == "measured":
        if "allreduce" in lacking:
            raise TableError(
                f"latency.communication: found measured, but {table.name} has no points of"
                f" allreduce between {gpus} GPUs; allowed: auto, modelled, none"
            )
        return table
    return _fill(table, model, _ring(table, device, gpus=gpus), lacking)


def _without(table: Table, operators: list[str]) -> Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    dropped = pc.is_in(table.points["operator"], value_set=pa.array(operators, pa.string()))
    return replace(table, points=table.points.filter(pc.invert(dropped)))


def _ring(table: Table, device: Device | None, *, gpus: int) -> Ring:
    what = f"latency.communication: {table.name} does not price the collectives of {gpus} GPUs"
    if device is None:
        raise TableError(
            f"{what}, and no device is given whose link would; allowed: a device, or none"
        )
    try:
        return Ring.of(device, gpus)
    except ValueError as error:
        raise TableError(f"{what}, and their link cannot be modelled: {error}") from None


def _fill(table: Table, model: Model, ring: Ring, operators: list[str]) -> Table:
    """With points of the link model. It is straight, so the ends of what was measured do."""
    import pyarrow as pa

    first = table.points.slice(0, 1).to_pylist()[0]
    common = {name: first[name] for name in ("model", *SHAPE, "tp", "dtype")}
    rows = [{**common, **row} for row in _model_points(table, model, ring, operators)]
    told = table.provenance
    note = f"{' and '.join(operators)} modelled, not measured: {ring.describe()}"
    filled = Table.of_rows(rows, name=table.name, provenance=told)
    return replace(
        table,
        points=pa.concat_tables([table.points, filled.points]),
        provenance=replace(told, notes=(*told.notes, note)),
    )


def _model_points(
    table: Table, model: Model, ring: Ring, operators: list[str]
) -> Iterator[dict[str, object]]:
    tokens = _ends(table, "linear", "tokens")
    rows = _ends(table, "head", "rows") or tokens  # every row is of a token
    for name, axis, ends, size, calls in (
        ("allreduce", "tokens", tokens, token_bytes(model), all_reduces(model)),
        ("allgather", "rows", rows, row_bytes(model), 1),
    ):
        price = ring.all_reduce_ns if name == "allreduce" else ring.all_gather_ns
        for count in ends if name in operators else ():
            yield {
                "operator": name,
                "variant": name,
                axis: count,
                "calls": calls,
                "median_ns": price(count * size),
                "bytes": float(count * size),
                "flags": "modelled",
            }


def _ends(table: Table, operator: str, axis: str) -> list[int]:
    """The first and the last measured place of an operator, none where it has no points."""
    found: list[Any] = [points.axes[axis] for points in table.of(operator)]
    if not found:
        return []
    return sorted({min(int(at.min()) for at in found), max(int(at.max()) for at in found)})
