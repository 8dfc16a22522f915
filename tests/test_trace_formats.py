"""Every format, on lines as they are upstream: what is read, and what is counted."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from experiments.build_trace import build_trace
from experiments.config import parse_config
from experiments.trace_config import TraceFile as Sections
from sim.request import Request, Run
from tests.trace_files import refusal
from traces.contract import check_trace
from traces.reader import FORMATS, open_trace
from traces.schema import TraceError
from traces.timeless import TIMELESS


def lines(*rows: object) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


class Example(NamedTuple):
    text: str
    requests: list[Request]
    notes: dict[str, int]
    options: dict[str, Any] | None = None
    told: bool = True
    """Whether the content tells the kind."""

    def write(self, folder: Path) -> Path:
        path = folder / "trace"
        path.write_text(self.text)
        return path

    @property
    def given(self) -> dict[str, Any]:
        return self.options or {}


def alone(*rows: tuple[int, int, int], **same: Any) -> list[Request]:
    """Requests (arrival in ns, prompt tokens, output tokens) of which nothing else is known."""
    return [
        Request(f"r{row:05d}", at, ((2 * row, 0, prompt),), output, 2 * row + 1, **same)
        for row, (at, prompt, output) in enumerate(rows)
    ]


S = 10**9
MS = 10**6
TALK = [
    {"from": "system", "value": "x" * 8},
    {"from": "gpt", "value": "left out"},
    {"from": "human", "value": "x" * 4},
    {"from": "human", "value": "x" * 5},
    {"from": "gpt", "value": "x" * 12},
    {"from": "user", "value": "x"},
    {"from": "gpt", "value": "x" * 4},
    {"from": "human", "value": "and no answer"},
]
EXAMPLES: dict[str, Example] = {
    "azure": Example(
        lines(
            "TIMESTAMP,ContextTokens,GeneratedTokens",
            "2024-05-10 00:00:00.009930+00:00,2162,5",
            "2024-05-10 02:00:00.017335+02:00,2399,6",
        ),
        alone((0, 2162, 5), (7_405_000, 2399, 6)),
        {},
    ),
    "lengths": Example(
        lines("TIMESTAMP,ContextTokens,GeneratedTokens", "XXX,42,285", "XXX,19,82"),
        alone((0, 42, 285), (0, 19, 82)),
        {},
        {"at_once": True},
    ),
    "mooncake": Example(
        lines(
            {"timestamp": 27482, "input_length": 513, "output_length": 5, "hash_ids": [46, 47]},
            {"timestamp": 30535.25, "input_length": 600, "output_length": 2, "hash_ids": [46, 5]},
        ),
        [
            Request("r00000", 0, ((0, 0, 512), (1, 0, 1)), 5, 2),
            Request("r00001", 3_053_250_000, ((0, 0, 512), (3, 0, 88)), 2, 4),
        ],
        {},
    ),
    "bailian": Example(
        lines(
            {"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 18}
            | {"output_length": 3, "type": "text", "turn": 1, "hash_ids": [1089, 1090]},
            {"chat_id": 160, "parent_chat_id": 159, "timestamp": 61.1141234567}
            | {"input_length": 16, "output_length": 4, "type": "text", "turn": 2}
            | {"hash_ids": [1089]},
            {"chat_id": 161, "parent_chat_id": 7, "timestamp": 62, "input_length": 1}
            | {"output_length": 1, "type": "search", "turn": 5, "hash_ids": [1090]},
            {"chat_id": 162, "parent_chat_id": 160, "timestamp": 62, "input_length": 1}
            | {"output_length": 1, "hash_ids": [7]},
        ),
        [
            Request("r00000", 0, ((0, 0, 16), (1, 0, 2)), 3, 2, session="159"),
            Request("r00001", 123_457, ((0, 0, 16),), 4, 3, session="159"),
            Request("r00002", 886_000_000, ((1, 0, 1),), 1, 4, session="7"),
            Request("r00003", 886_000_000, ((5, 0, 1),), 1, 6, session="159"),
        ],
        {
            "turns whose parent is not in the file": 1,
            "arrivals rounded to whole nanoseconds": 1,
        },
    ),
    "burstgpt": Example(
        lines(
            "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens"
            ",Log Type",
            "-5,12,3.5,ChatGPT,472,18,490,Conversation log",
            "45.1,,0,GPT-4,0,0,0,API log",
            "45.1,13,1,GPT-4,7,8,15,API log",
        ),
        [
            Request("r00000", 0, ((0, 0, 472),), 18, 1, session="12"),
            Request("r00002", 50_100_000_000, ((2, 0, 7),), 8, 3, session="13"),
        ],
        {"requests with zero prompt tokens dropped": 1},
    ),
    "sharegpt": Example(
        json.dumps([{"id": "a", "conversations": TALK}, {"id": "b", "conversations": TALK[:2]}]),
        [
            # 8 + 4 + 5 characters, each text rounded up to tokens by itself: 2 + 1 + 2.
            Request("s00000-t0", 0, ((0, 0, 5),), 3, 1, session="s00000"),
            Request(
                "s00000-t1",
                3 * 25 * MS + 100 * S,
                ((0, 0, 5), (1, 0, 3), (2, 0, 1)),
                1,
                3,
                session="s00000",
            ),
        ],
        {
            "texts whose tokens are estimated, 4 characters each": 8,
            "answers before the first message dropped": 2,
            "messages without an answer joined with the next": 1,
            "last messages without an answer dropped": 1,
            "conversations without a question and its answer dropped": 1,
            "later turns placed after a nominal answer time": 1,
        },
        {"at_once": True},
    ),
    "vidur": Example(
        lines(
            "arrived_at,num_prefill_tokens,num_decode_tokens,extra",
            "0.1,128,10,a",
            "0.30000000000000004,64.0,3,b",
        ),
        alone((0, 128, 10), (200 * MS, 64, 3)),
        {"arrivals rounded to whole nanoseconds": 1},
    ),
    "splitwise": Example(
        lines(
            "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size"
            ",token_size",
            "0,2,0,0.4,1,100,20",
            "1,2,0,1e-1,1,30,4",
        ),
        [
            Request("r00001", 0, ((0, 0, 30),), 4, 1, tenant="0"),
            Request("r00000", 300 * MS, ((2, 0, 100),), 20, 3, tenant="0"),
        ],
        {"rows moved up, by order of arrival": 1},
        {"reorder_rows": 1},
    ),
    "llmservingsim": Example(
        lines(
            {"input_toks": 3, "output_toks": 2, "arrival_time_ns": 46926808}
            | {"input_tok_ids": [1, 2, 3], "output_tok_ids": [4, 5]},
            {"input_toks": 6, "output_toks": 1, "arrival_time_ns": 46926809}
            | {"input_tok_ids": [1, 2, 3, 4, 5, 1]},
            {"input_toks": 3, "output_toks": 1, "arrival_time_ns": 46926810}
            | {"input_tok_ids": [1, 2, 4]},
            {"input_toks": 3, "output_toks": 1, "arrival_time_ns": 46926811},
        ),
        [
            Request("r00000", 0, ((0, 0, 3),), 2, 1),
            Request("r00001", 1, ((0, 0, 3), (1, 0, 2), (2, 0, 1)), 1, 3),
            Request("r00002", 2, ((0, 0, 2), (4, 0, 1)), 1, 5),
            Request("r00003", 3, ((6, 0, 3),), 1, 7),
        ],
        {},
    ),
    "native": Example(
        lines(
            {"request_id": "a", "arrival_us": 5, "prompt": [[0, 0, 3]], "output_tokens": 2}
            | {"out_stream": 1}
        ),
        [Request("a", 5000, ((0, 0, 3),), 2, 1)],
        {},
    ),
    "vllm_custom": Example(
        lines(
            {"prompt": "What is the capital of India?", "output_tokens": 10},
            {"prompt": "What is the capital of Iran?", "unknown": 1},
        ),
        [
            # 29 and 28 characters: 7 pieces and a rest, 7 pieces; the first 6 are alike.
            Request("r00000", 0, ((0, 0, 8),), 10, 1),
            Request("r00001", 0, ((0, 0, 6), (2, 0, 1)), 7, 3),
        ],
        {
            "texts whose tokens are estimated, 4 characters each": 2,
            "answers taken to have 7 tokens": 1,
        },
        {"at_once": True, "output_tokens": 7},
    ),
    "timed_trace": Example(
        lines(
            {"timestamp": 0, "input_length": 20, "output_length": 5, "hash_ids": [0, 1]},
            {"timestamp": 0.1, "input_length": 16, "output_length": 5, "hash_ids": [0]},
        ),
        [
            Request("r00000", 0, ((0, 0, 16), (1, 0, 4)), 5, 2),
            Request("r00001", 100_000, ((0, 0, 16),), 5, 3),
        ],
        {},
        {"chunk_hash_size": 16, "sec_multiplier": 0.001},
        told=False,
    ),
    "csv": Example(
        lines(
            'ts,"in, all",out,who,p,m', "1700000000000001,9,8,ann,-1,20", "1700000000000002,1,2,,,"
        ),
        [
            Request("r00000", 0, ((0, 0, 9),), 8, 1, max_tokens=20, priority=-1, tenant="ann"),
            Request("r00001", 1000, ((2, 0, 1),), 2, 3),
        ],
        {},
        {
            "columns": {"arrival": "ts", "prompt_tokens": "in, all", "output_tokens": "out"}
            | {"tenant": "who", "priority": "p", "max_tokens": "m"},
            "time_unit": "us",
        },
        told=False,
    ),
    "jsonl": Example(
        lines(
            {"at": "2026-03-01T09:00:00.1Z", "usage": {"in": 9, "out": 8}, "chat": 4, "n": "a"},
            {"at": "2026-03-01T11:00:00.2+02:00", "usage": {"in": 1, "out": 2}, "n": "b"},
        ),
        [
            Request("a", 0, ((0, 0, 9),), 8, 1, session="4"),
            Request("b", 100 * MS, ((2, 0, 1),), 2, 3),
        ],
        {},
        {
            "columns": {"arrival": "at", "prompt_tokens": "usage.in", "session": "chat"}
            | {"output_tokens": "usage.out", "id": "n"},
            "time_unit": "datetime",
        },
        told=False,
    ),
}


def test_every_format_has_an_example_and_a_section() -> None:
    sections = {
        section.model_fields["kind"].annotation.__args__[0] for section in Sections.__args__
    }
    assert sections == set(FORMATS) | {"auto"}
    assert set(EXAMPLES) == set(FORMATS) - {"parquet"}  # which is no text: see its own tests


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_format_is_read(tmp_path: Path, kind: str) -> None:
    example = EXAMPLES[kind]
    path = example.write(tmp_path)
    trace = open_trace(path, kind=kind, **example.given)
    assert list(trace) == example.requests
    assert trace.notes == example.notes
    check_trace(trace)
    assert all(one == two for one, two in zip(trace, trace, strict=True))  # both at once
    if example.told:
        recognised = open_trace(path, **example.given)
        assert recognised.kind == kind
        assert list(recognised) == example.requests


@pytest.mark.parametrize("kind", EXAMPLES)
def test_line_ends_marks_and_gzip_change_nothing(tmp_path: Path, kind: str) -> None:
    text, requests, *_ = EXAMPLES[kind]
    ways = {
        "crlf": text.replace("\n", "\r\n").encode(),
        "marked": ("\ufeff" + text).encode(),
        "unended": text.rstrip("\n").encode(),
        "zipped": gzip.compress(text.encode()),
    }
    for name, content in ways.items():
        path = tmp_path / name
        path.write_bytes(content)
        found = open_trace(
            path, kind="auto" if EXAMPLES[kind].told else kind, **EXAMPLES[kind].given
        )
        assert (name, list(found)) == (name, requests)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_config_reads_it(tmp_path: Path, kind: str) -> None:
    """What a config says is what its reader takes, with all defaults."""
    example = EXAMPLES[kind]
    path = example.write(tmp_path)
    values = {"kind": kind, "path": str(path), **example.given}
    trace = build_trace(parse_config({"trace": values}))
    assert list(trace) == example.requests


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "burstgpt",
        "Timestamp,Model\n",
        {},
        "1: found the header 'Timestamp,Model', without Request tokens, Response tokens, Log Type",
    ),
    ("vidur", "", {}, "1: found an empty file; allowed: a header with arrived_at, num_prefill"),
    (
        "vidur",
        "arrived_at,num_prefill_tokens,num_decode_tokens\n1,2\n",
        {},
        "2: found 2 columns ('1,2'); allowed: 3 columns (arrived_at,num_prefill_tokens,num_decode",
    ),
    (
        "vidur",
        "arrived_at,num_prefill_tokens,num_decode_tokens\nnan,2,3\n",
        {},
        "2: found arrived_at = 'nan'; allowed: a number of seconds",
    ),
    (
        "vidur",
        "arrived_at,num_prefill_tokens,num_decode_tokens\n1e99,2,3\n",
        {},
        "2: found arrived_at = '1e99'; allowed: a number of seconds",
    ),
    (
        "vidur",
        'arrived_at,num_prefill_tokens,num_decode_tokens\n"1\n",2,3\n',
        {},
        "2: found a quoted field over several lines; allowed: a row a line",
    ),
    (
        "vidur",
        'arrived_at,num_prefill_tokens,num_decode_tokens\n"1"2,2,3\n',
        {},
        "2: found no CSV ('",
    ),
    (
        "vidur",
        "arrived_at,arrived_at,num_prefill_tokens,num_decode_tokens\n1,1,2,3\n",
        {},
        "with arrived_at twice; allowed: a header with arrived_at, num_prefill_tokens,",
    ),
    (
        "splitwise",
        EXAMPLES["splitwise"].text.replace("0.4,1,", "0.4,2,"),
        {},
        "2: found batch_size = '2'; allowed: 1",
    ),
    (
        "llmservingsim",
        lines({"input_toks": 2, "output_toks": 1, "arrival_time_ns": 0, "input_tok_ids": [1]}),
        {},
        "1: found 1 input_tok_ids for input_toks = 2; allowed: one for each token",
    ),
    (
        "llmservingsim",
        lines({"input_toks": 1, "output_toks": 1, "arrival_time_ns": 0, "input_tok_ids": [1.5]}),
        {},
        "1: found 1.5 among input_tok_ids; allowed: whole numbers of 64 bits",
    ),
    (
        "vllm_custom",
        lines({"prompt": "Hi"}),
        {"at_once": True},
        "1: found no field 'output_tokens'; allowed: output_tokens in every row, or the option",
    ),
    (
        "vllm_custom",
        lines({"prompt": "Hi", "output_tokens": 1}),
        {},
        "1: found prompts without arrival times; allowed: arrivals_per_second: N (Poisson,",
    ),
    (
        "sharegpt",
        json.dumps([{"conversations": TALK}]),
        {},
        "1: found conversations without arrival times; allowed: arrivals_per_second: N",
    ),
    (
        "sharegpt",
        '[{"conversations": [{"from": "tool", "value": "x"}]}]',
        {"at_once": True},
        "1: found {'from': 'tool', 'value': 'x'} among conversations; allowed: {\"from\": ",
    ),
    (
        "sharegpt",
        '[{"conversations": []}]',
        {"at_once": True},
        " found no requests (1 conversations without a question and its answer dropped); allowed",
    ),
    ("sharegpt", '[\n{"a": 1}\n  7]', {"at_once": True}, "2: found no field 'conversations'"),
    (
        "lengths",
        EXAMPLES["lengths"].text + "2023-11-16 18:15:46,1,1\n",
        {"at_once": True},
        "4: found TIMESTAMP = '2023-11-16 18:15:46' in a file of lengths; allowed: XXX (kind azure",
    ),
    (
        "csv",
        "t,i,o,x\n1,2,3,4\n2,2,3,4\n",
        {"columns": {"arrival": "t", "prompt_tokens": "i", "output_tokens": "o", "id": "x"}}
        | {"time_unit": "s"},
        "3: found x = '4', used on line 2; allowed: a new one for each request",
    ),
    (
        "csv",
        "t,i,o,x\n1,2,3,2\n",
        {"columns": {"arrival": "t", "prompt_tokens": "i", "output_tokens": "o", "max_tokens": "x"}}
        | {"time_unit": "s"},
        "2: found x = '2'; allowed: a whole number from 3 to 1000000000",
    ),
]


@pytest.mark.parametrize(("kind", "text", "options", "said"), REFUSED)
def test_a_file_is_refused(
    tmp_path: Path, kind: str, text: str, options: dict[str, Any], said: str
) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    message = refusal(open_trace(path, kind=kind, **options))
    assert message.startswith(f"{path}:")
    assert said in message


def test_options_that_do_not_fit_the_format_found_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(EXAMPLES["azure"].text)
    with pytest.raises(TraceError, match="found at_once for a file of kind azure; allowed: reord"):
        open_trace(path, at_once=True, arrivals_per_second=None)


def test_filters_count_what_they_leave_out(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(EXAMPLES["burstgpt"].text)
    trace = open_trace(path, kind="burstgpt", model="GPT-4")
    assert [request.id for request in trace] == ["r00002"]
    assert trace.notes["requests whose Model is not GPT-4 left out"] == 1
    message = refusal(open_trace(path, kind="burstgpt", log_type="None such"))
    assert "found no requests (3 requests whose Log Type is not None such left out)" in message
    path.write_text(EXAMPLES["bailian"].text)
    trace = open_trace(path, type="search")
    assert [request.id for request in trace] == ["r00002"]
    assert trace.notes["requests that are not of type search left out"] == 3


def test_poisson_arrivals_follow_the_seed(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(EXAMPLES["lengths"].text)
    first, again, other = (
        open_trace(path, arrivals_per_second=2.0, seed=seed) for seed in (1, 1, 2)
    )
    assert list(first) == list(again)
    assert list(first) != list(other)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("kind", ["lengths", "sharegpt", "vllm_custom", "azure", "bailian"])
def test_the_seed_of_a_config_reaches_its_reader(tmp_path: Path, kind: str) -> None:
    example = EXAMPLES[kind]
    text = example.text
    if kind == "azure":  # ties, to be spread
        text += text.splitlines()[1] + "\n"
    path = tmp_path / "trace"
    path.write_text(text)
    timeless = FORMATS[kind].takes == TIMELESS
    drawn = {"arrivals_per_second": 2.0} if timeless else {"jitter_grid_ms": 50.0}
    drawn |= {"reorder_rows": 10} if kind == "azure" else {}
    kept = {name: value for name, value in example.given.items() if name not in TIMELESS}
    values = {"kind": kind, "path": str(path)} | kept | drawn
    traces = [build_trace(parse_config({"trace": values, "seed": seed})) for seed in (1, 1, 2)]
    first, again, other = ([request.arrival_ns for request in trace] for trace in traces)
    assert first == again != other
    prints = [trace.fingerprint() for trace in traces]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("azure", {"reorder_rows": -1}, "reorder_rows = -1: allowed 0 or more"),
        ("azure", {"jitter_grid_ms": -3.0}, "jitter_grid_ms = -3.0: allowed 1e-06 or more"),
        ("azure", {"jitter_grid_ms": 1e-9}, "jitter_grid_ms = 1e-09: allowed 1e-06 or more"),
        ("azure", {"jitter_grid_ms": float("nan")}, "jitter_grid_ms = nan: allowed 1e-06 or more"),
        ("azure", {"seed": -1}, "seed = -1: allowed 0 or more"),
        (
            "lengths",
            {"arrivals_per_second": 0},
            "arrivals_per_second = 0: allowed a number above 0",
        ),
        ("lengths", {"arrivals_per_second": float("inf")}, "arrivals_per_second = inf: allowed"),
        ("mooncake", {"session_input": "old"}, "session_input = 'old': allowed new, whole or None"),
        ("mooncake", {"answer_ns_per_token": -1}, "answer_ns_per_token = -1: allowed 0 or more"),
        ("sharegpt", {"think_s": -1}, "think_s = -1: allowed 0 or more"),
    ],
)
def test_options_out_of_range_are_refused(kind: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        open_trace("any", kind=kind, **options)


def test_a_name_of_half_a_character_is_refused(tmp_path: Path) -> None:
    """It could be read and simulated, but no result could be written of it."""
    row = {"arrival_ns": 5, "prompt": [[0, 0, 3]], "output_tokens": 2, "out_stream": 1}
    for field in ("request_id", "tenant", "session"):
        path = tmp_path / field
        path.write_text(lines({"request_id": "a"} | row | {field: "x\ud83d"}))
        message = refusal(open_trace(path))
        assert message == f"{path}:1: found the name 'x\\ud83d'; allowed: whole characters"
        path.write_text(lines({"request_id": "a"} | row | {field: "x\U0001f600"}))
        assert len(list(open_trace(path))) == 1


@pytest.mark.parametrize(
    ("kind", "kept", "dropped"),
    [
        ("lengths", "XXX,1,2\n", "XXX,0,2\n"),
        (
            "vllm_custom",
            '{"prompt": "a", "output_tokens": 2}\n',
            '{"prompt": "a", "output_tokens": 0}\n',
        ),
    ],
)
def test_dropped_rows_take_no_arrivals(tmp_path: Path, kind: str, kept: str, dropped: str) -> None:
    """The rate is that of the requests, not of the lines."""
    header = EXAMPLES[kind].text.partition("\n")[0] + "\n" if kind == "lengths" else ""
    path = tmp_path / "trace"
    arrivals = []
    for rows in (kept * 3, kept + dropped * 5 + kept * 2):
        path.write_text(header + rows)
        trace = open_trace(path, kind=kind, arrivals_per_second=1.0)
        arrivals.append([request.arrival_ns for request in trace])
    assert arrivals[0] == arrivals[1]


SESSION: list[dict[str, Any]] = [
    {"session_id": "a", "timestamp": 100, "input_length": 10, "output_length": 4},
    {"session_id": "a", "delay": 50.5, "input_length": 3, "output_length": 2},
    {"session_id": "b", "timestamp": 101, "input_length": 5, "output_length": 1, "extra": {"k": 1}},
    {"session_id": "a", "input_length": 3, "output_length": 2},
    {"timestamp": 300, "text_input": "abcdefgh", "output_length": 2},
]


def runs_of(trace: Any) -> dict[str, tuple[int, tuple[Run, ...]]]:
    return {request.id: (request.arrival_ns, request.prompt) for request in trace}


def test_aiperf_sessions_come_after_their_answers(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(lines(*SESSION))
    given: dict[str, Any] = {"answer_ns_per_token": 10 * MS}
    whole = open_trace(path, session_input="whole", **given)
    # Turn 2 of a: 100 ms, 4 tokens of 10 ms, a delay of 50.5 ms; turn 3: 2 tokens later.
    assert runs_of(whole) == {
        "r00000": (0, ((0, 0, 10),)),
        "r00002": (1 * MS, ((2, 0, 5),)),
        "r00001": (90_500_000, ((4, 0, 3),)),
        "r00003": (110_500_000, ((6, 0, 3),)),
        "r00004": (200 * MS, ((8, 0, 2),)),
    }
    assert whole.notes == {
        "later turns placed after a nominal answer time": 2,
        "prompts without hash_ids, each taken to be its own": 4,
        "fields 'extra' ignored": 1,
        "texts whose tokens are estimated, 4 characters each": 1,
    }
    check_trace(whole)
    new = open_trace(path, session_input="new", **given)
    assert runs_of(new)["r00003"][1] == (
        *((0, 0, 10), (1, 0, 4)),
        *((4, 0, 3), (5, 0, 2)),
        (6, 0, 3),
    )
    check_trace(new)
    assert new.fingerprint() != whole.fingerprint()


def test_aiperf_rows_may_get_their_arrivals_from_the_config(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(
        lines({"text_input": "Hi", "output_length": 20}, {"text_input": "Ho", "output_length": 1})
    )
    trace = open_trace(path, at_once=True)
    assert [request.arrival_ns for request in trace] == [0, 0]
    check_trace(trace)
    path.write_text(lines(*SESSION))
    message = refusal(open_trace(path, at_once=True, session_input="new"))
    assert (
        ":1: found timestamp beside arrivals given by the config; allowed: one of them" in message
    )


def test_a_turn_that_comes_too_late_in_the_file_names_the_window(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    first, second, other, *_ = SESSION
    path.write_text(lines(first, other | {"timestamp": 9000}, second))
    message = refusal(open_trace(path, session_input="new"))
    assert (
        ":3: found a later turn at 250.500000 ms, which is earlier than the row before" in message
    )
    assert "allowed: rows in order of arrival (the option reorder_rows: N" in message
    trace = open_trace(path, session_input="new", reorder_rows=2)
    assert [request.id for request in trace] == ["r00000", "r00002", "r00001"]
