"""The parts of TTFT: recomputed from the other tables, and by hand."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.latency import Linear, Nanoseconds, Replay
from sim.plan import Limit, Plan
from sim.record import Event
from sim.scheduling.vllm import Limits
from sim.ttft import PARTS
from tests.served import Frames, Server, ask, serve
from tests.worlds import small_world

_READ = ("steps", "chunks", "events")
CAUSES = {
    Limit.SEATS: "queue_seats",
    Limit.TOKENS: "queue_tokens",
    Limit.BLOCKS: "queue_memory",
    Limit.GATE: "queue_memory",
}


@dataclass
class Crooked:
    """Has host time, and chunks that are cheaper beside others than alone."""

    base: Linear
    host_ns: int
    source = "crooked"
    modelled = True
    knows_alone = True

    def durations(self, plan: Plan, k: int) -> Nanoseconds:
        return self.base.durations(plan, k) + self.host_ns

    def alone(self, computed_before: int, n: int, k: int = 1) -> Nanoseconds:
        return self.base.alone(computed_before, n, k) + (n % 3) * 70 if n else self.base.alone(0, 0)


def recompute(frames: Frames, server: Server) -> dict[int, dict[str, int]]:
    """Parts of TTFT by request, step by step, from everything recorded but the parts."""
    found: dict[int, dict[str, int]] = {}
    requests = frames["requests"].set_index("request")
    for replica, ends in frames["step_ends"].groupby("replica"):
        here = requests[requests["replica"] == replica].sort_index()
        mine = {name: frames[name][frames[name]["replica"] == replica] for name in _READ}
        found |= _Replay(here, server, mine).run(mine["steps"], ends["end_ns"].tolist())
    return found


class _Replay:
    """One replica's queue and prefills, step by step."""

    def __init__(self, requests: pd.DataFrame, server: Server, tables: Frames) -> None:
        self.requests = requests
        self.server = server
        self.parts = {request: dict.fromkeys(PARTS, 0) for request in requests.index}
        self.saved = dict.fromkeys(requests.index, 0)
        self.most = dict.fromkeys(requests.index, 0)
        self.queue: list[int] = []
        self.gave_way: set[int] = set()
        self.prefilling: set[int] = set()
        self.done: set[int] = set()
        self.of_step: dict[str, dict[int, list[Any]]] = {"events": {}, "chunks": {}}
        for name, by_step in self.of_step.items():
            for row in tables[name].itertuples():
                by_step.setdefault(row.step, []).append(row)

    def run(self, steps: pd.DataFrame, ends_ns: list[int]) -> dict[int, dict[str, int]]:
        not_yet = list(self.requests.index)
        for row in steps.itertuples():
            start_ns = row.start_ns
            for step in range(row.first_step, row.first_step + row.steps):
                while not_yet and self.requests["arrival_ns"][not_yet[0]] <= start_ns:
                    request = not_yet.pop(0)
                    flight_ns = start_ns - self.requests["arrival_ns"][request]
                    self.parts[request]["queue_flight"] += flight_ns
                    self.queue.append(request)
                self.step(row, step, ends_ns[step] - start_ns)
                start_ns = ends_ns[step]
        assert self.done == set(self.requests.index)
        return {
            request: {
                **parts,
                "host": parts["host"] + self.server.front_end_ns,
                "saved_by_prefix": self.saved[request],
            }
            for request, parts in self.parts.items()
        }

    def step(self, row: Any, step: int, duration_ns: int) -> None:
        events = [
            (Event(e.event), e.request, e.tokens) for e in self.of_step["events"].get(step, [])
        ]
        for event, request, _ in events:
            if event is Event.PREEMPT:
                self.queue.insert(0, request)
                self.gave_way.add(request)
                self.prefilling.discard(request)
        for event, request, tokens in events:
            if event in (Event.ADMIT, Event.RESUME):
                self.queue.remove(request)
                self.gave_way.discard(request)
                if request not in self.done:
                    self.prefilling.add(request)
                    self.most[request] = max(self.most[request], tokens)
                if event is Event.ADMIT:
                    self.saved[request] = self.alone(0, tokens)
        self.wait(row, duration_ns)
        idle = set(self.prefilling)
        for chunk in self.of_step["chunks"].get(step, []):
            if chunk.request in self.prefilling:
                idle.remove(chunk.request)
                self.compute(chunk, duration_ns)
        for request in idle:
            self.parts[request]["interference"] += duration_ns

    def wait(self, row: Any, duration_ns: int) -> None:
        head = self.refused_head(row)
        for request in self.queue:
            if request in self.done:
                continue
            if request in self.gave_way:
                part = "preemption"
            elif head is not None and request != head:
                part = "queue_behind"
            else:
                part = CAUSES[row.limit]
            self.parts[request][part] += duration_ns

    def refused_head(self, row: Any) -> int | None:
        """Who was looked at, and found no room."""
        spent = row.chunk_tokens + row.decodes == self.server.limits.max_num_batched_tokens
        looked = row.limit in (Limit.BLOCKS, Limit.GATE) or (
            row.limit == Limit.TOKENS and not spent
        )
        if row.preempted or not looked:
            return None
        if not self.server.priority:
            return self.queue[0]
        key = self.requests[["priority", "arrival_ns", "id"]].apply(tuple, axis=1)
        return min(self.queue, key=lambda request: key[request])

    def compute(self, chunk: Any, duration_ns: int) -> None:
        parts, request = self.parts[chunk.request], chunk.request
        again = min(chunk.tokens, max(0, self.most[request] - chunk.computed_before))
        again_ns = self.alone(chunk.computed_before, again)
        host_ns = self.server.latency.host_ns
        parts["own"] += chunk.alone_ns - again_ns
        parts["preemption"] += again_ns
        parts["host"] += host_ns
        parts["interference"] += duration_ns - host_ns - chunk.alone_ns
        computed = chunk.computed_before + chunk.tokens
        self.most[request] = max(self.most[request], computed)
        if computed == self.requests["prompt_tokens"][request]:
            self.prefilling.remove(request)
            self.done.add(request)

    def alone(self, computed_before: int, n: int) -> int:
        return int(self.server.latency.alone(computed_before, n)[0]) if n else 0


def recorded(frames: Frames) -> dict[int, dict[str, int]]:
    requests = frames["requests"].set_index("request")
    columns = {part: f"{part}_ns" for part in (*PARTS, "saved_by_prefix")}
    return {
        int(request): {part: int(row[column]) for part, column in columns.items()}
        for request, row in requests.iterrows()
    }


@settings(deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_parts_are_those_recomputed_from_steps_and_chunks(seed: int, crooked: bool) -> None:
    world = small_world(random.Random(seed))
    server = Server.of(world)
    if crooked:
        base = server.latency
        assert isinstance(base, Linear)
        server = Server.of(world, latency=Crooked(base, host_ns=33), front_end_ns=5)
    frames, _ = serve(world.requests, server)
    if len(frames["requests"]):
        assert recorded(frames) == recompute(frames, server)


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
