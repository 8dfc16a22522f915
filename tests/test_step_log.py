"""Step logs: every form that is read, and what is wrong in those that are not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from calibrate.step_log import StepLog, read_step_log
from traces.file import TraceFile
from traces.schema import TraceError

TIMED = "start_ns,end_ns,tokens,decodes\n"


def log_of(folder: Path, text: str, **options: object) -> StepLog:
    path = folder / "steps.csv"
    path.write_text(text, encoding="utf-8")
    return read_step_log(TraceFile(path), **options)  # type: ignore[arg-type]


def test_rows_are_added_up(tmp_path: Path) -> None:
    log = log_of(
        tmp_path,
        "step,sched_begin_s,update_end_s,reqs\n"
        "0,1.5,1.75,a:0:4:N|b:10:3|team:c:99:1:C|d:7:1\n"
        "1,1.750000001,1.76,d:8:1:C\n",
    )
    # Chunks of 4 behind 0 and of 3 behind 10: 1+2+3+4 and 11+12+13 pairs; contexts 100 and 8.
    assert log.features.tolist() == [[9, 2, 108, 2, 46], [1, 1, 9, 0, 0]]
    assert log.duration_ns.tolist() == [250_000_000, 9_999_999]
    assert log.line.tolist() == [2, 3]
    assert log.host_ns == 1
    assert not log.notes


@pytest.mark.parametrize(("unit", "ns"), [("ns", 1), ("us", 10**3), ("ms", 10**6), ("s", 10**9)])
def test_durations_in_any_unit(tmp_path: Path, unit: str, ns: int) -> None:
    log = log_of(tmp_path, f"duration_{unit},tokens,decodes\n15,3,2\n22.0,2,1\n")
    assert log.duration_ns.tolist() == [15 * ns, 22 * ns]
    assert log.features.tolist() == [[3, 2, 0, 0, 0], [2, 1, 0, 0, 0]]
    assert log.known == ("tokens", "decodes")
    assert log.host_ns == 0


def test_columns_that_are_called_otherwise_come_first(tmp_path: Path) -> None:
    text = "duration_ns,reqs,took,batch\n1,a:0:7,2.5,30\n"
    log = log_of(tmp_path, text, columns={"duration_us": "took", "tokens": "batch"})
    assert log.duration_ns.tolist() == [2500]
    assert log.features.tolist() == [[30, 0, 0, 0, 0]]
    assert log.columns == {"duration_us": "took", "tokens": "batch"}
    assert log_of(tmp_path, text).features.tolist() == [[7, 0, 0, 1, 28]]


def test_named_starts_and_ends_come_before_durations(tmp_path: Path) -> None:
    text = "duration_ns,begin,done,tokens\n1,5,9,4\n"
    named = {"start_us": "begin", "end_us": "done"}
    assert log_of(tmp_path, text, columns=named).duration_ns.tolist() == [4000]


def test_host_time_is_that_between_steps_while_somebody_decodes(tmp_path: Path) -> None:
    # Gaps of 5, 1000 (idle: only prompts afterwards), 7, 9.
    rows = "0,10,4,0\n15,20,1,1\n1020,1030,4,0\n1037,1040,1,1\n1049,1050,1,1\n"
    assert log_of(tmp_path, TIMED + rows).host_ns == 7


def test_overlapping_steps_count_from_the_end_of_the_last_one(tmp_path: Path) -> None:
    log = log_of(tmp_path, TIMED + "0,10,1,1\n5,18,1,1\n9,30,1,1\n31,35,1,1\n")
    assert log.duration_ns.tolist() == [10, 8, 12, 4]
    assert log.host_ns == 0
    assert log.notes == {"steps that began before the last one ended, counted from its end": 2}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = "0,900,4,0\n1000,1010,1,1\n1012,1013,0,0\n\n1020,1030,1,1\n"
    log = log_of(tmp_path, TIMED + rows, skip=1)
    assert log.duration_ns.tolist() == [10, 10]
    assert log.line.tolist() == [3, 6]
    assert log.notes == {"first steps skipped": 1, "steps that compute nothing dropped": 1}


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv.gz"
    path.write_bytes(gzip.compress(b"duration_ns,tokens\r\n5,1\r\n"))
    assert read_step_log(TraceFile(path)).duration_ns.tolist() == [5]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", {}, r"steps.csv: found an empty file; allowed: a line of column names"),
        (
            "a,b\n1,2\n",
            {},
            r"steps.csv:1: found the columns a, b; allowed: either duration_ns \(or",
        ),
        (
            "start_s,tokens\n",
            {},
            r"csv:1: found the columns start_s, tokens; allowed: either duration",
        ),
        ("duration_s,decodes\n", {}, "csv:1: found the columns .*; allowed: reqs, or tokens and"),
        ("duration_s,tokens\n", {"token": "b"}, "--columns token=; allowed: did you mean tokens"),
        ("duration_s,n\n", {"tokens": "m"}, "csv:1: found no column 'm'; allowed: duration_s, n"),
        (
            "a,b,c,tokens\n",
            {"duration_s": "a", "end_s": "b"},
            "csv:1: .*; allowed: either duration",
        ),
        ("duration_s,tokens\n1,2.5\n", {}, "csv:2: found 2.5 tokens, .*allowed: whole numbers"),
        ("duration_s,tokens\n1\n", {}, "steps.csv:2: found 1 values; allowed: 2, as the header"),
        ("duration_s,tokens\n1,two\n", {}, "csv:2: found tokens = 'two'; allowed: a number"),
        ("duration_s,tokens\n1,-1\n", {}, "csv:2: found tokens = '-1'; allowed: a number from 0"),
        ("duration_s,tokens\nnan,1\n", {}, "csv:2: found duration_s = 'nan'; allowed: a number"),
        ("duration_s,tokens\n1e99,1\n", {}, "csv:2: found duration_s = '1e99'; allowed"),
        ("duration_s,tokens\n1,1\n0,1\n", {}, "csv:3: found a step of 0 ns; allowed: 1 to"),
        (
            TIMED + "5,9,1,1\n1,8,1,1\n",
            {},
            "csv:3: found a step of -1 ns; allowed: .* in the order",
        ),
        (TIMED + "5,4,1,1\n", {}, "csv:2: found a step of -1 ns"),
        ("duration_s,reqs\n1,a:1\n", {}, "csv:2: found reqs with 'a:1'; allowed: id:computed"),
        ("duration_s,reqs\n1,a:1:2|\n", {}, "csv:2: found reqs with ''; allowed: id:computed"),
        ("duration_s,reqs\n1,a:-1:2\n", {}, "csv:2: found reqs with 'a:-1:2'; allowed"),
        (TIMED + "0,9,1,2\n", {}, "csv:2: found 1 tokens, 2 decodes with 0 of context, 0 chunks"),
        ("duration_s,tokens,decodes,decode_context\n1,9,2,1\n", {}, "csv:2: found 9 tokens, 2 dec"),
        ("duration_s,tokens\n1,5\n1," + "9" * 200_000, {}, "csv:3: found no CSV .field larger"),
    ],
)
def test_bad_logs(tmp_path: Path, text: str, columns: dict[str, str], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        log_of(tmp_path, text, columns=columns)
