"""From a measurement's JSON lines to a latency table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from calibrate.correction import Correction, MeasuredStep, fit_correction
from calibrate.kernels.providers import PROVIDERS
from calibrate.llama_shape import LlamaShape
from calibrate.measure.errors import MeasureError
from calibrate.measure.grid import SKEW
from calibrate.measure.log import read_lines, say_cut
from calibrate.measure.statistics import NOISY, deviation, spread
from calibrate.measured_host import host_times, say_clocks, say_host
from calibrate.step_fit import FEWEST_STEPS
from calibrate.table import Provenance, Table
from calibrate.table_peak import Peak, device_of, share_of_peak
from calibrate.table_schema import OPERATORS, TILE, TableError

_CACHES = {"fp8_e4m3": "fp8"}
"""What tables call the kernels' formats, where it is something else."""
_PER_LAYER = ("linear/layer", "attention", "kv_write")


@dataclass(slots=True)
class Measurement:
    """A file of lines, by what they are about."""

    name: str
    header: dict[str, Any]
    shape: LlamaShape
    points: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The lines of each point, one for each pass; likewise of"""
    steps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """What could not be measured, and why."""
    cut: dict[str, Any] | None = None
    clocks: list[dict[str, str]] = field(default_factory=list)
    """Of a GPU, at the end of each pass."""
    ended: bool = False


def read_measurement(path: str | Path) -> Measurement:
    """Read what has been measured so far. Raises MeasureError, with the line."""
    path = Path(path)
    try:
        lines = read_lines(path)
        _, header = next(lines)
        found = Measurement(str(path), header, LlamaShape(**header["same"]["model"]))
        for number, line in lines:
            _sort_in(found, line, where=f"{path}:{number}")
    except OSError as error:
        raise MeasureError(f"{path}: {error.strerror}") from None
    except (KeyError, TypeError) as error:
        raise MeasureError(f"{path}:1: its header is damaged ({error})") from None
    return found


def _sort_in(found: Measurement, line: dict[str, Any], *, where: str) -> None:
    ns = line.get("median_ns", 1)
    if not isinstance(ns, int | float) or not ns > 0:
        raise MeasureError(f"{where}: found median_ns {ns!r}; allowed: above 0")
    match line["kind"]:
        case "point":
            found.points.setdefault(line["key"], []).append(line)
        case "step":
            found.steps.setdefault(line["key"], []).append(line)
        case "unmeasurable":
            found.refused[line["key"]] = line["reason"]
        case "cut":
            found.cut = line
        case "clocks":
            found.clocks.append(line["clocks"])
        case "end":
            found.ended = True


def make_table(found: Measurement, *, seed: int = 0) -> Table:
    """The table: medians over passes, without what was faster than the device can be, and
    corrected on the whole steps where there are enough of them.

    Raises TableError where nothing is left that a table can be made of.
    """
    rows = list(_rows(found))
    if not rows:
        raise TableError(f"{found.name}: found no points that a table holds; allowed: one or more")
    told = _provenance(found)
    table = Table.of_rows(rows, name=found.name, provenance=told)
    table = _drop_too_fast(table, found)
    steps = [
        MeasuredStep(
            lines[0]["spans"],
            _cache(lines[0]["kv_format"]) or "",
            float(median(line["median_ns"] for line in lines)),
        )
        for lines in found.steps.values()
    ]
    if len(steps) < FEWEST_STEPS:
        note = f"not corrected: {len(steps)} whole steps, {FEWEST_STEPS} are needed"
        return _note(table, note)
    correction: Correction = fit_correction(table, steps, seed=seed)
    return correction.apply(table)


def _rows(found: Measurement) -> Iterator[dict[str, object]]:
    shape = found.shape
    common = {
        "model": shape.name,
        "hidden_size": shape.hidden_size,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_size": shape.head_size,
        "mlp_size": shape.mlp_size,
        "vocab_size": shape.vocab_size,
        "layers": shape.layers,
        "tp": 1,
        "dtype": found.header["same"]["dtype"],
    }
    for key, lines in found.points.items():
        first = lines[0]
        if first["operator"] not in OPERATORS:
            continue
        medians = [line["median_ns"] for line in lines]
        yield {
            **common,
            "operator": first["operator"],
            "variant": first["variant"],
            "kv_dtype": _cache(first.get("kv_format")),
            **first["axes"],
            "calls": shape.layers if key.startswith(_PER_LAYER) else 1,
            "median_ns": float(median(medians)),
            "mad_ns": deviation(medians),
            "passes": len(medians),
            "clock": first["clock"],
            "flop": _flop(first, shape),
        }


def _flop(line: dict[str, Any], shape: LlamaShape) -> float | None:
    """Of what nothing else tells: a part of `linear`, and the head."""
    if line["operator"] == "head":
        return 2.0 * shape.head_matrix * int(line["axes"]["rows"])
    if line["variant"] == "layer":
        return 2.0 * shape.layer_matrices * int(line["axes"]["tokens"])
    return None


def _cache(format: str | None) -> str | None:
    return None if format is None else _CACHES.get(format, format)


def _provenance(found: Measurement) -> Provenance:
    same, machine = found.header["same"], found.header["machine"]
    settings = {
        **machine["settings"],
        "provider": same["provider"],
        "seed": same["seed"],
        "block_size": same["block_size"],
        "limits": found.header["limits"],
        "budget_s": found.header["budget_s"],
    }
    host = host_times(found.steps.values())
    settings |= {"host": host} if host else {}
    settings |= {"clocks": found.clocks} if found.clocks else {}
    skew, clipped = _skew(found)
    notes = [*_notes(found), *say_clocks(found.clocks), *say_host(host)]
    if clipped:
        notes.append(f"skew of {clipped} batches below 0, taken as 0")
    return Provenance(
        source=f"measured by pagesim with {same['provider']} kernels, {same['model']['name']}",
        device=machine["device"],
        licence="Apache-2.0",
        date=machine["date"],
        versions=machine["versions"],
        settings=settings,
        notes=tuple(notes),
        skew={"decode": skew} if skew else {},
        tile=1 if machine["device"].startswith("cpu") else TILE,
        chunks_apart=any(each.chunks_apart for each in PROVIDERS if each.name == same["provider"]),
    )


def _notes(found: Measurement) -> Iterator[str]:
    if not found.ended:
        yield "stopped before its end: what was measured until then"
    if found.cut is not None and found.cut["points"]:
        yield say_cut(found.cut)
    lost = [key for key in found.refused if key not in found.points]
    if lost:
        reason, count = Counter(found.refused[key] for key in lost).most_common(1)[0]
        yield f"not measurable, left out: {len(lost)} points ({count}: {reason})"
    medians = [[line["median_ns"] for line in lines] for lines in found.points.values()]
    noisy = sum(spread(each) > NOISY for each in medians)
    if noisy:
        yield f"passes more than {NOISY:.0%} apart, their median kept: {noisy} points"
    once = sum(len(each) == 1 for each in medians)
    if once:
        yield f"measured in one pass only: {once} points"
    other = Counter(
        lines[0]["operator"]
        for lines in found.points.values()
        if lines[0]["operator"] not in OPERATORS and lines[0]["operator"] != SKEW
    )
    for operator, count in other.items():
        yield f"{operator}: {count} points measured, which tables have no place for"


def _skew(found: Measurement) -> tuple[tuple[tuple[int, float], ...], int]:
    """By number of decodes: how many ns those of contexts spread from 0 to twice the mean take
    beyond decodes of the mean, for each token that the longest has beyond it; the best fit,
    relatively, over means and KV formats. And how many were below 0, which is taken for 0."""
    decodes = {
        (line["kv_format"], line["axes"]["batch"], line["axes"]["context"]): median(
            each["median_ns"] for each in lines
        )
        for lines in found.points.values()
        if (line := lines[0])["operator"] == "attention_decode"
    }
    sums: dict[int, list[float]] = {}
    for lines in found.points.values():
        line = lines[0]
        if line["operator"] != SKEW:
            continue
        batch, mean = line["axes"]["batch"], line["axes"]["context"]
        mean_ns = decodes.get((line["kv_format"], batch, mean))
        if mean_ns is not None:
            beyond = mean / mean_ns
            longer = median(each["median_ns"] for each in lines) / mean_ns - 1
            total = sums.setdefault(batch, [0.0, 0.0])
            total[0] += beyond * longer
            total[1] += beyond * beyond
    slopes = {batch: a / b for batch, (a, b) in sorted(sums.items())}
    kept = tuple((batch, max(0.0, slope)) for batch, slope in slopes.items())
    return kept, sum(slope < 0 for slope in slopes.values())


def _drop_too_fast(table: Table, found: Measurement) -> Table:
    """Without points that the device's datasheet does not allow: their data came from a cache."""
    device = device_of(table)
    if device is None:
        note = f"not held against a datasheet: none is shipped of {table.provenance.device}"
        return _note(table, note)
    fast = {
        (seen.operator, seen.variant, cache, *sorted(seen.point.items()))
        for part in table.kinds().values()
        for cache in [Peak.of(part, device).kv_dtype]
        for seen in share_of_peak(part, Peak.of(part, device))
        if seen.value > 1
    }
    if not fast:
        return table

    def is_fast(row: dict[str, object]) -> bool:
        axes = OPERATORS[str(row["operator"])].axes
        place = sorted((axis, row[axis]) for axis in axes)
        caches = [row["kv_dtype"]] if row["kv_dtype"] else found.header["same"]["formats"]
        return any(
            (row["operator"], row["variant"], _cache(str(cache)), *place) in fast
            for cache in caches
        )

    rows = table.points.to_pylist()
    kept = [row for row in rows if not is_fast(row)]
    if not kept:
        raise TableError(f"{table.name}: every point is faster than {device.name} can be")
    note = f"faster than {device.name} can be, left out: {len(rows) - len(kept)} points"
    return _note(Table.of_rows(kept, name=table.name, provenance=table.provenance), note)


def _note(table: Table, note: str) -> Table:
    told = table.provenance
    return replace(table, provenance=replace(told, notes=(*told.notes, note)))
