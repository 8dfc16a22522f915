"""traces.sort: the same lines in order of arrival, and nothing half-written."""

from __future__ import annotations

import gzip
import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import experiments.cli
import experiments.trace_sort
from tests.trace_files import BLOCKS, HEADER, NATIVE, azure, json_lines
from traces.reader import open_trace
from traces.schema import TraceError
from traces.sorting import sort_trace

STAMP = "2023-11-16 18:15:46.{},{},1"


def test_lines_keep_their_bytes_and_a_header_its_place(tmp_path: Path) -> None:
    path, out = tmp_path / "azure.csv", tmp_path / "out.csv"
    azure(tmp_path, STAMP.format(3, 1), "", STAMP.format(1, 2), STAMP.format(1, 3))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert sort_trace(path, out) == (3, 2, 1)
    rows = [HEADER, *(STAMP.format(*row) for row in ((1, 2), (1, 3), (3, 1)))]
    assert out.read_bytes() == b"\xef\xbb\xbf" + "".join(f"{row}\r\n" for row in rows).encode()
    assert [request.prompt_tokens for request in open_trace(out)] == [2, 3, 1]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_equal_arrivals_keep_their_order(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("sort")
    rows = [BLOCKS | {"timestamp": at, "output_length": 1 + k} for k, at in enumerate(arrivals)]
    path = json_lines(folder, *rows)
    done = sort_trace(path, path)  # in place
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert written == sorted(rows, key=lambda row: row["timestamp"])
    assert done.moved == sum(
        at < max(arrivals[:index], default=0) for index, at in enumerate(arrivals)
    )
    assert list(folder.iterdir()) == [path]


def test_gzip_in_and_out(tmp_path: Path) -> None:
    late, early = (json.dumps(BLOCKS | {"timestamp": at}) for at in (9, 8))
    path, out = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl.gz"
    path.write_bytes(gzip.compress(f"{late}\n\n{early}".encode()))
    assert sort_trace(path, out) == (2, 1, 1)
    assert gzip.decompress(out.read_bytes()).decode() == f"{early}\n{late}\n"


def test_a_format_of_ones_own_names_its_column(tmp_path: Path) -> None:
    path, out = tmp_path / "own.csv", tmp_path / "out.csv"
    path.write_text("what,when\na,10\nb,9\n")
    sort_trace(path, out, column="when", time_unit="s")
    assert out.read_text() == "what,when\nb,9\na,10\n"  # as numbers, not as texts


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("my log.csv", "a b,in,out\n2,7,1\n1,8,1\n", {"arrival": "a b"}),
        (
            "log.jsonl",
            '{"at": {"s": 2}, "in": 7, "out": 1}\n{"at": {"s": 1}, "in": 8, "out": 1}\n',
            {"arrival": "at.s"},
        ),
    ],
)
def test_the_command_that_the_refusal_names_sorts_the_file(
    tmp_path: Path, name: str, text: str, columns: dict[str, str]
) -> None:
    path = tmp_path / name
    path.write_text(text)
    options = {
        "columns": columns | {"prompt_tokens": "in", "output_tokens": "out"},
        "time_unit": "s",
    }
    kind = path.suffix.removeprefix(".")
    with pytest.raises(TraceError) as refused:
        list(open_trace(path, kind=kind, **options))
    command = str(refused.value).partition("python -m traces.sort ")[2].partition(" makes")[0]
    arguments = shlex.split(command)
    arguments[arguments.index("SORTED")] = str(path)
    result = CliRunner().invoke(experiments.trace_sort.main, arguments)
    assert result.exit_code == 0, result.output
    assert [request.prompt_tokens for request in open_trace(path, kind=kind, **options)] == [8, 7]


def test_both_units_of_the_native_format(tmp_path: Path) -> None:
    slow = {key: value for key, value in NATIVE.items() if key != "arrival_ns"}
    path = json_lines(tmp_path, slow | {"arrival_us": 1}, NATIVE | {"arrival_ns": 999})
    assert sort_trace(path, tmp_path / "out").moved == 1


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found an empty file"),
        (
            b"a,b\n1,2\n",
            "allowed: for a log of your own --column and --time-unit; else kinds azure",
        ),
        (b'{"prompt": "Hi"}\n', "found a file of kind vllm_custom, whose lines are not requests"),
        (b'[{"conversations": []}]', "found a file of kind sharegpt, whose lines are not"),
        (b"PAR1", "found a parquet file"),
        (HEADER.encode(), "found no rows"),
        (f"{HEADER}\r{STAMP.format(1, 1)}\r".encode(), ":1: found a carriage return alone"),
        (b'{"input_length": 1, "output_length": 1}', ":1: found a row without arrival; allowed"),
    ],
)
def test_a_file_that_cannot_be_sorted(tmp_path: Path, content: bytes, found: str) -> None:
    path, out = tmp_path / "in", tmp_path / "out"
    path.write_bytes(content)
    with pytest.raises(TraceError) as refused:
        sort_trace(path, out)
    assert found in str(refused.value)
    assert not out.exists()


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    path = json_lines(tmp_path, BLOCKS, BLOCKS | {"timestamp": 6}, "")
    path.write_text(path.read_text().replace('""\n', "\n"))
    for app, words, out in (
        (experiments.trace_sort.main, [], tmp_path / "out"),
        (experiments.cli.main, ["trace", "sort"], tmp_path / "again"),
    ):
        done = CliRunner().invoke(app, [*words, str(path), "--out", str(out)])
        assert done.exit_code == 0
        assert done.output == (
            f"2 rows in {out}, 1 of them moved up; 1 blank lines dropped."
            f" Run it with --set trace.path={out}\n"
        )


def test_another_file_is_not_replaced_unasked(tmp_path: Path) -> None:
    path, other = json_lines(tmp_path, BLOCKS), tmp_path / "other"
    other.write_text("mine")
    call = [str(path), "--out", str(other)]
    refused = CliRunner().invoke(experiments.trace_sort.main, call)
    assert refused.exit_code == 2
    assert "exists; allowed: another name, FILE, or --force" in refused.stderr
    assert other.read_text() == "mine"
    assert CliRunner().invoke(experiments.trace_sort.main, [*call, "--force"]).exit_code == 0
    assert other.read_bytes() == path.read_bytes()
    in_place = [str(path), "--out", str(path)]
    assert CliRunner().invoke(experiments.trace_sort.main, in_place).exit_code == 0


def test_the_line_to_copy_can_be_pasted(tmp_path: Path) -> None:
    path = json_lines(tmp_path, BLOCKS)
    out = tmp_path / "in order"
    done = CliRunner().invoke(experiments.trace_sort.main, [str(path), "--out", str(out)])
    assert done.output.endswith(f" Run it with --set trace.path='{out}'\n")


def test_parquet_has_no_lines_to_sort(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"PAR1")
    with pytest.raises(TraceError, match="found a parquet file, whose rows are no lines; allowed"):
        sort_trace(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--column", "a"], "--column and --time-unit go together"),
        (["--column", "a", "--time-unit", "h"], "--time-unit h: allowed s, ms, us, ns, datetime"),
    ],
)
def test_the_command_refuses(tmp_path: Path, words: list[str], said: str) -> None:
    path = json_lines(tmp_path, BLOCKS)
    done = CliRunner().invoke(experiments.trace_sort.main, [str(path), "--out", str(path), *words])
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    path = json_lines(tmp_path, BLOCKS)
    out = tmp_path / "nowhere" / "out"
    done = CliRunner().invoke(experiments.trace_sort.main, [str(path), "--out", str(out)])
    assert done.exit_code == 2
    assert f"Error: {out}: found a place where nothing can be written (No such" in done.output
