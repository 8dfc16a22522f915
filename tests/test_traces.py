"""Azure's reader and what all readers share: exact arithmetic, and every error message."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from sim.request import Request
from tests.trace_files import BLOCKS, HEADER, NATIVE, azure, json_lines, refusal
from traces.azure import AzureTrace
from traces.contract import check_trace
from traces.mooncake import MooncakeTrace
from traces.native import NativeTrace
from traces.reader import FORMATS, open_trace
from traces.schema import Trace, TraceError
from traces.streams import Streams


def test_azure_keeps_every_digit_of_a_stamp(tmp_path: Path) -> None:
    trace = azure(
        tmp_path,
        "2023-11-16 23:59:59.9999999,374,44",
        "2023-11-17 00:00:00.0000000,396,109",
        "2023-11-17 00:00:00.000000001,1,1",
        "2023-11-17 00:00:01,1,1",
    )
    assert [request.arrival_ns for request in trace] == [0, 100, 101, 1_000_000_100]
    assert trace.shifted_by == "2023-11-16 23:59:59.9999999"
    check_trace(trace)


def test_blank_lines_are_no_header(tmp_path: Path) -> None:
    trace = azure(tmp_path, HEADER, " ", "2023-11-16 18:15:46.1,3,4", header="")
    assert [request.prompt_tokens for request in trace] == [3]
    assert type(open_trace(tmp_path / "azure.csv")) is AzureTrace


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_azure_reads_lengths_in_private_streams(tmp_path: Path, end: str) -> None:
    stamp = "2023-11-16 18:15:46.6805900"
    trace = azure(tmp_path, f"{stamp},374,44", f"{stamp},396,109", "", end=end)
    assert list(trace) == [
        Request("r00000", 0, ((0, 0, 374),), 44, 1),
        Request("r00001", 0, ((2, 0, 396),), 109, 3),
    ]


def test_azure_drops_and_counts_rows_without_tokens(tmp_path: Path) -> None:
    stamp = "2023-11-16 18:15:46.{}"
    rows = [stamp.format(row) for row in ("1,0,5", "2,5,0", "3,0,0", "4,7,8", "5,0,1")]
    trace = azure(tmp_path, *rows)
    for _ in range(2):
        assert [(request.id, request.arrival_ns) for request in trace] == [("r00003", 0)]
        assert trace.notes == {
            "requests with zero prompt tokens dropped": 3,
            "requests with zero output tokens dropped": 1,
        }
    assert trace.shifted_by == "2023-11-16 18:15:46.4"


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("{},-5,44", "ContextTokens = '-5'"),
        ("{},5,abc", "GeneratedTokens = 'abc'"),
        ("{},5,1_000", "GeneratedTokens = '1_000'"),
        ("{},5, 7", "GeneratedTokens = ' 7'"),
        ("{},5,", "GeneratedTokens = ''"),
        ("{},5,٣", "GeneratedTokens = '٣'"),
        ("{},3.0,7", "ContextTokens = '3.0'"),
        ("{},2000000000,7", "ContextTokens = '2000000000'"),
        ("{},5," + "9" * 5000, "GeneratedTokens = '99999"),
    ],
)
def test_azure_refuses_lengths_that_are_no_counts(tmp_path: Path, row: str, found: str) -> None:
    stamp = "2023-11-16 18:15:46.6805900"
    trace = azure(tmp_path, f"{stamp},1,1", row.format(stamp))
    message = refusal(trace)
    assert message.startswith(f"{tmp_path / 'azure.csv'}:3: found {found}")
    assert message.endswith("; allowed: a whole number from 0 to 1000000000")


@pytest.mark.parametrize(
    ("rows", "line", "found", "allowed"),
    [
        (
            ["2023-11-16 18:15:46.2,1,1", "2023-11-16 18:15:46.1,1,1"],
            3,
            "2023-11-16 18:15:46.1, which is earlier than the row before it"
            " (2023-11-16 18:15:46.2)",
            "rows in order of arrival (python -m traces.sort {path} --out SORTED makes them so;"
            " the option reorder_rows: N reorders within N rows)",
        ),
        (
            ["2023-13-16 18:15:46.2,1,1"],
            2,
            "TIMESTAMP = '2023-13-16 18:15:46.2'",
            "YYYY-MM-DD HH:MM:SS with up to 9 fractional digits",
        ),
        (
            ["0001-01-01 00:00:00+05:00,1,1"],
            2,
            "TIMESTAMP = '0001-01-01 00:00:00+05:00'",
            "YYYY-MM-DD HH:MM:SS with up to 9 fractional digits",
        ),
        (
            ["9999-12-31 23:59:59-05:00,1,1"],
            2,
            "TIMESTAMP = '9999-12-31 23:59:59-05:00'",
            "YYYY-MM-DD HH:MM:SS with up to 9 fractional digits",
        ),
        (
            ["2024-05-10 00:00:00.009930+00:00,1,1", "2024-05-10 00:00:01,1,1"],
            3,
            "TIMESTAMP = '2024-05-10 00:00:01'",
            "YYYY-MM-DD HH:MM:SS with up to 9 fractional digits, all with a time zone or all"
            " without",
        ),
        (
            ["XXX,42,285"],
            2,
            "TIMESTAMP = 'XXX' (a file of lengths, without arrival times: kind lengths reads it)",
            "YYYY-MM-DD HH:MM:SS with up to 9 fractional digits",
        ),
        (
            ["1800-01-01 00:00:00,1,1", "2023-01-01 00:00:00,1,1"],
            3,
            "2023-01-01 00:00:00",
            "arrivals within 146 years (2**62 ns)",
        ),
        (
            ["2023-11-16 18:15:46.2,1"],
            2,
            "2 columns ('2023-11-16 18:15:46.2,1')",
            f"3 columns ({HEADER})",
        ),
    ],
)
def test_azure_refuses_a_row(
    tmp_path: Path, rows: list[str], line: int, found: str, allowed: str
) -> None:
    message = refusal(azure(tmp_path, *rows))
    path = tmp_path / "azure.csv"
    assert message == f"{path}:{line}: found {found}; allowed: {allowed.format(path=path)}"


def test_azure_shows_a_wrong_header_and_the_right_one(tmp_path: Path) -> None:
    message = refusal(azure(tmp_path, "1,2,3", header="Timestamp,Model,Request tokens"))
    assert message == (
        f"{tmp_path / 'azure.csv'}:1: found the header 'Timestamp,Model,Request tokens';"
        f" allowed: the header '{HEADER}'"
    )


def test_azure_refuses_a_trace_without_requests(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text("")
    assert refusal(AzureTrace(path)) == (
        f"{path}:1: found an empty file; allowed: the header '{HEADER}'"
    )
    assert refusal(azure(tmp_path)) == f"{path}: found no requests; allowed: at least one request"
    assert refusal(azure(tmp_path, "2023-11-16 18:15:46.2,0,1")) == (
        f"{path}: found no requests (1 requests with zero prompt tokens dropped);"
        " allowed: at least one request"
    )


READERS: list[Callable[[Path], Trace]] = [AzureTrace, MooncakeTrace, NativeTrace, open_trace]


@pytest.mark.parametrize("read", READERS)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, read: Callable[[Path], Trace]) -> None:
    allowed = "; allowed: a UTF-8 text file, plain or gzip"
    cases: dict[str, tuple[Callable[[Path], object], str]] = {
        "missing": (Path.exists, "found no such file"),
        "folder": (Path.mkdir, "found a folder"),
        "cut.gz": (lambda path: path.write_bytes(gzip.compress(b"x" * 99)[:-9]), "a damaged gzip"),
        "bad.gz": (lambda path: path.write_bytes(b"\x1f\x8bnonsense"), "a damaged gzip"),
        "latin": (lambda path: path.write_bytes("é".encode("latin-1")), "bytes that are no text"),
    }
    for name, (make, found) in cases.items():
        path = tmp_path / name
        make(path)
        with pytest.raises(TraceError) as refused:
            list(read(path))
        message = str(refused.value)
        assert message.startswith(f"{path}: found ")
        assert found in message
        assert message.endswith(allowed)


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n2023-11-16 18:15:46.2,1,1\n",
        json.dumps(BLOCKS),
        json.dumps(NATIVE),
    ],
)
def test_gzip_and_byte_order_marks_change_nothing(tmp_path: Path, text: str) -> None:
    plain, marked, zipped = tmp_path / "plain", tmp_path / "marked", tmp_path / "zipped"
    plain.write_text(text)
    marked.write_text("\ufeff" + text)
    zipped.write_bytes(gzip.compress(text.encode()))
    assert list(open_trace(plain)) == list(open_trace(marked)) == list(open_trace(zipped))
    assert open_trace(plain).fingerprint() == open_trace(zipped).fingerprint()


def test_fingerprints_tell_content_and_parameters_apart(tmp_path: Path) -> None:
    path = json_lines(tmp_path, BLOCKS)
    moved = tmp_path / "moved"
    moved.write_bytes(path.read_bytes())
    changed = tmp_path / "changed"
    changed.write_bytes(path.read_bytes() + b"\n")
    print_of = MooncakeTrace(path).fingerprint()
    assert MooncakeTrace(moved).fingerprint() == print_of
    others = [
        MooncakeTrace(changed).fingerprint(),
        MooncakeTrace(path, block_tokens=256).fingerprint(),
        NativeTrace(path).fingerprint(),
    ]
    assert len({print_of, *others}) == 4


def test_the_first_line_tells_the_format(tmp_path: Path) -> None:
    azure(tmp_path)
    assert type(open_trace(tmp_path / "azure.csv")) is AzureTrace
    path = json_lines(tmp_path, BLOCKS)
    trace = open_trace(path, block_tokens=300)
    assert type(trace) is MooncakeTrace
    assert trace.block_tokens == 300
    assert type(open_trace(json_lines(tmp_path, NATIVE))) is NativeTrace
    assert open_trace(path, kind="azure").name == "trace.jsonl"


def test_an_unknown_format_lists_the_known(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("Timestamp,Model\n1,2\n")
    with pytest.raises(TraceError) as refused:
        open_trace(path)
    message = str(refused.value)
    assert message.startswith(
        f"{path}:1: found the first line 'Timestamp,Model'; allowed: for a log of your own kind: "
    )
    for kind, form in FORMATS.items():
        assert f"{kind} ({form.looks})" in message
    path.write_text("\n \n")
    with pytest.raises(TraceError, match=r"trace\.csv: found an empty file; allowed: azure"):
        open_trace(path)


def test_an_unknown_kind_lists_the_known() -> None:
    with pytest.raises(
        ValueError, match="trace kind 'azur': allowed auto, azure, lengths, mooncake, bailian"
    ):
        open_trace("any", kind="azur")


def test_an_error_survives_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(TraceError("a.csv", 3, "this", "that")))
    assert str(error) == "a.csv:3: found this; allowed: that"
    assert (error.path, error.line, error.found, error.allowed) == ("a.csv", 3, "this", "that")


def test_streams_are_dense_and_shared_content_shares_one() -> None:
    streams = Streams()
    assert [streams.of(7), streams.private(), streams.of("x"), streams.of(7)] == [0, 1, 2, 0]
