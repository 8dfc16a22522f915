"""Synthetic workloads as a whole: contract, seeds, ends, mixes of clients."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sim.request import Request
from tests.trace_files import azure, refusal
from traces.contract import check_trace
from traces.native import NativeTrace, write_trace
from traces.synthetic.arrivals import (
    Arrivals,
    AtOnce,
    Constant,
    Diurnal,
    Gamma,
    OnOff,
    Poisson,
    Replayed,
)
from traces.synthetic.clients import ClientTraffic, Population
from traces.synthetic.draws import Draws
from traces.synthetic.lengths import Constant as Always
from traces.synthetic.lengths import Exponential, Independent, Lengths, Lognormal, Uniform, Zipf
from traces.synthetic.sessions import SessionTraffic
from traces.synthetic.sharing import NOTHING, PromptTree, Rag, SystemPrompts
from traces.synthetic.traffic import Traffic
from traces.synthetic.workload import Source, SyntheticWorkload

LENGTHS = Independent(Lognormal(100, 1, 800), Exponential(50))
PLAIN = Traffic(
    arrivals=Poisson(5.0),
    lengths=LENGTHS,
    sharing=SystemPrompts(3, 20),
    tenants={"a": 3, "b": 1},
    priorities={0: 1, 5: 1},
    n={1: 0.9, 4: 0.1},
)
CHAT = SessionTraffic(arrivals=Poisson(1.0), lengths=LENGTHS, think_mean_s=5.0, turns_mean=3.0)
MIX = ClientTraffic({"x": PLAIN, "y": CHAT, "z": replace(PLAIN, tenants=None)})

some_arrivals = st.sampled_from(
    [Poisson(50.0), Gamma(5, 4), OnOff(90, 0, 1, 3), Diurnal(9, 1, 5, 10), Constant(7)]
)
some_lengths: st.SearchStrategy[Lengths] = st.sampled_from(
    [Always(3), Uniform(1, 9), Lognormal(20, 2, 50), Exponential(9, 20), Zipf(1, 2, 90)]
)
some_sharing = st.sampled_from(
    [NOTHING, SystemPrompts(2, 5), PromptTree(3, 2, 4), Rag(4, 9), Rag(3, 7, 0, "after", 2, 5)]
)
parts = {
    "arrivals": some_arrivals,
    "lengths": st.builds(Independent, some_lengths, some_lengths),
    "sharing": some_sharing,
    "priorities": st.sampled_from([None, {0: 1, -3: 2}]),
    "n": st.sampled_from([None, {2: 1}]),
}
traffic = st.builds(Traffic, **parts) | st.builds(
    SessionTraffic,
    **parts,
    turns_mean=st.floats(1, 9),
    think_mean_s=st.sampled_from([0.0, 0.1, 30.0]),
    max_prompt_tokens=st.integers(1, 200),
)
sources: st.SearchStrategy[Source] = traffic | st.builds(
    ClientTraffic, st.dictionaries(st.sampled_from("abc"), traffic, min_size=1)
)


def workload(source: Source, requests: int = 300, *, seed: int = 0) -> SyntheticWorkload:
    return SyntheticWorkload(source, requests=requests, seed=seed)


@settings(deadline=None, max_examples=60)
@given(source=sources, requests=st.integers(1, 80), seed=st.integers(0, 2**63 - 1))
def test_any_traffic_keeps_the_contract(source: Source, requests: int, seed: int) -> None:
    synthetic = workload(source, requests, seed=seed)
    check_trace(synthetic)
    assert len(list(synthetic)) == requests


@pytest.mark.parametrize("source", [PLAIN, CHAT, MIX], ids=["plain", "chat", "mix"])
def test_a_longer_workload_continues_a_shorter_one(source: Source) -> None:
    assert list(workload(source, 6000))[:5000] == list(workload(source, 5000))
    by_time = list(SyntheticWorkload(source, duration_s=50))
    assert by_time == list(SyntheticWorkload(source, duration_s=100))[: len(by_time)]
    assert by_time[-1].arrival_ns < 50 * 10**9
    both = SyntheticWorkload(source, requests=7, duration_s=50)
    assert list(both) == by_time[:7]


def column(source: Source, field: str, count: int = 3000) -> list[object]:
    return [getattr(request, field) for request in workload(source, count)]


@pytest.mark.parametrize(
    ("changed", "changes"),
    [
        ({"lengths": Independent(LENGTHS.prompt, Always(9))}, {"output_tokens"}),
        ({"lengths": Independent(Always(9), LENGTHS.output)}, {"prompt"}),
        ({"arrivals": Gamma(2.0, 3.0)}, {"arrival_ns"}),
        ({"sharing": NOTHING}, {"prompt", "output_stream"}),
        ({"tenants": None}, {"tenant"}),
        ({"priorities": {7: 1}}, {"priority"}),
        ({"n": None}, {"n"}),
    ],
)
def test_a_change_of_one_quantity_changes_no_other(
    changed: dict[str, object], changes: set[str]
) -> None:
    """Common random numbers: every other column is the same to the bit."""
    other = replace(PLAIN, **changed)  # type: ignore[arg-type]
    fields = ("arrival_ns", "prompt", "output_tokens", "output_stream", "tenant", "priority", "n")
    differ = {field for field in fields if column(PLAIN, field) != column(other, field)}
    assert differ == changes


def test_sharing_does_not_change_the_questions() -> None:
    questions = [
        [request.prompt[-1][2] for request in workload(replace(PLAIN, sharing=sharing))]
        for sharing in (PLAIN.sharing, NOTHING, PromptTree(3, 3, 5))
    ]
    assert questions[0] == questions[1] == questions[2]


def test_other_answers_leave_the_sessions_what_they_say() -> None:
    """Turns move with the answers before them, but every turn asks the same."""
    other = replace(CHAT, lengths=Independent(LENGTHS.prompt, Always(9)))

    def questions(source: Source) -> dict[str, int]:
        return {r.id: r.prompt[-1][2] for r in workload(source, 2000)}

    mine, theirs = questions(CHAT), questions(other)
    shared = mine.keys() & theirs.keys()
    assert len(shared) > 1500
    assert {name: mine[name] for name in shared} == {name: theirs[name] for name in shared}


def test_a_generator_depends_on_its_name_alone() -> None:
    draws = Draws(5)
    draws.generator("other").random(10)
    first = Draws(5).generator("gaps").random(3).tolist()
    assert draws.generator("gaps").random(3).tolist() == first
    assert draws.within("client a").generator("gaps").random(3).tolist() != first
    assert Draws(6).generator("gaps").random(3).tolist() != first


def test_weights_are_kept() -> None:
    requests = list(workload(PLAIN, 20_000))
    tenants, ns = Counter(r.tenant for r in requests), Counter(r.n for r in requests)
    assert tenants["a"] == pytest.approx(15_000, abs=3 * (20_000 * 3 / 16) ** 0.5)
    assert ns[4] == pytest.approx(2_000, abs=3 * (20_000 * 0.09) ** 0.5)
    assert tenants.keys() == {"a", "b"}
    assert {r.priority for r in requests} == {0, 5}


def test_what_is_drawn_is_independent() -> None:
    """Two quantities with one generator would go together."""
    requests = list(workload(PLAIN, 5000))
    columns = [
        [r.prompt[-1][2] for r in requests],
        [r.output_tokens for r in requests],
        [r.prompt[0][0] for r in requests],
        [r.tenant == "a" for r in requests],
        [r.priority for r in requests],
        [r.n for r in requests],
        np.diff([0, *(r.arrival_ns for r in requests)]),
    ]
    correlation = stats.spearmanr(np.column_stack(columns)).statistic
    np.fill_diagonal(correlation, 0)
    # The largest of 21, each with a standard error of 0.014.
    assert abs(correlation).max() < 3.5 * 5000**-0.5


def test_fingerprints_tell_parameters_apart() -> None:
    sources = [
        *(PLAIN, CHAT, MIX, replace(PLAIN, arrivals=Gamma(5, 1)), replace(PLAIN, n=None)),
        *(
            replace(CHAT, think_mean_s=6.0),
            ClientTraffic({"x": PLAIN}),
            ClientTraffic({"y": PLAIN}),
        ),
    ]
    prints = [workload(source).fingerprint() for source in sources]
    prints += [workload(PLAIN, 301).fingerprint(), workload(PLAIN, seed=1).fingerprint()]
    prints.append(SyntheticWorkload(PLAIN, requests=300, duration_s=5).fingerprint())
    assert len(set(prints)) == len(prints)
    same = replace(PLAIN, arrivals=Poisson(5))
    assert workload(same).fingerprint() == prints[0]


def test_draws_are_pinned() -> None:
    """Other numbers change published results: raise _VERSION with them."""
    pinned = [next(islice(workload(source), 100, None)) for source in (PLAIN, CHAT, MIX)]
    assert pinned == PINNED


PINNED = [
    Request(
        id="r00100",
        arrival_ns=19593741783,
        prompt=((1, 0, 20), (203, 0, 77)),
        output_tokens=91,
        output_stream=204,
        max_tokens=None,
        priority=5,
        tenant="a",
        session=None,
        n=1,
    ),
    Request(
        id="s00040-t0",
        arrival_ns=42503219677,
        prompt=((200, 0, 122),),
        output_tokens=106,
        output_stream=201,
        max_tokens=None,
        priority=0,
        tenant=None,
        session="s00040",
        n=1,
    ),
    Request(
        id="y/s00008-t0",
        arrival_ns=8157624392,
        prompt=((73, 0, 69),),
        output_tokens=119,
        output_stream=76,
        max_tokens=None,
        priority=0,
        tenant="y",
        session="y/s00008",
        n=1,
    ),
]


@pytest.mark.parametrize("arrivals", [AtOnce(), Poisson(1.0)])
def test_a_workload_without_end_is_refused(arrivals: Arrivals) -> None:
    source = replace(PLAIN, arrivals=arrivals)
    with pytest.raises(ValueError, match="found a workload without end"):
        SyntheticWorkload(source)
    timeless = arrivals == AtOnce()
    if timeless:
        with pytest.raises(ValueError, match=r"allowed: requests$"):
            SyntheticWorkload(source, duration_s=5)
    assert len(list(SyntheticWorkload(source, requests=5))) == 5


def test_a_workload_without_requests_is_refused() -> None:
    said = refusal(SyntheticWorkload(PLAIN, duration_s=1e-9))
    assert said.startswith("synthetic: found no request within 1e-09 s; allowed: a longer")


def test_a_workload_of_more_than_a_lifetime_is_refused() -> None:
    said = refusal(SyntheticWorkload(replace(PLAIN, arrivals=Poisson(1e-12)), requests=5))
    assert "found request 'r00000' after more than 146 years" in said


def test_replayed_arrivals_come_from_another_trace(tmp_path: Path) -> None:
    trace = azure(
        tmp_path,
        *(f"2023-11-16 18:00:0{second},5,{answer}" for second, answer in ((0, 1), (4, 0), (7, 2))),
    )
    source = replace(PLAIN, arrivals=Replayed(trace))
    synthetic = SyntheticWorkload(source)
    check_trace(synthetic)
    assert [request.arrival_ns for request in synthetic] == [0, 7 * 10**9]
    dropped = "replayed arrivals: requests with zero output tokens dropped"
    assert synthetic.notes == {dropped: 1}
    longer = SyntheticWorkload(source, requests=5)
    assert len(list(longer)) == 2
    assert longer.notes == {dropped: 1, "requests missing, because the replayed arrivals end": 3}
    sessions = SyntheticWorkload(replace(CHAT, arrivals=Replayed(trace)))
    check_trace(sessions)
    assert {request.session for request in sessions} == {"s00000", "s00001"}


def test_a_native_file_holds_all_of_a_workload(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl.gz"
    for source in (PLAIN, CHAT, MIX):
        write_trace(path, workload(source))
        assert list(NativeTrace(path)) == list(workload(source))


def test_clients_keep_to_themselves() -> None:
    requests = list(workload(MIX, 4000))
    content: dict[int, set[str]] = defaultdict(set)
    for request in requests:
        client = request.id.partition("/")[0]
        assert (request.session or request.id).startswith(f"{client}/")
        assert request.tenant in ({"a", "b"} if client == "x" else {"y", "z"})
        for stream, _, _ in request.prompt:
            content[stream].add(client)
    assert {len(clients) for clients in content.values()} == {1}


def test_a_further_client_changes_no_other() -> None:
    fewer = ClientTraffic({"x": PLAIN, "y": CHAT})
    last_ns = 100 * 10**9

    def shapes(source: Source, name: str) -> list[tuple[object, ...]]:
        return [
            (r.id, r.arrival_ns, [run[2] for run in r.prompt], r.output_tokens, r.n)
            for r in SyntheticWorkload(source, duration_s=last_ns / 1e9)
            if r.id.startswith(name)
        ]

    for name in ("x", "y"):
        assert shapes(MIX, name) == shapes(fewer, name)
        assert shapes(MIX, name)


def test_a_population_is_skewed_and_bursty() -> None:
    clients = Population(count=100, rate=50.0, rate_skew=1.0, cv_median=2.0, cv_sigma=0.3).clients(
        seed=4
    )
    rates = [
        client.arrivals.rate for client in clients.values() if hasattr(client.arrivals, "rate")
    ]
    assert sum(rates) == pytest.approx(50)
    assert rates[0] / rates[9] == pytest.approx(10)
    requests = list(workload(ClientTraffic(clients), 20_000))
    counts = Counter(request.tenant for request in requests)
    assert counts["c0000"] / 20_000 == pytest.approx(rates[0] / 50, rel=0.15)
    mine = np.diff([r.arrival_ns for r in requests if r.tenant == "c0000"])
    claimed = clients["c0000"].arrivals
    assert isinstance(claimed, Gamma)
    assert mine.std() / mean_of(mine) == pytest.approx(claimed.cv, rel=0.15)
    assert (
        1.5
        < np.median([c.arrivals.cv for c in clients.values() if isinstance(c.arrivals, Gamma)])
        < 2.6
    )


def mean_of(values: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    return float(values.mean())


def test_a_larger_population_begins_with_the_same_clients() -> None:
    few, many = (Population(count=count, rate=1.0).clients(seed=4) for count in (5, 50))
    for name, client in few.items():
        assert many[name].lengths == client.lengths
