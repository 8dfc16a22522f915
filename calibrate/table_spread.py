"""How far the passes of one point lie apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from calibrate.table_seen import Seen, frames_of, points_of

if TYPE_CHECKING:
    from calibrate.table import Table


def spread_of(table: Table) -> Iterator[Seen]:
    """mad_ns / median_ns of every point that has a deviation; none in tables without passes."""
    for operator, variant, frame in frames_of(table):
        known = frame[frame["mad_ns"].notna()]
        shares = (known["mad_ns"] / known["median_ns"]).tolist()
        for point, share in zip(points_of(operator, known), shares, strict=True):
            yield Seen(operator, variant, point, share)
