"""Measurements that were made in parts, in one file each, taken together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from calibrate.measure.errors import MeasureError
from calibrate.measured import Measurement, read_measurement

_SHARED = ("device", "provider", "kernels", "dtype", "block_size")


def read_parts(paths: Sequence[str | Path]) -> Measurement:
    """Read one measurement of one or more files. Raises MeasureError, with the file, for one that
    is damaged or of another model, device, provider, dtype, block size or version of the kernels.

    A point that several of them have counts as measured in so many more passes.
    """
    first, *others = map(read_measurement, paths)
    if not others:
        return first
    for part in others:
        _check(first, part)
    parts = (first, *others)
    return replace(
        first,
        header={
            **first.header,
            "same": {**first.header["same"], "formats": _unite(_formats(part) for part in parts)},
            "limits": _widen([part.header["limits"] for part in parts]),
            "budget_s": sum(part.header["budget_s"] for part in parts),
        },
        points=_gather(part.points for part in parts),
        steps={
            f"{at}/{key}": step for at, part in enumerate(parts) for key, step in part.steps.items()
        },
        refused={key: why for part in parts for key, why in part.refused.items()},
        cut=_sum_cuts(part.cut for part in parts),
        ended=all(part.ended for part in parts),
        clocks=[clocks for part in parts for clocks in part.clocks],
    )


def _check(first: Measurement, part: Measurement) -> None:
    same, theirs = first.header["same"], part.header["same"]
    differ = [name for name in _SHARED if same.get(name) != theirs.get(name)]
    if first.shape != part.shape:
        wanted, found = asdict(first.shape), asdict(part.shape)
        unlike = next(name for name in wanted if wanted[name] != found[name])
        raise _other(part, f"a model with {unlike} {found[unlike]}", wanted[unlike], first)
    if differ:
        name = differ[0]
        raise _other(part, f"{name} {theirs.get(name)}", same.get(name), first)


def _other(part: Measurement, found: str, wanted: object, first: Measurement) -> MeasureError:
    return MeasureError(f"{part.name}: found {found}; allowed: {wanted}, as in {first.name}")


def _formats(part: Measurement) -> list[str]:
    formats: list[str] = part.header["same"]["formats"]
    return formats


def _unite(lists: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for each in lists for name in each))


def _widen(limits: list[dict[str, Any]]) -> dict[str, Any]:
    """The farthest that any went; of a pool that several had, the smallest."""
    pools: dict[str, int] = {}
    for each in limits:
        for format, tokens in each["pool_tokens"].items():
            pools[format] = min(tokens, pools.get(format, tokens))
    sizes = {name: max(each[name] for each in limits) for name in ("tokens", "batch", "context")}
    return {**sizes, "pool_tokens": pools}


def _gather(parts: Iterable[dict[str, list[dict[str, Any]]]]) -> dict[str, list[dict[str, Any]]]:
    points: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        for key, lines in part.items():
            points[key] = [*points.get(key, []), *lines]
    return points


def _sum_cuts(cuts: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    told = [cut for cut in cuts if cut is not None]
    if not told:
        return None
    by = sum((Counter(cut["by"]) for cut in told), Counter[str]())
    return {"points": sum(cut["points"] for cut in told), "by": dict(sorted(by.items()))}
