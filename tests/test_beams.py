"""Beam search: who survives, how many run, what they share."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.conservation import check
from experiments.metrics import summarize
from sim.beams import Search
from sim.record.rows import Event
from sim.request import Request, Sequence
from sim.scheduling.vllm import Limits
from tests.served import Server, ask, serve
from tests.test_ttft_parts import parts_of, recorded
from tests.ttft_replay import recompute
from tests.worlds import several_answers

ROOMY = Limits(max_num_seqs=64, max_num_batched_tokens=1000)
SERVER = Server(num_gpu_blocks=500, limits=ROOMY, forks=True, check_every=1)


def first_beam(width: int) -> Sequence:
    first = Sequence.of(Request("r", 0, ((0, 0, 5),), 10, 1, beam=width), index=3)
    first.id, first.width = "0_r", width
    return first


@given(st.integers(1, 6), st.floats(0.01, 5), st.integers(0, 1000))
def test_the_best_of_the_union_survive(width: int, spread: float, seed: int) -> None:
    """Told once more with lists and a sort, from the same draws."""
    search = Search(first_beam(width), spread=spread, seed=[seed, 0, 3])
    random = np.random.default_rng([seed, 0, 3])
    scores = {search.first: 0.0}
    for _ in range(5):
        beams = sorted(scores, key=lambda beam: beam.index)
        draws = random.normal(0.0, spread, (len(beams), 2 * width)).tolist()
        union = [
            (scores[beam] + draw - math.log(sum(map(math.exp, row))), beam)
            for beam, row in zip(beams, draws, strict=True)
            for draw in row
        ]
        union.sort(key=lambda candidate: -candidate[0])
        best = union[:width]
        forks, pruned = search.part(beams, wanted=width, stream=lambda: -1)
        going_on = [*(set(beams) - set(pruned)), *(fork.child for fork in forks)]
        assert len(going_on) == width
        assert set(pruned) == set(beams) - {beam for _, beam in best}
        assert [fork.parent for fork in forks] == [
            beam for at, (_, beam) in enumerate(best) if beam in [b for _, b in best[:at]]
        ]
        assert set(search.scores) == set(going_on)
        found = sorted(search.scores.values())
        assert found == pytest.approx(sorted(score for score, _ in best))
        scores = dict(search.scores)


def test_children_are_branches_with_numbers_of_their_own() -> None:
    search = Search(first_beam(4), spread=1.0, seed=[0])
    numbers = [0]
    beams = [search.first]
    for _ in range(20):
        forks, _ = search.part(beams, wanted=4, stream=lambda: -1)
        numbers += [fork.child.index >> 40 for fork in forks]
        assert all(fork.child.id == f"{fork.child.index >> 40}_r" for fork in forks)
        beams = sorted(search.scores, key=lambda beam: beam.index)
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("width", [1, 2, 5])
def test_as_many_beams_as_asked_for_in_every_step(width: int) -> None:
    frames, context = serve([ask(0, prompt=30, output=40, beam=width)], SERVER)
    check(frames, context)
    (row,) = frames["requests"].to_dict("records")
    assert (row["branches"], row["output_tokens"]) == (width, 40 * width)
    decodes = np.repeat(frames["steps"]["decodes"], frames["steps"]["steps"]).tolist()
    assert decodes == [0, *[width] * 39]
    events = frames["events"]
    ends = events[events["event"] == Event.FINISH]
    assert ends["step"].tolist() == [39] * width, "all end together"
    assert row["finish_ns"] == frames["step_ends"]["end_ns"].max()
    forks, prunes = ((events["event"] == event).sum() for event in (Event.FORK, Event.PRUNE))
    assert forks == prunes + width - 1


def saved(**more: Any) -> float:
    """Of the tokens that all branches hold, the share that costs no memory, over time."""
    spread = more.pop("spread", 1.0)
    requests = [ask(i, prompt=30, output=120, **more) for i in range(3)]
    server = Server(
        num_gpu_blocks=2000, block_size=16, limits=ROOMY, forks=True, beam_spread=spread,
        prefix_caching=False, max_model_len=1000,
    )  # fmt: skip
    _, context = serve(requests, server)
    used, savings = context["slot_ns"][0][0], context["slot_ns"][0][-1]
    return savings / (used + savings)


def test_beams_share_more_than_samples() -> None:
    """They keep parting from each other; the less so, the more a beam's best token stands out."""
    samples, beams, steady = saved(n=4), saved(beam=4), saved(beam=4, spread=8.0)
    assert samples < steady < beams
    # A prompt of 30 has one whole block of 16: three of four branches save it, of 30 to 149 tokens.
    tokens = np.arange(31, 150)
    assert samples == pytest.approx((3 * 16 * len(tokens)) / (4 * tokens.sum()), rel=0.1)


def test_a_search_is_the_same_twice_and_differs_by_seed() -> None:
    events = [serve([ask(0, output=30, beam=3)], SERVER)[0]["events"] for _ in range(2)]
    assert events[0].equals(events[1])
    other = serve([ask(0, of=5, output=30, beam=1), ask(1, output=30, beam=3)], SERVER)[0]["events"]
    told = [
        frame[frame["event"] == Event.FORK][["step", "tokens"]].to_numpy().tolist()
        for frame in (events[0], other)
    ]
    assert told[0] != told[1]


def test_a_beam_that_was_preempted_goes_on_by_itself() -> None:
    """All answers come, however little room there is; recounted at every step."""
    tight = Server(num_gpu_blocks=12, prefix_caching=False, forks=True, check_every=1)
    requests = [ask(i, prompt=9, output=20, beam=3) for i in range(3)]
    frames, context = serve(requests, tight)
    check(frames, context)
    assert frames["requests"]["preemptions"].sum() > 0
    assert frames["requests"]["output_tokens"].tolist() == [60] * 3


def test_the_answers_of_a_search_come_at_its_end() -> None:
    """10 tokens; then 2 at contexts of 11 and of 12: 1,110 + 1,042 + 1,044 ns, and 5 in front."""
    server = Server(forks=True, front_end_ns=5)
    frames, context = serve([ask(0, at_ns=50, output=3, beam=2)], server)
    (row,) = frames["requests"].to_dict("records")
    assert (row["first_token_ns"], row["finish_ns"]) == (1160, 1160 + 1042 + 1044)
    assert (row["beam"], row["branches"]) == (2, 2)
    assert parts_of(frames, 0) == {"own": 1110, "host": 5, "search": 2086}
    assert row["ttft_ns"] == 1110 + 5 + 2086
    summary = summarize(frames, context)
    said = summary["latency_ms"]
    assert said["e2e"]["mean"] == said["ttft"]["mean"] == 3201e-6
    assert said["tpot"] == said["itl"] == {"count": 0}
    assert "beam search, from its first token to its end" in summary["verdicts"]["ttft"]


def test_a_search_delays_what_samples_stream() -> None:
    """The two in turn: the samples' gaps count, those inside the search do not."""
    requests = [ask(0, output=4, n=2), ask(1, at_ns=10**6, output=4, beam=2)]
    frames, context = serve(requests, Server(forks=True))
    samples, search = frames["requests"].sort_values("request").to_dict("records")
    assert samples["search_ns"] == 0
    assert samples["ttft_ns"] == samples["first_token_ns"]
    assert search["ttft_ns"] == search["finish_ns"] - search["arrival_ns"]
    latencies = summarize(frames, context)["latency_ms"]
    assert (latencies["itl"]["count"], latencies["tpot"]["count"]) == (2 * 3, 1)
    context["config"]["slo"] = {"tpot_ms": 1e-9, "ttft_ms": search["ttft_ns"] / 1e6}
    goodput = summarize(frames, context)["throughput"]["goodput"]
    assert goodput["requests"] == 1  # the search: it keeps any TPOT


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_the_parts_of_a_search_are_those_recomputed(seed: int) -> None:
    """Also where beams are preempted, and where they run beside others."""
    world = several_answers(random.Random(seed), forks=True)
    requests = [
        replace(request, n=1, beam=2 + at % 3) if at % 2 else request
        for at, request in enumerate(world.requests)
    ]
    limits = replace(world.limits, max_num_seqs=max(4, world.limits.max_num_seqs))
    server = Server.of(replace(world, limits=limits, replicas=1), check_every=20)
    frames, context = serve(requests, server)
    check(frames, context)
    if len(frames["requests"]):
        assert recorded(frames) == recompute(frames, server)
