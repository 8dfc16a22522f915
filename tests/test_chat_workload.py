"""The synthetic chat service: is it what it claims to be?"""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sim.request import Request
from tests.shared import SHARED, needs_shared
from traces.chat import ChatWorkload
from traces.contract import check_trace
from traces.native import NativeTrace, write_trace


@pytest.fixture(scope="module")
def chat() -> ChatWorkload:
    """Large, and with room for the longest message, so that nothing bends a distribution."""
    return ChatWorkload(seed=1, requests=60_000, max_prompt_tokens=10**9, answer_max_tokens=10**9)


@pytest.fixture(scope="module")
def requests(chat: ChatWorkload) -> list[Request]:
    return list(chat)


@pytest.fixture(scope="module")
def sessions(requests: list[Request]) -> list[list[Request]]:
    """The turns of each session, in order of the sessions' starts."""
    turns: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        assert request.session is not None
        turns[request.session].append(request)
    return list(turns.values())


def test_it_keeps_the_contract() -> None:
    for chat in (ChatWorkload(), ChatWorkload(system_prompts=0), ChatWorkload(turns_mean=9)):
        check_trace(chat)
        assert len(list(chat)) == 2000


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**63 - 1),
    requests=st.integers(1, 60),
    sessions_per_second=st.floats(0.01, 1000),
    turns_mean=st.floats(1, 20),
    system_prompts=st.integers(0, 3),
    system_prompt_skew=st.floats(0, 10),
    answer_max_tokens=st.integers(1, 200),
    think_mean_s=st.sampled_from([0.0, 1e-9, 1.0, 1e6]),
    answer_ns_per_token=st.integers(0, 10**9),
    max_prompt_tokens=st.integers(600, 2000),
)
def test_any_parameters_keep_the_contract(**parameters: float) -> None:
    chat = ChatWorkload(**parameters)  # type: ignore[arg-type]
    check_trace(chat)
    requests = list(chat)
    assert len(requests) == chat.requests
    assert max(request.prompt_tokens for request in requests) <= chat.max_prompt_tokens
    assert max(request.output_tokens for request in requests) <= chat.answer_max_tokens


def test_a_later_turn_quotes_all_before_it(
    chat: ChatWorkload, sessions: list[list[Request]]
) -> None:
    for turns in sessions:
        (system, start, length), message = turns[0].prompt
        assert system < chat.system_prompts
        assert (start, length, message[1]) == (0, 512, 0)
        for before, after in pairwise(turns):
            answer = (before.output_stream, 0, before.output_tokens)
            assert after.prompt[:-1] == (*before.prompt, answer)


def test_sessions_are_named_by_arrival(sessions: list[list[Request]]) -> None:
    for index, turns in enumerate(sessions):
        assert [turn.id for turn in turns] == [f"s{index:05d}-t{j}" for j in range(len(turns))]
        assert {turn.session for turn in turns} == {f"s{index:05d}"}


def test_sessions_start_as_a_poisson_process(sessions: list[list[Request]]) -> None:
    gaps_s = np.diff([0, *(turns[0].arrival_ns for turns in sessions)]) / 1e9
    assert stats.kstest(gaps_s, "expon", args=(0, 1 / 2.75)).pvalue > 0.01
    counts = np.histogram(np.cumsum(gaps_s), bins=np.arange(0, gaps_s.sum(), 10))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.1)


def test_think_times_are_exponential(chat: ChatWorkload, sessions: list[list[Request]]) -> None:
    # Later turns are missing near the end, long think times more than short ones.
    last_ns = sessions[-1][-1].arrival_ns - 2_000 * 10**9
    thinks_s = [
        (after.arrival_ns - before.arrival_ns - chat.answer_ns_per_token * before.output_tokens)
        / 1e9
        for turns in sessions
        for before, after in pairwise(turns)
        if before.arrival_ns < last_ns
    ]
    assert len(thinks_s) > 20_000
    assert stats.kstest(thinks_s, "expon", args=(0, 100)).pvalue > 0.01


def test_turns_are_geometric(sessions: list[list[Request]]) -> None:
    last_ns = sessions[-1][-1].arrival_ns - 2_000 * 10**9
    turns = Counter(len(turns) for turns in sessions if turns[0].arrival_ns < last_ns)
    total = turns.total()
    assert sum(n * count for n, count in turns.items()) / total == pytest.approx(2, rel=0.02)
    for n in range(1, 6):
        assert turns[n] / total == pytest.approx(0.5**n, abs=0.01)


@pytest.mark.parametrize(
    ("which", "median", "mean"),
    [("first", 32, 154.6), ("later", 14.4, 69.5), ("answer", 129, 211.1)],
)
def test_lengths_are_lognormal(
    sessions: list[list[Request]], which: str, median: float, mean: float
) -> None:
    lengths = {
        "first": [turns[0].prompt[-1][2] for turns in sessions],
        "later": [turn.prompt[-1][2] for turns in sessions for turn in turns[1:]],
        "answer": [turn.output_tokens for turns in sessions for turn in turns],
    }[which]
    # Rounding up adds half a token. The standard error of these means is 1 to 3 %.
    assert np.median(lengths) == pytest.approx(median + 0.5, rel=0.05)
    assert np.mean(lengths) == pytest.approx(mean + 0.5, rel=0.08)
    sigma = math.sqrt(2 * math.log(mean / median))
    upper, middle = np.percentile(lengths, [97.725, 50])
    assert math.log(upper / middle) / 2 == pytest.approx(sigma, rel=0.04)


def test_system_prompts_follow_zipf(sessions: list[list[Request]]) -> None:
    chosen = Counter(turns[0].prompt[0][0] for turns in sessions)
    harmonic = sum(1 / k for k in range(1, 9))
    for k in range(1, 9):
        assert chosen[k - 1] / len(sessions) == pytest.approx(1 / (k * harmonic), abs=0.01)


def test_clipped_answers_are_counted() -> None:
    # Answers that take no time and contexts without end: both see the same sessions.
    clipped = ChatWorkload(answer_max_tokens=500, answer_ns_per_token=0, max_prompt_tokens=10**9)
    free = replace(clipped, answer_max_tokens=10**9)
    pairs = list(zip(clipped, free, strict=True))
    assert all(mine.output_tokens == min(other.output_tokens, 500) for mine, other in pairs)
    longer = sum(other.output_tokens > 500 for _, other in pairs)
    assert longer > 100
    assert clipped.notes["answers clipped to 500 tokens"] == longer
    assert set(free.notes) == {"sessions cut by the end of the workload"}


def test_every_session_is_accounted_for() -> None:
    """Nobody stops by himself and every first message fits: all sessions are ended or cut."""
    chat = ChatWorkload(requests=401, first_message_sigma=0, turns_mean=1e4, max_prompt_tokens=900)
    requests = list(chat)
    turns = Counter(request.session for request in requests)
    ended = chat.notes["sessions ended before a prompt over 900 tokens"]
    cut = chat.notes["sessions cut by the end of the workload"]
    assert min(ended, cut) > 0
    assert len(turns) == ended + cut


def test_equal_seeds_give_equal_requests() -> None:
    assert list(ChatWorkload(seed=3)) == list(ChatWorkload(seed=3))
    assert list(ChatWorkload(seed=3)) != list(ChatWorkload(seed=4))


def test_a_longer_workload_continues_a_shorter() -> None:
    assert list(ChatWorkload(requests=900))[:300] == list(ChatWorkload(requests=300))


def test_each_quantity_has_its_own_generator() -> None:
    plain, other = (
        {
            request.id: (request.arrival_ns, request.prompt[0], request.prompt[1][2])
            for request in chat
            if request.id.endswith("-t0")
        }
        for chat in (
            ChatWorkload(),
            ChatWorkload(answer_sigma=0.1, later_message_median=50, think_mean_s=3),
        )
    )
    common = plain.keys() & other.keys()
    assert len(common) > 500
    assert all(plain[name] == other[name] for name in common)


def test_seed_0_is_pinned() -> None:
    """Where this fails after an upgrade of numpy, raise the version in the fingerprint."""
    assert list(ChatWorkload(requests=3)) == [
        Request("s00000-t0", 1197646469, ((3, 0, 512), (8, 0, 6)), 123, 9, session="s00000"),
        Request("s00001-t0", 1475148556, ((0, 0, 512), (10, 0, 38)), 134, 11, session="s00001"),
        Request("s00002-t0", 1930554782, ((2, 0, 512), (12, 0, 112)), 498, 13, session="s00002"),
    ]


def test_fingerprints_tell_parameters_apart() -> None:
    fingerprint = ChatWorkload().fingerprint()
    assert ChatWorkload(first_message_median=32).fingerprint() == fingerprint
    assert ChatWorkload(first_message_median=32.0).fingerprint() == fingerprint
    for parameter in (field for field in fields(ChatWorkload) if field.init):
        assert isinstance(parameter.default, int | float)
        changed = ChatWorkload(**{parameter.name: parameter.default + 1})  # type: ignore[arg-type]
        assert changed.fingerprint() != fingerprint, parameter.name


@pytest.mark.parametrize(
    ("parameter", "value", "allowed"),
    [
        ("requests", 0, "a whole number from 1 to 1,000,000,000"),
        ("requests", 2.5, "a whole number from 1 to 1,000,000,000"),
        ("requests", True, "a whole number from 1 to 1,000,000,000"),
        ("seed", -1, f"a whole number from 0 to {2**63 - 1:,}"),
        ("turns_mean", 0.5, "a number from 1.0 to 10,000.0"),
        ("turns_mean", "2", "a number from 1.0 to 10,000.0"),
        ("turns_mean", math.nan, "a number from 1.0 to 10,000.0"),
        ("sessions_per_second", 0, "a number from 1e-06 to 1,000,000.0"),
        ("sessions_per_second", math.inf, "a number from 1e-06 to 1,000,000.0"),
        ("answer_sigma", -0.1, "a number from 0.0 to 5.0"),
        ("max_prompt_tokens", 543, "544 or more, room for a system prompt and the median first"),
    ],
)
def test_parameters_out_of_range_are_refused(parameter: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=parameter) as refused:
        ChatWorkload(**{parameter: value})  # type: ignore[arg-type]
    assert str(refused.value).startswith(f"{parameter} = {value!r}: allowed {allowed}")


def test_it_can_be_written_and_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("chat") / "chat.jsonl.gz"
    write_trace(path, ChatWorkload(requests=200))
    assert list(NativeTrace(path)) == list(ChatWorkload(requests=200))


@needs_shared
def test_the_published_figures_give_the_defaults() -> None:
    azure = SHARED / "traces" / "azure-2023" / "AzureLLMInferenceTrace_conv.csv"
    sharegpt = SHARED / "traces" / "sharegpt-lengths" / "sharegpt.csv"
    with azure.open() as file:
        answers = np.array([int(row["GeneratedTokens"]) for row in csv.DictReader(file)])
    with sharegpt.open() as file:
        rows = [(int(row[1]), int(row[2])) for row in list(csv.reader(file))[1:]]
    firsts = np.array([prompt for prompt, answer in rows if prompt + answer <= 2048])
    chat = ChatWorkload()

    assert (len(firsts), np.median(firsts)) == (55_857, chat.first_message_median)
    assert firsts.mean() == pytest.approx(154.6, abs=0.05)
    assert chat.first_message_sigma == round(math.sqrt(2 * math.log(154.6 / 32)), 3)

    assert (answers.max(), np.median(answers)) == (1000, chat.answer_median)
    assert answers.mean() == pytest.approx(211.1, abs=0.05)
    assert chat.answer_sigma == round(math.sqrt(2 * math.log(211.1 / 129)), 3)

    lmsys_mean = 69.5
    assert chat.later_message_sigma == chat.first_message_sigma
    shape = math.exp(chat.later_message_sigma**2 / 2)
    assert chat.later_message_median == round(lmsys_mean / shape, 1)
