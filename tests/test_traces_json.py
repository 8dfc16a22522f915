"""The readers of JSON lines, and the writer: exact arithmetic, and every error message."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.request import Request
from tests.trace_files import json_lines, mooncake, native, refusal
from traces.contract import check_trace
from traces.mooncake import MooncakeTrace
from traces.native import NativeTrace, write_trace
from traces.reader import open_trace
from traces.schema import TraceError

ORDER = (
    "rows in order of arrival (python -m traces.sort {path} --out SORTED makes them so;"
    " the option reorder_rows: N reorders within N rows)"
)


def test_mooncake_blocks_are_shared_and_the_last_is_partial(tmp_path: Path) -> None:
    trace = mooncake(
        tmp_path,
        {},
        {"timestamp": 10, "input_length": 1024, "hash_ids": [0, 90]},
        {"timestamp": 10, "input_length": 1, "hash_ids": [2**62]},
    )
    assert list(trace) == [
        Request("r00000", 0, ((0, 0, 512), (1, 0, 88)), 5, 2),
        Request("r00001", 3_000_000, ((0, 0, 512), (3, 0, 512)), 5, 4),
        Request("r00002", 3_000_000, ((5, 0, 1),), 5, 6),
    ]
    assert trace.shifted_by == "timestamp = 7"
    check_trace(trace)


def test_mooncake_blocks_have_the_size_one_says(tmp_path: Path) -> None:
    trace = mooncake(tmp_path, {"hash_ids": [4, 5, 6]}, block_tokens=256)
    assert [request.prompt for request in trace] == [((0, 0, 256), (1, 0, 256), (2, 0, 88))]
    with pytest.raises(ValueError, match="block_tokens = 0: allowed 1 or more"):
        mooncake(tmp_path, {}, block_tokens=0)


def test_mooncake_drops_and_counts_rows_without_tokens(tmp_path: Path) -> None:
    trace = mooncake(tmp_path, {"output_length": 0}, {}, {"input_length": 0, "hash_ids": []})
    assert [request.id for request in trace] == ["r00001"]
    assert trace.notes == {
        "requests with zero prompt tokens dropped": 1,
        "requests with zero output tokens dropped": 1,
    }


@pytest.mark.parametrize(
    ("change", "found", "allowed"),
    [
        (
            {"hash_ids": [0]},
            "1 hash_ids for input_length = 600",
            "2 (a block has 512 tokens)",
        ),
        (
            {"hash_ids": [0, True]},
            "True among hash_ids",
            f"a whole number from 0 to {2**63 - 1}",
        ),
        ({"hash_ids": "01"}, "hash_ids = '01'", "a list"),
        (
            {"input_length": -1},
            "input_length = -1",
            "a whole number from 0 to 1000000000",
        ),
        (
            {"output_length": 3.5},
            "output_length = 3.5",
            "a whole number from 0 to 1000000000",
        ),
        (
            {"timestamp": "7"},
            "timestamp = '7'",
            "a number of milliseconds",
        ),
        (
            {"timestamp": 6},
            "timestamp = 6, which is earlier than the row before it (timestamp = 7)",
            ORDER,
        ),
        (
            {"timestamp": None},
            "a request without timestamp, and no earlier turn in its session",
            "a timestamp in ms, or for all such requests the options arrivals_per_second: N or"
            " at_once: true",
        ),
        (
            {"delay": 5},
            "timestamp beside delay",
            "one of them",
        ),
        (
            {"hash_id": [1]},
            "field 'hash_id'",
            "fields output_length, and optionally timestamp, input_length, hash_ids,"
            " text_input, session_id, delay, extra",
        ),
        (
            {"session_id": 4},
            "session_id = 4",
            "with the option session_input: new (a later turn's row is put behind the turns"
            " before it, as AIPerf replays it) or whole (it is the whole prompt)",
        ),
        (
            {"text_input": "Hi"},
            "both of input_length and text_input",
            "one of them",
        ),
    ],
)
def test_mooncake_refuses_a_row(
    tmp_path: Path, change: dict[str, object], found: str, allowed: str
) -> None:
    message = refusal(mooncake(tmp_path, {}, change))
    path = tmp_path / "trace.jsonl"
    assert message == f"{path}:2: found {found}; allowed: {allowed.format(path=path)}"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{", "'{', which is no JSON ("),
        ("[" * 100_000, "'[[["),
        ("[1, 2]", "[1, 2];"),
        ('{"a": ' + "9" * 5000, '\'{"a": 999'),
        ('{"a": 1e99999999999999999999}', '\'{"a": 1e999'),
    ],
)
def test_a_line_that_is_no_object_is_refused(tmp_path: Path, line: str, found: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n" + line)
    message = refusal(MooncakeTrace(path))
    assert message.startswith(f"{path}:2: found {found}")
    assert message.endswith("; allowed: one JSON object a line")
    assert len(message) < 400


def test_native_keeps_arrivals_as_recorded(tmp_path: Path) -> None:
    path = json_lines(
        tmp_path,
        {"request_id": "a", "arrival_us": 36960, "arrival_s": 0.03696, "prompt_tokens": 3}
        | {"prompt": [[1, 0, 2], [7, 5, 1]], "output_tokens": 2, "out_stream": 2, "priority": -1},
        {"request_id": "b", "arrival_ns": 36960001, "prompt": [[2, 0, 2]], "output_tokens": 1}
        | {"out_stream": 3, "max_tokens": 9, "tenant": "t", "session": "s"},
    )
    trace = NativeTrace(path)
    assert list(trace) == [
        Request("a", 36_960_000, ((1, 0, 2), (7, 5, 1)), 2, 2, priority=-1),
        Request("b", 36_960_001, ((2, 0, 2),), 1, 3, max_tokens=9, tenant="t", session="s"),
    ]
    assert trace.shifted_by is None
    check_trace(trace)


@pytest.mark.parametrize(
    ("change", "found", "allowed"),
    [
        ({"out_stream": 9}, "request_id = 'a', used on line 1", "a new one for each request"),
        ({"request_id": "b"}, "out_stream = 1, used on line 1", "a new one for each request"),
        ({"request_id": 7}, "request_id = 7", "a text, not empty"),
        ({"request_id": ""}, "request_id = ''", "a text, not empty"),
        ({"session": 7}, "session = 7", "a text, not empty"),
        (
            {"arrival_ns": 4, "request_id": "b", "out_stream": 9},
            "arrival at 4 ns, which is earlier than the row before it (arrival at 5 ns)",
            ORDER,
        ),
        ({"arrival_us": 4}, "both of arrival_ns and arrival_us", "one of them"),
        ({"arrival_ns": None}, "neither of arrival_ns and arrival_us", "one of them"),
        ({"arrival_ns": -1}, "arrival_ns = -1", f"a whole number from 0 to {2**62 - 1}"),
        (
            {"arrival_ns": 2**62},
            f"arrival_ns = {2**62}",
            f"a whole number from 0 to {2**62 - 1}",
        ),
        ({"output_tokens": 0}, "output_tokens = 0", "a whole number from 1 to 1000000000"),
        ({"max_tokens": 1}, "max_tokens = 1", "a whole number from 2 to 1000000000"),
        ({"out_stream": -1}, "out_stream = -1", f"a whole number from 0 to {2**63 - 1}"),
        ({"prompt": []}, "a prompt of 0 tokens", "1 to 1000000000 tokens"),
        (
            {"prompt": [[0, 0, 0]]},
            "the run [0, 0, 0] in prompt",
            "[stream, start, length], whole numbers from 0, 0 and 1",
        ),
        (
            {"prompt": [[0, 1]]},
            "the run [0, 1] in prompt",
            "[stream, start, length], whole numbers from 0, 0 and 1",
        ),
        (
            {"prompt_tokens": 4},
            "prompt_tokens = 4 beside a prompt of 3",
            "the sum of the runs' lengths",
        ),
    ],
)
def test_native_refuses_a_row(
    tmp_path: Path, change: dict[str, object], found: str, allowed: str
) -> None:
    message = refusal(native(tmp_path, {}, change))
    path = tmp_path / "trace.jsonl"
    assert message == f"{path}:2: found {found}; allowed: {allowed.replace('{path}', str(path))}"


def test_native_refuses_a_misspelt_field(tmp_path: Path) -> None:
    message = refusal(native(tmp_path, {"prioritty": 1}))
    assert ":1: found field 'prioritty'; allowed: fields request_id, prompt," in message
    assert ", priority, max_tokens, tenant, session" in message


names = st.none() | st.text(min_size=1, max_size=5)
numbers = st.integers(0, 2**63 - 1)
runs = st.tuples(numbers, st.integers(0, 10**9), st.integers(1, 10**6))


@st.composite
def request_lists(draw: st.DrawFn) -> list[Request]:
    count = draw(st.integers(1, 5))
    times = st.integers(0, 2**62 - 1)
    arrivals = sorted(draw(st.lists(times, min_size=count, max_size=count)))
    ids = draw(st.lists(st.text(min_size=1), min_size=count, max_size=count, unique=True))
    streams = draw(st.lists(numbers, min_size=count, max_size=count, unique=True))
    requests = []
    for name, arrival_ns, stream in zip(ids, arrivals, streams, strict=True):
        output_tokens = draw(st.integers(1, 10**6))
        requests.append(
            Request(
                id=name,
                arrival_ns=arrival_ns,
                prompt=tuple(draw(st.lists(runs, min_size=1, max_size=4))),
                output_tokens=output_tokens,
                output_stream=stream,
                max_tokens=draw(st.none() | st.integers(output_tokens, 10**9)),
                priority=draw(st.integers(-(2**63), 2**63 - 1)),
                tenant=draw(names),
                session=draw(names),
            )
        )
    return requests


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round-trips")


@settings(deadline=None)
@given(requests=request_lists(), name=st.sampled_from(["trace.jsonl", "trace.jsonl.gz"]))
def test_what_is_written_is_read(folder: Path, requests: list[Request], name: str) -> None:
    path = folder / name
    write_trace(path, requests)
    assert list(NativeTrace(path)) == requests
    first = path.read_bytes()
    write_trace(path, open_trace(path, kind="native"))
    assert path.read_bytes() == first
    assert [found.name for found in folder.iterdir() if found.name.startswith(".")] == []


def test_a_broken_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text("old")
    trace = native(tmp_path, {}, {})  # its second row is a duplicate
    with pytest.raises(TraceError, match="used on line 1"):
        write_trace(path, trace)
    assert path.read_text() == "old"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["old.jsonl", "trace.jsonl"]
