"""What is told of single points of a table, by operator and region: spread, share, ratio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from calibrate.table_schema import OPERATORS

if TYPE_CHECKING:
    import pandas as pd

    from calibrate.table import Table

_EDGES = (0, 16, 256, 4096, 65_536)
_SIZES = {
    "attention_decode": ("KV tokens", ("batch", "context")),
    "attention_prefill": ("chunk", ("chunk",)),
    "attention_mixed": ("chunk", ("chunk",)),
}
"""What makes a call of attention large: the product of these axes. Elsewhere the only axis."""


class Seen(NamedTuple):
    """One value of one point."""

    operator: str
    variant: str
    point: Mapping[str, int]
    """Its place on the operator's axes."""
    value: float


def region_of(x: float) -> str:
    """One of five ranges, in words."""
    low = max(edge for edge in _EDGES if edge <= x)
    above = [edge for edge in _EDGES if edge > x]
    return f"{low:,}-{above[0] - 1:,}" if above else f"{low:,}+"


REGIONS = {region_of(edge): at for at, edge in enumerate(_EDGES)}
"""Their order."""


def size_of(operator: str, point: Mapping[str, int]) -> tuple[str, int]:
    """(what it counts, how large): what regions of `summarise` are made of."""
    name, axes = _SIZES.get(operator, (OPERATORS[operator].axes[0], OPERATORS[operator].axes))
    size = 1
    for axis in axes:
        size *= point[axis]
    return name, size


def say_point(point: Mapping[str, int]) -> str:
    """Tokens or rows as they are, decodes as 64 x 512 (batch, context), chunks as 128 behind
    2,048."""
    words = []
    if "chunk" in point:
        words.append(f"{point['chunk']:,} behind {point['chunk_context']:,}")
    if "batch" in point:
        words.append(f"{point['batch']:,} x {point['context']:,}")
    return ", ".join(words) or f"{next(iter(point.values())):,}"


def frames_of(table: Table) -> Iterator[tuple[str, str, Any]]:
    """(operator, variant, pandas frame of all columns) of the points that are fitted."""
    frame = table.points.to_pandas()
    fit = frame[frame["split"] == "fit"]
    for operator in OPERATORS:
        for variant, points in fit[fit["operator"] == operator].groupby("variant"):
            yield operator, str(variant), points


def points_of(operator: str, frame: Any) -> Iterator[dict[str, int]]:
    """The place of each row on the operator's axes."""
    axes = OPERATORS[operator].axes
    for place in zip(*(frame[axis].astype("int64").tolist() for axis in axes), strict=True):
        yield dict(zip(axes, place, strict=True))


def summarise(seen: Iterable[Seen]) -> pd.DataFrame:
    """A row for each operator, variant and region, in the order of operators and sizes.

    Columns: operator, variant, axis (what the region counts), region, points, p10, median,
    p90, least, least_at, most, most_at (the places of the two as dicts).
    """
    import pandas as pd

    by = ["operator", "variant", "axis", "region"]
    columns = [*by, "point", "value"]
    listed = []
    for each in seen:
        axis, size = size_of(each.operator, each.point)
        listed.append((*each[:2], axis, region_of(size), each.point, each.value))
    frame = pd.DataFrame(listed, columns=columns)
    frame["at"] = frame["region"].map(REGIONS)
    frame["place"] = frame["operator"].map({name: at for at, name in enumerate(OPERATORS)})
    frame = frame.sort_values(["place", "variant", "at"], kind="stable")
    rows = [(*key, *_summarise_one(group)) for key, group in frame.groupby(by, sort=False)]
    told = ["points", "p10", "median", "p90", "least", "least_at", "most", "most_at"]
    return pd.DataFrame(rows, columns=[*by, *told])


def _summarise_one(group: Any) -> tuple[object, ...]:
    values, points = group["value"], group["point"].tolist()
    least, most = int(values.argmin()), int(values.argmax())
    return (
        len(values),
        *(float(values.quantile(share)) for share in (0.1, 0.5, 0.9)),
        float(values.iloc[least]),
        points[least],
        float(values.iloc[most]),
        points[most],
    )
