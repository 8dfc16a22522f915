"""What `pagesim trace inspect` says: by hand, and the table of the real traces, digit by digit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from experiments.cli import main as pagesim
from sim.request import Request
from tests.shared import SHARED, needs_shared
from tests.trace_files import HEADER, azure, mooncake
from traces.arrange import Entry
from traces.burstgpt import BurstGptTrace
from traces.chat import ChatWorkload
from traces.native import write_trace
from traces.reader import open_timeless, open_trace
from traces.statistics import (
    Arrivals,
    Statistics,
    describe,
    describe_arrivals,
    describe_lengths,
    dispersion,
    read_columns,
)

S = 10**9
TRACES = SHARED / "traces"


def inspect(*words: object) -> Result:
    return CliRunner().invoke(pagesim, ["trace", "inspect", *map(str, words)])


def statistics(path: Path, *, block_size: int = 16) -> Statistics:
    trace = open_trace(path)
    return describe(trace, read_columns(trace), block_size=block_size)


def test_dispersion_by_hand() -> None:
    # Bins of 1 s hold 3, 0, 1 and 2; the last arrival opens a fifth, which is not whole.
    arrivals = np.array([0, 1, S - 1, 2 * S, 3 * S, 4 * S - 1, 4 * S]) + 77
    assert dispersion(arrivals, S) == pytest.approx(1.25 / 1.5)
    assert dispersion(arrivals, 2 * S) == 0
    assert dispersion(arrivals, 3 * S) is None


def test_empty_bins_take_no_memory() -> None:
    century = 100 * 365 * 86400
    arrivals = np.array([0, 1, century * S])
    assert dispersion(arrivals, S) == pytest.approx(
        (4 / century - (2 / century) ** 2) / (2 / century)
    )


def test_a_poisson_process_has_ones() -> None:
    gaps = np.random.default_rng(0).exponential(S / 20, 40_000)
    found = describe_arrivals(gaps.cumsum().astype(np.int64))
    assert found.cv_of_gaps == pytest.approx(1, abs=0.02)
    assert found.dispersion[1] == pytest.approx(1, abs=0.06)
    assert found.requests_per_s == pytest.approx(20, rel=0.02)
    assert found.grid_ns is None


def test_regular_arrivals() -> None:
    found = describe_arrivals(np.arange(7) * 2 * S)
    assert found == Arrivals(
        span_s=12.0,
        requests_per_s=7 / 12,
        cv_of_gaps=0.0,
        dispersion={1: pytest.approx(0.5), 10: None, 60: None},
        distinct=7,
        most_at_once=1,
        resolution_ns=2 * S,
        grid_ns=None,
    )


def test_one_instant_has_no_rate() -> None:
    found = describe_arrivals(np.full(5, 3))
    assert (found.requests_per_s, found.cv_of_gaps, found.resolution_ns) == (None, None, None)
    assert (found.distinct, found.most_at_once) == (1, 5)


def test_a_grid_is_found_through_jitter_and_holes() -> None:
    random = np.random.default_rng(1)
    slots = np.unique(random.integers(0, 300, 200)) * 3000 + 5
    stamps = (slots + random.integers(-1, 2, len(slots))) * 10**6
    found = describe_arrivals(np.sort(np.repeat(stamps, 4)))
    assert found.grid_ns == pytest.approx(3 * S, rel=0.001)
    assert found.most_at_once == 4
    # Whole seconds are a resolution, not a grid on which everything lies.
    seconds = np.unique(random.integers(0, 20_000, 300)) * S
    found = describe_arrivals(seconds)
    assert found.grid_ns is None
    assert found.resolution_ns == S


def test_sessions_and_tenants() -> None:
    people = [("a", "x"), ("a", "x"), ("b", "y"), (None, "x"), ("a", None)]
    requests = [
        Request(str(k), k, ((k, 0, 1),), 1, 100 + k, session=session, tenant=tenant)
        for k, (session, tenant) in enumerate(people)
    ]
    columns = read_columns(requests)
    assert columns.turns == Counter(a=3, b=1)
    described = describe(ChatWorkload(), columns)
    assert described.tenants == {"x": 3, "y": 1}
    assert described.sharing is None
    assert described.sessions is not None
    assert (described.sessions.turns_mean, described.sessions.of_one_turn) == (2.0, 1)


def digits(value: float | None, printed: str) -> bool:
    """Does the value round to what is printed, either way where it lies half-way?"""
    assert value is not None
    number = printed.replace(",", "")
    places = len(number.partition(".")[2])
    return abs(value - float(number)) <= 0.5 * 10**-places + 1e-6


# The table of shared/traces/README.md: span, rate, CV, IDC, then mean/P50/P99 of both lengths.
AZURE_CONV = ("3501.7", "5.53", "1.09", "1.4/3.9/16.1", "1154.7/1020/4142", "211.1/129/601")
AZURE_CODE = ("3435.9", "2.57", "13.15", "13.2/71.6/164", "2047.8/1469/7436", "27.9/13/251")
MOONCAKE = ("3537", "3.40", "3.03", "7.9/2.1/2.9", "12035/6909/85400", "342.6/350/1118")
BURSTGPT = ("37269", "0.0107", "4.56", "1.0/1.2/2.8", "520/314/1958", "277/230/1421")
SHAREGPT = ("298.8/36/3473", "323.7/280/999")


def check_lengths(tokens: np.ndarray[tuple[int], np.dtype[np.int64]], printed: str) -> None:
    spread = describe_lengths(tokens)
    for value, text in zip((spread.mean, spread.p50, spread.p99), printed.split("/"), strict=True):
        assert digits(value, text), (value, text)


def check_arrivals(arrivals: Arrivals, row: tuple[str, ...]) -> None:
    span, rate, cv, idc = row[:4]
    assert digits(arrivals.span_s, span)
    assert digits(arrivals.requests_per_s, rate)
    assert digits(arrivals.cv_of_gaps, cv)
    for value, text in zip(arrivals.dispersion.values(), idc.split("/"), strict=True):
        assert digits(value, text), (value, text)


@needs_shared
@pytest.mark.parametrize(
    ("file", "requests", "row"),
    [
        ("azure-2023/AzureLLMInferenceTrace_conv.csv", 19_366, AZURE_CONV),
        ("azure-2023/AzureLLMInferenceTrace_code.csv", 8_819, AZURE_CODE),
        ("mooncake/conversation_trace.jsonl.gz", 12_031, MOONCAKE),
    ],
)
def test_the_real_traces_have_their_published_statistics(
    file: str, requests: int, row: tuple[str, ...]
) -> None:
    columns = read_columns(open_trace(TRACES / file))
    assert len(columns.arrival_ns) == requests
    check_arrivals(describe_arrivals(columns.arrival_ns), row)
    check_lengths(columns.prompt_tokens, row[4])
    check_lengths(columns.output_tokens, row[5])


@needs_shared
def test_mooncake_repeats_what_its_readme_says() -> None:
    found = statistics(TRACES / "mooncake" / "conversation_trace.jsonl.gz", block_size=512)
    assert found.sharing is not None
    assert digits(100 * found.sharing.seen_share, "37.4")
    assert digits(100 * found.sharing.whole_blocks_share, "37.3")
    assert found.sharing.fully_seen == 118
    assert found.arrivals.distinct == 1_180
    assert found.arrivals.grid_ns == 3 * S


class EveryRow(BurstGptTrace):
    """With the failures, which the README's table counts and a reader drops."""

    def _with_tokens(self) -> Iterator[Entry]:
        for index, row in enumerate(self.rows()):
            assert row is not None
            yield row.arrival_ns, index, row


@needs_shared
def test_burstgpt_with_its_failures_as_the_readme_counts_them() -> None:
    path = TRACES / "burstgpt" / "BurstGPT_1.head400.csv"
    entries = list(EveryRow(path)._with_tokens())
    assert len(entries) == 400
    check_arrivals(describe_arrivals(np.array([at_ns for at_ns, _, _ in entries])), BURSTGPT)
    check_lengths(np.array([row.prompt_tokens for _, _, row in entries]), BURSTGPT[4])
    check_lengths(np.array([row.output_tokens for _, _, row in entries]), BURSTGPT[5])
    trace = open_trace(path)
    assert len(read_columns(trace).arrival_ns) == 400 - 17
    assert trace.notes == {"requests with zero prompt tokens dropped": 17}


@needs_shared
def test_sharegpt_lengths() -> None:
    columns = read_columns(open_timeless(TRACES / "sharegpt-lengths" / "sharegpt.csv"))
    assert len(columns.prompt_tokens) == 58_787
    assert columns.prompt_tokens.max() == 241_402
    check_lengths(columns.prompt_tokens, SHAREGPT[0])
    check_lengths(columns.output_tokens, SHAREGPT[1])
    fits = columns.prompt_tokens + columns.output_tokens <= 2048
    assert fits.sum() == 55_857
    assert digits(columns.prompt_tokens[fits].mean(), "154.6")
    assert digits(columns.output_tokens[fits].mean(), "317.9")


def test_the_report_of_a_small_trace(tmp_path: Path) -> None:
    blocks = {"input_length": 1024, "hash_ids": [0, 1]}
    mooncake(
        tmp_path,
        {"timestamp": 0} | blocks,
        {"timestamp": 0, "output_length": 0},
        {"timestamp": 900} | blocks,
    )
    done = inspect(
        tmp_path / "trace.jsonl", "--json", tmp_path / "numbers.json", "--block-size", 512
    )
    assert done.exit_code == 0, done.output
    for said in (
        "trace.jsonl  mooncake",
        "2 requests in 900 ms",
        "! requests with zero output tokens dropped: 1",
        "Ideal prefix hits: 50.0 % of the prompt tokens",
        "one token of each prompt left to compute: 25.0 %",
        "1 prompts were seen before from end to end",
    ):
        assert said in done.output
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["format"] == "mooncake"
    assert numbers["sharing"]["seen_share"] == 0.5
    assert numbers["notes"] == {"requests with zero output tokens dropped": 1}


def test_a_grid_is_doubted_aloud(tmp_path: Path) -> None:
    stamps = [f"2023-11-16 18:{k // 2 // 20:02}:{k // 2 % 20 * 3:02}.0,10,5" for k in range(80)]
    azure(tmp_path, *stamps)
    done = inspect(tmp_path / "azure.csv")
    assert "40 distinct ones for 80 requests, up to 2 at once" in done.output
    assert "grid of 3 s, several requests on each" in done.output
    assert "IDC of 1 s show the grid" in done.output.replace("\n", " ")


def test_a_file_without_times_is_looked_at_all_at_once(tmp_path: Path) -> None:
    azure(tmp_path, "XXX,10,5", "XXX,30,5")
    done = inspect(tmp_path / "azure.csv")
    assert done.exit_code == 0, done.output
    assert "lengths, which has no arrival times: all at once" in done.output
    assert "2 requests, all at one instant" in done.output
    assert "burstiness" not in done.output
    assert "Arrival times" not in done.output
    spread = inspect(tmp_path / "azure.csv", "--set", "trace.arrivals_per_second=2")
    assert "all at once" not in spread.output
    assert "prompt tokens/s" in spread.output


def test_one_request_has_no_rate(tmp_path: Path) -> None:
    azure(tmp_path, "2023-11-16 18:00:00.0,10,5")
    assert "1 request: there is no rate to speak of" in inspect(tmp_path / "azure.csv").output


def test_options_say_how_to_read(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("at,in,out\n5,10,3\n7,20,4\n")
    columns = "trace.columns={arrival: at, prompt_tokens: in, output_tokens: out}"
    words = ["--kind", "csv", "--set", columns, "--set", "trace.time_unit=s"]
    done = inspect(tmp_path / "own.csv", *words)
    assert done.exit_code == 0, done.output
    assert "2 requests in 2 s: 1 requests/s, 15 prompt tokens/s" in done.output


def test_a_config_names_its_trace() -> None:
    done = inspect("configs/chatbot.yaml")
    assert done.exit_code == 0, done.output
    assert "chat, as configs/chatbot.yaml describes it" in done.output
    assert "Sessions: " in done.output


@pytest.mark.parametrize("rows", [1, 2, 3, 400])
def test_the_figure_of_any_trace(rows: int, tmp_path: Path) -> None:
    write_trace(tmp_path / "t.jsonl", ChatWorkload(requests=rows))
    done = inspect(tmp_path / "t.jsonl", "--figure", tmp_path / "t.png")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"t.jsonl", "t.png"}


def test_the_figure_of_equal_arrivals(tmp_path: Path) -> None:
    azure(tmp_path, *["2023-11-16 18:00:00.0,10,5"] * 4)
    assert inspect(tmp_path / "azure.csv", "--figure", tmp_path / "t.png").exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.csv"], "none.csv: found no such file"),
        (["t.csv", "--kind", "azur"], "--kind azur: allowed: auto, azure, lengths"),
        (["t.csv", "--kind", "csv"], "t.csv: trace.columns: missing; allowed: a section {arrival"),
        (["t.csv", "--kind", "timed_trace"], "trace.chunk_hash_size: missing; allowed: the number"),
        (["t.csv", "--set", "trace.jitter=3"], "jitter: unknown key; did you mean jitter_grid_ms"),
        (["t.csv", "--json", "no/where.json"], "--json no/where.json: no such folder: no"),
        (["t.csv", "--figure", "t.pdf"], "--figure t.pdf: found '.pdf'; allowed: .png"),
        (["t.csv"], "t.csv: found no requests"),
        (["t.yaml"], "t.yaml: no such config file"),
        (["t.yaml", "--kind", "azure"], "--kind azure: t.yaml is a config, which says the kind"),
    ],
)
def test_mistakes_are_one_message(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text(HEADER + "\n")
    done = inspect(*words)
    assert done.exit_code == 2
    assert message in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"t.csv"}
