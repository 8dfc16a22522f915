"""What synthetic prompts share."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from sim.request import Request
from traces.contract import check_trace
from traces.synthetic.arrivals import Poisson
from traces.synthetic.draws import Draws
from traces.synthetic.lengths import Constant, Independent, Lognormal, Pairs
from traces.synthetic.sessions import SessionTraffic
from traces.synthetic.sharing import NOTHING, PromptTree, Rag, Sharing, SystemPrompts
from traces.synthetic.traffic import Traffic
from traces.synthetic.workload import SyntheticWorkload

FIXED = Independent(Constant(10), Constant(3))


def requests_of(sharing: Sharing, count: int = 3000) -> list[Request]:
    workload = SyntheticWorkload(
        Traffic(arrivals=Poisson(1.0), lengths=FIXED, sharing=sharing), requests=count
    )
    check_trace(workload)
    return list(workload)


def sessions_of(count: int, lengths: Pairs = FIXED, **options: float) -> SyntheticWorkload:
    traffic = SessionTraffic(arrivals=Poisson(1.0), lengths=lengths, **options)  # type: ignore[arg-type]
    return SyntheticWorkload(traffic, requests=count)


def test_nothing_is_shared_by_default() -> None:
    streams = [run[0] for request in requests_of(NOTHING) for run in request.prompt]
    assert len(set(streams)) == 3000


def test_system_prompts_come_by_popularity() -> None:
    requests = requests_of(SystemPrompts(4, 100, skew=1.0), 20_000)
    assert all(request.prompt[0][1:] == (0, 100) for request in requests)
    counts = Counter(request.prompt[0][0] for request in requests)
    shares = np.array([1, 1 / 2, 1 / 3, 1 / 4])
    expected = shares / shares.sum() * 20_000
    assert stats.chisquare([counts[k] for k in range(4)], expected).pvalue > 0.01
    assert {request.prompt_tokens for request in requests} == {110}


def test_a_prompt_is_a_path_from_the_root_to_a_leaf() -> None:
    tree = PromptTree(depth=3, branching=2, tokens_per_node=5)
    paths = Counter(tuple(run[0] for run in r.prompt[:-1]) for r in requests_of(tree))
    # 0 has the children 1 and 2; 1 has 3 and 4, 2 has 5 and 6.
    assert paths.keys() == {(0, 1, 3), (0, 1, 4), (0, 2, 5), (0, 2, 6)}
    assert stats.chisquare(list(paths.values())).pvalue > 0.01
    assert tree.streams == 7
    assert all(run[1:] == (0, 5) for r in requests_of(tree) for run in r.prompt[:-1])


def test_the_trunk_of_a_tree_is_a_system_prompt() -> None:
    requests = requests_of(PromptTree(depth=1, branching=9, tokens_per_node=5))
    assert {request.prompt[0] for request in requests} == {(0, 0, 5)}


@pytest.mark.parametrize("skew", [0.0, 1.5])
def test_documents_stand_before_or_after_the_question(skew: float) -> None:
    before, after = (
        requests_of(Rag(50, 800, skew, position, retrieved=2, instructions=7))
        for position in ("before", "after")
    )
    for early, late in zip(before, after, strict=True):
        head, *documents, question = early.prompt
        assert late.prompt == (head, question, *documents)
        assert head == (0, 0, 7)
        assert len(documents) == 2
        assert all(1 <= stream <= 50 for stream, _, _ in documents)
    popular = np.mean([request.prompt[1][0] == 1 for request in before])
    share = 1 / sum(k**-skew for k in range(1, 51))
    assert abs(popular - share) < 3 * (share * (1 - share) / 3000) ** 0.5


def test_a_session_quotes_all_before_it() -> None:
    workload = sessions_of(
        5000, Independent(Lognormal(50, 1), Lognormal(30, 1)), turns_mean=3.0, think_mean_s=20.0
    )
    check_trace(workload)
    last: dict[str, Request] = {}
    thinks_s = []
    for request in workload:
        assert request.session is not None
        before = last.get(request.session)
        if before is not None:
            answer = (before.output_stream, 0, before.output_tokens)
            assert request.prompt[:-1] == (*before.prompt, answer)
            answer_ns = before.output_tokens * 25_000_000
            thinks_s.append((request.arrival_ns - before.arrival_ns - answer_ns) / 1e9)
        last[request.session] = request
    # Long thinks are missing at the end, a little; they are not clipped.
    assert np.mean(thinks_s) == pytest.approx(20, rel=0.1)
    assert max(thinks_s) > 100
    assert 0 < workload.notes["sessions cut by the end of the workload"] < 200


def test_the_number_of_turns_is_geometric() -> None:
    turns = Counter(r.session for r in sessions_of(20_000, turns_mean=2.0, think_mean_s=0.0))
    counts = Counter(turns.values())
    assert counts.total() == pytest.approx(10_000, rel=0.04)
    for n in range(1, 5):
        assert counts[n] / counts.total() == pytest.approx(0.5**n, abs=0.02)


def test_the_first_prompts_of_sessions_share_their_opening() -> None:
    traffic = SessionTraffic(
        arrivals=Poisson(1.0), lengths=FIXED, sharing=Rag(5, 100, position="after"), turns_mean=3.0
    )
    workload = SyntheticWorkload(traffic, requests=500)
    check_trace(workload)
    for request in workload:
        documents = [run for run in request.prompt if run[0] in range(6)]
        assert len(documents) == 1
        assert request.prompt[1] == documents[0]


def test_a_session_ends_before_its_prompt_is_too_long() -> None:
    """Prompts of 10, 23, 36 tokens, ...; the third would be too long."""
    workload = sessions_of(1000, turns_mean=5.0, think_mean_s=0.0, max_prompt_tokens=35)
    taken = Counter(request.session for request in workload)
    assert set(taken.values()) == {1, 2}
    turns = Draws(0).generator("turns").geometric(1 / 5, len(taken)).tolist()
    planned = {f"s{index:05d}": planned for index, planned in enumerate(turns)}
    assert workload.notes == {
        "sessions ended before a prompt over 35 tokens": sum(
            taken[session] == 2 < planned[session] for session in taken if session
        ),
        "sessions cut by the end of the workload": sum(
            taken[session] == 1 < planned[session] for session in taken if session
        ),
    }
