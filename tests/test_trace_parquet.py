"""Parquet logs: every column type that a time or a count may have."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from sim.request import Request
from tests.trace_files import refusal
from traces.contract import check_trace
from traces.parquet import ParquetTrace
from traces.reader import open_trace
from traces.schema import TraceError

COLUMNS = {"arrival": "at", "prompt_tokens": "in", "output_tokens": "out"}


def log(folder: Path, *, unit: str = "s", row_group: int = 100, **columns: Any) -> ParquetTrace:
    path = folder / "log.parquet"
    columns = {"in": [5, 6], "out": [7, 8], **columns}
    parquet.write_table(pa.table(columns), path, row_group_size=row_group)
    names = {name: name for name in columns if name in ("session", "tenant", "priority", "id")}
    return ParquetTrace(path, columns=COLUMNS | names, time_unit=unit)


def test_floats_are_the_decimals_they_print_as(tmp_path: Path) -> None:
    trace = log(tmp_path, at=[0.1, 0.3], session=["a", None], priority=[None, 2], more=[1, 2])
    assert list(trace) == [
        Request("r00000", 0, ((0, 0, 5),), 7, 1, session="a"),
        Request("r00001", 200_000_000, ((2, 0, 6),), 8, 3, priority=2),
    ]
    assert not trace.notes
    check_trace(trace)


@pytest.mark.parametrize(
    ("unit", "column"),
    [
        ("us", pa.array([1_700_000_000_000_000, 1_700_000_000_000_002])),
        ("us", pa.array([0, 2], pa.uint32())),
        ("datetime", pa.array([10**18, 10**18 + 2000], pa.timestamp("ns"))),
        ("datetime", pa.array([-1, 1], pa.timestamp("us", "Europe/Rome"))),
        ("datetime", ["2026-01-01 00:00:00.000001Z", "2026-01-01 01:00:00.000003+01:00"]),
        ("datetime", [datetime(2026, 1, 1, 0, 0, 0, us, tzinfo=UTC) for us in (1, 3)]),
    ],
)
def test_times_of_every_type(tmp_path: Path, unit: str, column: Any) -> None:
    assert [request.arrival_ns for request in log(tmp_path, at=column, unit=unit)] == [0, 2000]


def test_counts_with_gaps_are_floats_in_pandas(tmp_path: Path) -> None:
    at = [1, 2]
    assert [request.prompt_tokens for request in log(tmp_path, at=at, **{"in": [5.0, 6.0]})] == [
        5,
        6,
    ]
    path = tmp_path / "log.parquet"
    message = refusal(log(tmp_path, at=at, **{"in": [5.0, 6.5]}))
    assert message == f"{path}:2: found in = 6.5; allowed: a whole number from 0 to 1000000000"
    message = refusal(log(tmp_path, at=at, **{"in": [5.0, None]}))
    assert message.startswith(f"{path}:2: found no value in 'in'; allowed: fields at, in, out")


def test_rows_that_are_no_lines_are_not_sent_to_sort(tmp_path: Path) -> None:
    message = refusal(log(tmp_path, at=[2, 1]))
    assert message.endswith(
        "allowed: rows in order of arrival (the option reorder_rows: N reorders within N rows)"
    )


def test_row_numbers_go_on_over_row_groups(tmp_path: Path) -> None:
    trace = log(tmp_path, at=[0, "x"][:1] * 2, row_group=1, id=["a", "a"])
    assert ":2: found id = 'a', used on line 1" in refusal(trace)


@pytest.mark.parametrize(
    ("unit", "at", "said"),
    [
        ("s", pa.array([0, 1], pa.timestamp("s")), "found at = '1970-01-01 00:00:00.000000000'"),
        ("datetime", [0, 1], "found at = 0; allowed: YYYY-MM-DD HH:MM:SS"),
        ("s", [0.0, float("nan")], ":2: found at = NaN; allowed: a number of seconds"),
    ],
)
def test_a_time_of_the_wrong_type_is_refused(tmp_path: Path, unit: str, at: Any, said: str) -> None:
    assert said in refusal(log(tmp_path, at=at, unit=unit))


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    message = refusal(log(tmp_path, when=[1, 2]))
    assert message == (
        f"{path}: found the columns in, out, when, without at; allowed: columns as the config"
        " names them"
    )
    with pytest.raises(TraceError, match="found a parquet file; allowed: kind: parquet, with"):
        open_trace(path)
    path.write_bytes(b"PAR1 and nothing else")
    trace = ParquetTrace(path, columns=COLUMNS, time_unit="s")
    assert f"{path}: found no parquet (" in refusal(trace)
    path.unlink()
    assert f"{path}: found no such file" in refusal(trace)
