"""What all readers do with rows: times, order, ties; and what token ids and texts share."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trace_files import BLOCKS, azure, json_lines, refusal
from traces.arrange import Entry, Row, in_order, spread_ties
from traces.azure import AzureTrace
from traces.clock import Clock, TickClock, make_clock, parse_stamp
from traces.contract import check_trace
from traces.file import TraceFile
from traces.json_list import read_json_list
from traces.mooncake import MooncakeTrace
from traces.prefixes import Prefixes
from traces.schema import TraceError
from traces.streams import Streams
from traces.text import Estimate

FILE = TraceFile("rows")


def entries(*arrivals: int, floating: tuple[int, ...] = ()) -> list[Entry]:
    return [
        (at, index, Row(index + 1, at, f"t = {at}", 1, 1, floating=index in floating))
        for index, at in enumerate(arrivals)
    ]


@pytest.mark.parametrize(
    ("unit", "text", "ns"),
    [
        ("s", "0.1", 100_000_000),
        ("s", "1700000000.1234567", 1_700_000_000_123_456_700),
        ("s", "1e-7", 100),
        ("s", "-5", -5_000_000_000),
        ("ms", "0.25", 250_000),
        ("us", "3.", 3000),
        ("ns", "9007199254740993", 9_007_199_254_740_993),  # no binary float
        ("s", "1_0", None),
        ("s", " 1", None),
        ("s", "inf", None),
        ("s", "1e20", None),
        ("s", "1" * 61, None),
        ("datetime", "2023-11-16 00:00:00.0000001", 1_700_092_800_000_000_100),
        ("datetime", "2023-11-16T01:00:00+01:00", 1_700_092_800_000_000_000),
        ("datetime", "2023-11-16", None),
        ("datetime", "5", None),
    ],
)
def test_a_time_is_exact(unit: str, text: str, ns: int | None) -> None:
    notes: Counter[str] = Counter()
    assert make_clock(unit, notes).read_text(text) == ns
    assert not notes


@given(st.decimals(-(10**9), 10**9, places=12))
def test_a_time_is_rounded_once_and_counted(seconds: Decimal) -> None:
    notes: Counter[str] = Counter()
    exact = Fraction(seconds) * 10**9
    assert Clock("s", notes).read(seconds) == round(exact)
    assert notes["arrivals rounded to whole nanoseconds"] == (exact.denominator > 1)


def test_a_tick_of_a_thousandth_is_one() -> None:
    notes: Counter[str] = Counter()
    clock = TickClock(0.001, notes)
    assert [clock.read(value) for value in (7, Decimal("0.1"), True, "7")] == [
        7_000_000,
        100_000,
        None,
        None,
    ]
    assert not notes


def test_a_day_has_two_names_for_one_time() -> None:
    assert parse_stamp("2024-05-10 02:00:00+02:00") == parse_stamp("2024-05-10T00:00:00Z")
    assert parse_stamp("2024-05-10 25:00:00") is None


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(0, 30))
def test_a_window_sorts_or_refuses(arrivals: list[int], window: int) -> None:
    """Stable, and refusing exactly what no heap of that many rows can sort."""
    rows = entries(*arrivals)
    notes: Counter[str] = Counter()
    # A row is too late if more than `window` rows before it arrive after it.
    late = [
        index
        for index, at in enumerate(arrivals)
        if sum(before > at for before in arrivals[:index]) > window
    ]
    ordered = in_order(rows, window=window, file=FILE, notes=notes)
    if late:
        with pytest.raises(TraceError, match="which is earlier than the row before it"):
            list(ordered)
    else:
        assert list(ordered) == sorted(rows, key=lambda entry: entry[0])
        moved = sum(at < max(arrivals[:index], default=0) for index, at in enumerate(arrivals))
        assert notes["rows moved up, by order of arrival"] == moved


def test_a_floating_row_waits_for_its_time() -> None:
    rows = entries(0, 50, 10, 60, floating=(1,))
    notes: Counter[str] = Counter()
    ordered = in_order(rows, window=0, file=FILE, notes=notes)
    assert [at for at, _, _ in ordered] == [0, 10, 50, 60]
    assert not notes


def test_a_window_holds_no_more_than_it_says() -> None:
    taken = 0

    def source() -> Any:
        nonlocal taken
        for entry in entries(*range(100)):
            taken += 1
            yield entry

    ordered = in_order(source(), window=5, file=FILE, notes=Counter())
    for yielded, _ in enumerate(ordered, 1):
        assert taken <= yielded + 5


def test_a_reader_reorders_within_its_window(tmp_path: Path) -> None:
    stamps = ("46.3", "46.1", "46.2", "46.1")
    azure(tmp_path, *(f"2023-11-16 18:15:{stamp},1,1" for stamp in stamps))
    path = tmp_path / "azure.csv"
    trace = AzureTrace(path, reorder_rows=3)
    assert [(request.id, request.arrival_ns) for request in trace] == [
        ("r00001", 0),
        ("r00003", 0),
        ("r00002", 100_000_000),
        ("r00000", 200_000_000),
    ]
    assert trace.notes == {"rows moved up, by order of arrival": 3}
    assert trace.shifted_by == "2023-11-16 18:15:46.1"
    check_trace(trace)
    message = refusal(AzureTrace(path, reorder_rows=1))
    assert ":5: found 2023-11-16 18:15:46.1, which is earlier than the row before it (" in message
    assert AzureTrace(path).fingerprint() != trace.fingerprint()


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=30).map(sorted),
    st.integers(1, 100),
    st.integers(0, 99),
)
def test_ties_spread_within_their_grid(ticks: list[int], grid_ns: int, seed: int) -> None:
    arrivals = [tick * 40 for tick in ticks]
    notes: Counter[str] = Counter()
    random = np.random.default_rng(seed)
    spread = list(spread_ties(entries(*arrivals), grid_ns=grid_ns, random=random, notes=notes))
    assert [index for _, index, _ in spread] == list(range(len(arrivals)))
    assert all(one[0] <= two[0] for one, two in pairwise(spread))
    for (at, _, _), recorded in zip(spread, arrivals, strict=True):
        later = [other for other in arrivals if other > recorded]
        assert 0 <= at - recorded < min([grid_ns, *(other - recorded for other in later[:1])])
        if arrivals.count(recorded) == 1:
            assert at == recorded
    tied = sum(arrivals.count(at) > 1 for at in arrivals)
    assert notes["tied arrivals spread over the grid of the file's clock"] == tied


def test_spread_ties_are_uniform() -> None:
    random = np.random.default_rng(3)
    rows = entries(*([0] * 10_000))
    spread = list(spread_ties(rows, grid_ns=10**9, random=random, notes=Counter()))
    counts = np.histogram([at for at, _, _ in spread], bins=10, range=(0, 10**9))[0]
    assert counts.sum() == 10_000
    assert abs(counts - 1000).max() < 5 * 30  # 5 standard deviations


def test_jitter_follows_the_seed_and_shifts_by_the_recorded_time(tmp_path: Path) -> None:
    path = json_lines(tmp_path, *[BLOCKS] * 5)
    one, again, other = (MooncakeTrace(path, jitter_grid_ms=3000, seed=seed) for seed in (1, 1, 2))
    assert list(one) == list(again)
    assert [request.arrival_ns for request in one] != [request.arrival_ns for request in other]
    assert one.fingerprint() == again.fingerprint() != other.fingerprint()
    assert one.shifted_by == "timestamp = 7"
    assert MooncakeTrace(path, seed=1).fingerprint() == MooncakeTrace(path).fingerprint()
    check_trace(one)


def pairs(runs: Any) -> list[tuple[int, int]]:
    return [(stream, start + k) for stream, start, length in runs for k in range(length)]


def shared(left: list[Any], right: list[Any]) -> int:
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(left, right)))  # noqa: B905


ids = st.lists(st.integers(0, 2), min_size=1, max_size=12)


@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=12))
def test_prompts_share_exactly_the_ids_they_begin_with(
    turns: list[tuple[list[int], list[int]]],
) -> None:
    """Also with answers in between, each of which keeps a stream of its own."""
    prefixes = Prefixes(Streams())
    asked: list[tuple[list[int], list[tuple[int, int]]]] = []
    streams: set[int] = set()
    for prompt, answer in turns:
        runs, end = prefixes.runs(array("q", prompt))
        named = pairs(runs)
        assert len(named) == len(prompt)
        for earlier, tokens in asked:
            assert shared(named, tokens) == shared(prompt, earlier)
        asked.append((prompt, named))
        stream = prefixes.answer(end, array("q", answer))
        assert stream not in streams
        streams.add(stream)


def test_an_answer_given_twice_is_quoted_as_the_first_gave_it() -> None:
    prefixes = Prefixes(Streams())
    quotes = []
    for _ in range(2):
        _, end = prefixes.runs(array("q", [1, 2]))
        prefixes.answer(end, array("q", [3, 4]))
        quotes.append(prefixes.runs(array("q", [1, 2, 3, 4]))[0])
    assert quotes[0] == quotes[1] == ((0, 0, 2), (1, 0, 2))


def test_a_prompt_quotes_the_answer_before_it() -> None:
    prefixes = Prefixes(Streams())
    _, end = prefixes.runs(array("q", [1, 2]))
    answer = prefixes.answer(end, array("q", [3, 4, 5]))
    runs, _ = prefixes.runs(array("q", [1, 2, 3, 4, 9]))
    assert runs == ((0, 0, 2), (answer, 0, 2), (2, 0, 1))


@given(st.text(max_size=60), st.floats(1, 9), st.text(max_size=20))
def test_estimated_tokens_are_as_many_as_counted(text: str, ratio: float, more: str) -> None:
    estimate = Estimate(ratio, Counter())
    tokens = estimate.tokens(text).tolist()
    assert len(tokens) == estimate.count(text) or not text
    # Not by //, which calls 19 // 1.9 nine.
    assert estimate.count(text) - 1 < len(text) / ratio <= estimate.count(text)
    longer = estimate.tokens(text + more).tolist()
    assert shared(tokens, longer) >= len(tokens) - 1


@given(
    st.lists(st.dictionaries(st.text(max_size=9), st.text(max_size=90) | st.floats())), st.data()
)
def test_a_list_read_in_pieces_is_the_list(
    tmp_path_factory: pytest.TempPathFactory, objects: list[Any], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("list") / "list.json"
    indent = data.draw(st.none() | st.integers(0, 2))
    path.write_text(json.dumps(objects, indent=indent))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("traces.json_list._CHUNK_CHARACTERS", data.draw(st.integers(1, 50)))
        records = list(read_json_list(TraceFile(path)))
    assert repr([record.fields for record in records]) == repr(objects)


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("", 1, "an empty file"),
        ("{}", 1, "'{'"),
        ('[{"a": 1},\n {"a": }]', 2, "no JSON (Expecting value)"),
        ('[{"a": 1},\n {"a": "', 2, "no JSON (Unterminated string starting at)"),
        ('[{"a": 1}\n\n', 3, "the end of the file"),
        ('[{"a": 1}\n{}]', 2, "'{'"),
        ("[\n[]]", 2, "[]"),
        ('[{"a": ' + "9" * 5000 + "}]", 1, "no JSON that can be read (Exceeds the limit"),
        ("[" + '{"a":' * 100_000, 1, "no JSON that can be read (maximum recursion"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, text: str, line: int, found: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(TraceError) as refused:
        list(read_json_list(TraceFile(path)))
    assert str(refused.value).startswith(f"{path}:{line}: found {found}")


def test_a_wrong_list_is_refused_before_it_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(b'[{"a": 1, b: 2}' + b' {"c": 3},' * 10**6 + b"\xff]")
    with pytest.raises(TraceError, match=r":1: found no JSON \(Expecting property name"):
        list(read_json_list(TraceFile(path)))
