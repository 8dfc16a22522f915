"""Parquet logs, by the names of their columns."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from traces.columns import ColumnsTrace
from traces.jsonl import Record

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 65_536


class ParquetTrace(ColumnsTrace):
    """A parquet file, read by batches of the columns named; rows count from 1 in errors.

    A column of timestamps needs `time_unit: datetime`, and is exact to the nanosecond.
    """

    kind: ClassVar[str] = "parquet"
    looks: ClassVar[str] = "any parquet; the config names its columns"

    def sorted_by(self) -> None:
        """Its rows are no lines."""

    def records(self) -> Iterator[Record]:
        import pyarrow
        from pyarrow.parquet import ParquetFile

        names = list(dict.fromkeys(self._columns.named().values()))
        with self._file.bytes():  # missing files are refused as everywhere
            pass
        try:
            with ParquetFile(self._file.path) as parquet:
                self._check_columns(parquet.schema_arrow.names, names)
                first_row = 1
                for batch in parquet.iter_batches(_BATCH_ROWS, columns=names):
                    values = [_values(batch.column(name)) for name in names]
                    for row, each in enumerate(zip(*values, strict=True), first_row):
                        yield _ParquetRecord(self._file, row, dict(zip(names, each, strict=True)))
                    first_row += batch.num_rows
        except pyarrow.ArrowException as error:
            found = f"no parquet ({str(error)[:120]})"
            raise self._file.error(None, found=found, allowed="a parquet file") from None

    def _check_columns(self, there: list[str], wanted: list[str]) -> None:
        if missing := [name for name in wanted if name not in there]:
            found = f"the columns {', '.join(there)[:200]}, without {', '.join(missing)}"
            raise self._file.error(None, found=found, allowed="columns as the config names them")


class _ParquetRecord(Record):
    def _integer(self, value: object) -> int | None:
        # pandas turns a column of counts with gaps into floats.
        if isinstance(value, Decimal) and value.is_finite() and value == int(value):
            return int(value)
        return super()._integer(value)


def _values(column: pyarrow.Array) -> list[Any]:
    """Python values; floats as the decimals they print as, timestamps as text."""
    import pyarrow
    from pyarrow import compute

    kind = column.type
    if pyarrow.types.is_timestamp(kind):
        nanoseconds = compute.cast(column, pyarrow.timestamp("ns", kind.tz))
        zone = "" if kind.tz is None else "Z"  # stored in UTC, whatever zone is displayed
        return [
            None if ns is None else _stamp(ns, zone)
            for ns in compute.cast(nanoseconds, pyarrow.int64()).to_pylist()
        ]
    values: list[Any] = column.to_pylist()
    if pyarrow.types.is_floating(kind):
        return [None if value is None else Decimal(repr(value)) for value in values]
    return values


def _stamp(ns: int, zone: str) -> str:
    from datetime import datetime, timedelta

    seconds, rest = divmod(ns, 10**9)
    moment = datetime(1970, 1, 1) + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{rest:09d}{zone}"
