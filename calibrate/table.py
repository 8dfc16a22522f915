"""Latency tables: measured points with their provenance, in one parquet file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate.model import Model
from calibrate.table_check import arrow_schema, check_points
from calibrate.table_schema import FORMAT, OPERATORS, TableError

_METADATA = b"pagesim.latency_table"
_CACHES = {
    "auto": ("bfloat16", "float16", "float32"),
    "fp8_e4m3": ("fp8",),
    "int8_per_token_head": ("int8", "int8_per_token_head"),
}
"""What tables may call vLLM's KV dtypes."""

_TAILS = ({"at_once", "share"}, {"at_once", "token_ns", "whole_from"})
_TAILS_SAID = "at_once and share, or at_once, token_ns and whole_from"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where the points of a table come from; kept in the file's metadata."""

    source: str
    """In words a user understands: who measured what, with which software."""
    device: str
    licence: str
    date: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of driver, framework, kernels, and whatever else was recorded."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Clocks, seed, load and the like."""
    notes: tuple[str, ...] = ()
    """What was dropped, filled in or modelled on the way; shown with every result."""
    skew: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    """What one call takes longer for each token by which the longest context exceeds the mean:
    (batch, ns) in rising order, for `decode` and `mixed` steps."""
    tail: Mapping[str, float] = field(default_factory=dict)
    """Of decodes that the kernel does not split: `at_once` and `share`, or `at_once`, `token_ns`
    and `whole_from` (`calibrate.skew`); `skew` then knows those that it splits."""
    query_blocks: Mapping[str, int] = field(default_factory=dict)
    """Queries that attention computes at a time, by KV dtype: `skew` and `tail` are of these KV
    dtypes alone. Empty: of all."""
    tile: int = 1
    """Tokens that matrices are computed in; between measured counts their times rise in steps."""
    chunks_apart: bool = False
    """The kernels attend to one chunk after another: several in a step take the sum of their
    times."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Corrections fitted on whole steps: what to multiply an operator's times with."""
    step_ns: float = 0.0
    """Fitted likewise: what every step takes beside its operators."""
    residuals: Mapping[str, float] = field(default_factory=dict)
    """Quantiles of (predicted - measured) / measured over steps kept aside."""


@dataclass(frozen=True, slots=True)
class Table:
    """Points by column. Build one with `of_rows`, `read_table` or an importer."""

    name: str
    """The file or folder it was read from, for messages."""
    points: Any
    """pyarrow.Table of `table_schema.COLUMNS`."""
    provenance: Provenance

    @classmethod
    def of_rows(
        cls, rows: Iterable[Mapping[str, object]], *, name: str, provenance: Provenance
    ) -> Table:
        """A checked table; columns that a row does not name are null, `split` is fit.

        Raises TableError, with the row's number, for what `read_table` refuses.
        """
        import pyarrow as pa

        listed = [{"split": "fit", **row} for row in rows]
        points = pa.Table.from_pylist(listed, schema=arrow_schema())
        return cls(name, check_points(points, name), provenance)

    def select(
        self,
        model: Model,
        *,
        tensor_parallel_size: int = 1,
        dtype: str | None = None,
        kv_dtype: str = "auto",
    ) -> Table:
        """The points of one model's shape, GPU count and dtypes.

        `dtype` may be left open where there is only one; `kv_dtype` is vLLM's name, `auto`
        any that is not quantised. Points of operators that leave the KV cache alone belong to
        every KV dtype. Raises TableError, with what the table holds, where it has none.
        """
        import pyarrow.compute as pc

        wanted: dict[str, int | str] = {**shape_of(model), "tp": tensor_parallel_size}
        if dtype is not None:
            wanted["dtype"] = dtype
        points = self.points
        for column, value in wanted.items():
            points = points.filter(pc.equal(points[column], value))
        caches = _CACHES.get(kv_dtype, (kv_dtype,))
        held = set(points["kv_dtype"].unique().to_pylist()) - {None}
        if not len(points) or len(points["dtype"].unique()) > 1 or len(held & {*caches}) != 1:
            raise TableError(
                f"{self.name}: found no points, or several kinds, of {model.name},"
                f" tensor_parallel_size {tensor_parallel_size}, dtype {dtype or 'any'},"
                f" kv_cache_dtype {kv_dtype}; allowed: {'; '.join(self.kinds()) or 'none'}"
            )
        cached = pc.is_in(points["kv_dtype"], value_set=_strings(caches))
        return replace(self, points=points.filter(pc.or_(pc.is_null(points["kv_dtype"]), cached)))

    def kinds(self) -> dict[str, Table]:
        """What `select` can choose from, each by itself, under its name in words."""
        import pyarrow.compute as pc

        kinds = {}
        columns = ["model", "tp", "dtype"]
        for group in self.points.group_by(columns).aggregate([]).sort_by("model").to_pylist():
            points = self.points
            for column in columns:
                points = points.filter(pc.equal(points[column], group[column]))
            for cache in sorted({*points["kv_dtype"].unique().to_pylist()} - {None}):
                own = pc.or_kleene(
                    pc.is_null(points["kv_dtype"]), pc.equal(points["kv_dtype"], cache)
                )
                what = f"{group['model']}, tensor_parallel_size {group['tp']}, dtype"
                name = f"{what} {group['dtype']}, kv_cache_dtype {cache}"
                kinds[name] = replace(self, points=points.filter(own))
        return kinds

    def of(self, operator: str, *, split: str = "fit") -> list[Points]:
        """The points of an operator, those of each variant by themselves."""
        import pyarrow.compute as pc

        points = self.points
        points = points.filter(
            pc.and_(pc.equal(points["operator"], operator), pc.equal(points["split"], split))
        )
        variants = sorted(points["variant"].unique().to_pylist())
        return [
            Points.of(operator, variant, points.filter(pc.equal(points["variant"], variant)))
            for variant in variants
        ]

    def write(self, path: str | Path) -> None:
        """Write the file; commands do so under a temporary name (`experiments.files`)."""
        import pyarrow.parquet as pq

        provenance = json.dumps({"format": FORMAT, **asdict(self.provenance)}, sort_keys=True)
        points = self.points.replace_schema_metadata({_METADATA: provenance})
        pq.write_table(points, Path(path), compression="zstd")

    def fingerprint(self) -> str:
        """Sha256 (hex) of points and provenance, whatever file they lie in."""
        rows = json.dumps([self.points.to_pydict(), asdict(self.provenance)], sort_keys=True)
        return hashlib.sha256(rows.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Points:
    """The points of one operator and variant."""

    operator: str
    variant: str
    axes: dict[str, NDArray[np.int64]]
    calls: int
    ns: NDArray[np.float64]
    """Of one call."""

    @classmethod
    def of(cls, operator: str, variant: str, points: Any) -> Points:
        axes = {axis: points[axis].to_numpy() for axis in OPERATORS[operator].axes}
        calls = points["calls"][0].as_py()
        return cls(operator, variant, axes, calls, points["median_ns"].to_numpy())


def shape_of(model: Model) -> dict[str, int]:
    """The columns that tell models apart. Raises ModelError for a mixture of experts."""
    return {
        "hidden_size": model.hidden_size,
        "heads": model.heads,
        "kv_heads": model.kv_heads,
        "head_size": model.key_size,
        "mlp_size": model.dense.mlp_size,
        "vocab_size": model.vocab_size,
        "layers": model.layers,
    }


def shipped_tables() -> list[str]:
    """Their names."""
    folder = files("calibrate").joinpath("tables")
    return sorted(each.name.removesuffix(".parquet") for each in folder.iterdir())


def find_table(name: str | Path) -> Path:
    """The file of a shipped table (`tiny-cpu`), or of a path, there or not."""
    shipped = Path(str(files("calibrate").joinpath("tables")))
    path = shipped / f"{name}.parquet"
    return path if path.is_file() and not Path(name).exists() else Path(name)


def read_table(path: str | Path) -> Table:
    """Read and check a table, by its path or the name of a shipped one.

    Raises TableError for a file that is missing, no parquet, no latency table or one of
    another format; and, with the row, for unknown operators, axes that do not belong, values
    out of range, times that are not above 0, and points that are there twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = find_table(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise TableError(
            f"{path}: found {what}; allowed: a latency table (.parquet),"
            f" or one that is shipped: {', '.join(shipped_tables())}"
        )
    try:
        points = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise TableError(f"{path}: cannot be read as parquet ({reason})") from None
    metadata = (points.schema.metadata or {}).get(_METADATA)
    if metadata is None:
        raise TableError(
            f"{path}: found a parquet file that is no latency table (columns"
            f" {', '.join(points.column_names[:6])}, ...); allowed: what `pagesim calibrate"
            " import` writes"
        )
    provenance = _read_provenance(path, metadata)
    return Table(str(path), check_points(points.replace_schema_metadata(), str(path)), provenance)


def _read_provenance(path: Path, metadata: bytes) -> Provenance:
    try:
        stored = json.loads(metadata)
        found = stored.pop("format", None)
        if found != FORMAT:
            raise TableError(
                f"{path}: found table format {found}; allowed: {FORMAT}, as `pagesim calibrate"
                " import` and `convert` make it of what was measured"
            )
        stored["notes"] = tuple(stored["notes"])
        stored["skew"] = {
            kind: tuple((int(batch), float(ns)) for batch, ns in pairs)
            for kind, pairs in stored["skew"].items()
        }
        told = Provenance(**stored)
        _check_provenance(told)
        return told
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"{path}: its provenance is damaged ({error})") from None


def _check_provenance(told: Provenance) -> None:
    """Raises ValueError for a value of another kind than the field's."""
    for name in ("source", "device", "licence"):
        if not isinstance(getattr(told, name), str):
            raise ValueError(f"{name} is no text")
    if not all(isinstance(note, str) for note in told.notes):
        raise ValueError("notes are no texts")
    for name in ("versions", "settings", "factors", "residuals", "query_blocks", "tail"):
        if not isinstance(getattr(told, name), dict):
            raise ValueError(f"{name} are no mapping")
    if not isinstance(told.chunks_apart, bool):
        raise ValueError("chunks_apart is neither true nor false")
    numbers = [*told.factors.values(), *told.residuals.values(), *told.tail.values(), told.step_ns]
    numbers += [ns for pairs in told.skew.values() for _, ns in pairs]
    if not all(isinstance(each, int | float) and isfinite(each) for each in numbers):
        raise ValueError("factors, step_ns, residuals, skew or tail hold no finite numbers")
    if told.tail and (set(told.tail) not in _TAILS or min(told.tail.values()) < 0):
        raise ValueError(f"tail has other keys than {_TAILS_SAID}, or one below 0")
    for batches in ([batch for batch, _ in pairs] for pairs in told.skew.values()):
        if batches != sorted({batch for batch in batches if batch > 0}):
            raise ValueError("skew is not by rising numbers of decodes")
    if not all(isinstance(n, int) and n > 0 for n in (told.tile, *told.query_blocks.values())):
        raise ValueError("tile or query_blocks are no whole numbers above 0")


def _strings(values: Iterable[str]) -> Any:
    import pyarrow as pa

    return pa.array(list(values), pa.string())
