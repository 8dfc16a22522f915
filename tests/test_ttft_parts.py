"""The parts of TTFT: recomputed from the other tables, and by hand."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.latency import Counts, Linear, Nanoseconds, Replay
from sim.plan import Plan
from sim.record.ttft import PARTS
from sim.scheduling.vllm import Limits
from tests.served import Frames, Server, ask, serve
from tests.ttft_replay import recompute
from tests.worlds import SmallWorld, in_flight, small_world


@dataclass
class Crooked:
    """Has host time, and chunks that are cheaper beside others than alone."""

    base: Linear
    host_ns: int
    source = "crooked"
    modelled = True
    knows_alone = True

    def durations(self, plan: Plan, k: int) -> list[int]:
        return [self.host_ns + straight for straight in self.base.durations(plan, k)]

    def alone(self, computed_before: Counts, n: Counts) -> Nanoseconds:
        return self.base.alone(computed_before, n) + n % 3 * 70

    def swap(self, out_blocks: Counts, in_blocks: Counts) -> Nanoseconds:
        return self.base.swap(out_blocks, in_blocks)


def recorded(frames: Frames) -> dict[int, dict[str, int]]:
    requests = frames["requests"].set_index("request")
    columns = {part: f"{part}_ns" for part in (*PARTS, "saved_by_prefix")}
    return {
        int(request): {part: int(row[column]) for part, column in columns.items()}
        for request, row in requests.iterrows()
    }


def check_parts(world: SmallWorld, *, crooked: bool) -> None:
    server = Server.of(world)
    if crooked:
        base = server.latency
        assert isinstance(base, Linear)
        server = Server.of(world, latency=Crooked(base, host_ns=33), front_end_ns=5)
    frames, _ = serve(world.requests, server)
    if len(frames["requests"]):
        assert recorded(frames) == recompute(frames, server)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_parts_are_those_recomputed_from_steps_and_chunks(seed: int, crooked: bool) -> None:
    check_parts(small_world(random.Random(seed)), crooked=crooked)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_parts_with_two_batches_in_flight(seed: int, crooked: bool) -> None:
    world = replace(in_flight(random.Random(seed)), asynchronous=True, stages=1)
    check_parts(world, crooked=crooked)


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_parts_add_up_with_pipeline_stages(seed: int) -> None:
    world = in_flight(random.Random(seed))
    frames, _ = serve(world.requests, Server.of(world))
    requests = frames["requests"]
    parts = requests[[f"{part}_ns" for part in PARTS]].sum(axis=1)
    assert (parts == requests["ttft_ns"]).all()
    assert (requests[[f"{part}_ns" for part in PARTS if "queue" in part]] >= 0).all(axis=None)


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_who_was_never_preempted_has_no_preemption_part(seed: int) -> None:
    world = small_world(random.Random(seed))
    frames, _ = serve(world.requests, Server.of(world))
    requests = frames["requests"]
    assert (requests["preemption_ns"][requests["preemptions"] == 0] == 0).all()
    roomy, _ = serve(world.requests, Server.of(world, num_gpu_blocks=10_000))
    assert (roomy["requests"]["preemption_ns"] == 0).all()


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_with_room_for_all_nobody_waits_longer_than_a_step(seed: int) -> None:
    world = small_world(random.Random(seed))
    unlimited = Limits(max_num_seqs=1000, max_num_batched_tokens=100_000)
    frames, _ = serve(world.requests, Server.of(world, num_gpu_blocks=10_000, limits=unlimited))
    requests, steps = frames["requests"], frames["steps"]
    if len(requests):
        queue_ns = requests["admit_ns"] - requests["arrival_ns"]
        assert (queue_ns == requests["queue_flight_ns"]).all()
        longest_ns = (steps["end_ns"] - steps["start_ns"]).max()
        assert queue_ns.max() < longest_ns


def parts_of(frames: Frames, request: int) -> dict[str, int]:
    """The parts that are not 0."""
    return {part: ns for part, ns in recorded(frames)[request].items() if ns}


def test_one_request_alone() -> None:
    """10 tokens: 1,000 + 10 x 10 + 1 x 10 ns, all its own."""
    frames, _ = serve([ask(0, at_ns=500, prompt=10)], Server())
    assert parts_of(frames, 0) == {"own": 1110}
    assert frames["requests"]["ttft_ns"].tolist() == [1110]


def test_two_equal_prompts_at_one_instant() -> None:
    """The second shares two blocks of 4 that the first computes in this very step.

    The step computes 10 + 2 tokens at contexts 10 + 10: 1,000 + 120 + 20 ns.
    """
    frames, _ = serve([ask(0, of=7), ask(1, of=7)], Server())
    assert parts_of(frames, 0) == {"own": 1110, "interference": 30}
    assert parts_of(frames, 1) == {"own": 1030, "interference": 110, "saved_by_prefix": 1088}


def test_an_arrival_waits_for_the_step_in_flight() -> None:
    """The first step lasts 1,110 ns; the second request arrives 300 ns into it."""
    frames, _ = serve([ask(0), ask(1, at_ns=300)], Server())
    assert parts_of(frames, 1)["queue_flight"] == 810


def test_recorded_durations_leave_all_computing_to_interference() -> None:
    server = Server(latency=Replay([700, 5, 5], source="by hand"))
    frames, context = serve([ask(0, output=3)], server)
    assert parts_of(frames, 0) == {"interference": 700}
    assert not context["latency"]["knows_alone"]


def test_a_prefill_preempted_once() -> None:
    """The first request's third block takes the second one's, 16 of its 20 tokens computed.

    Six chunks beside a decode (own 6,211 ns), one step out (1,019 ns), then all over again
    from chunk (0, 3): 1,033 + 1,047 + 1,051 + 1,055 ns for 15 tokens. The chunk (15, 4)
    costs 1,059 ns, of which 1,026 for the token that had been there; (19, 1) costs 1,030.
    """
    tight = Limits(max_num_seqs=4, max_num_batched_tokens=4, scheduler_reserve_full_isl=False)
    server = Server(num_gpu_blocks=7, prefix_caching=False, limits=tight)
    frames, _ = serve([ask(0, prompt=3, output=8), ask(1, prompt=20, output=2)], server)
    assert frames["requests"]["preemptions"].tolist() == [0, 1]
    assert parts_of(frames, 1) == {
        "own": 6211 + 33 + 1030,
        "preemption": 1019 + 1033 + 1047 + 1051 + 1055 + 1026,
        "interference": 33 + 14 + 15 + 16 + 17 + 18 + 20,
    }
