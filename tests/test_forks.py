"""Requests for several answers that fork: blocks, books, seats, content; and against n requests."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.conservation import check
from experiments.itl import measure_gaps
from sim.kv.forks import Forks
from sim.kv.names import Names
from sim.kv.paged import Paged
from sim.kv.prefix import PrefixCached
from sim.latency import Linear
from sim.moves import Copy, Takes
from sim.observer import Observer
from sim.parting import Fork
from sim.plan import Departure, Limit, Plan
from sim.record.rows import Event
from sim.request import Request, Sequence
from sim.scheduling.priority import Priority
from sim.scheduling.vllm import Limits, VllmScheduler
from tests.served import Server, ask, serve
from tests.test_ttft_parts import parts_of, recorded
from tests.ttft_replay import recompute
from tests.worlds import serve as serve_world
from tests.worlds import several_answers

ROOMY = Limits(max_num_seqs=64, max_num_batched_tokens=1000)
Token = tuple[int, int]


@dataclass
class Written(Observer):
    """An observer with memory that is really written: what is computed must be read back.

    But for what vLLM publishes and never computes: keys of a victim that had been scheduled in
    the step that preempts it, which only happens under the policy priority.
    """

    scheduler: VllmScheduler
    slots: dict[tuple[int, int], Token] = field(default_factory=dict)
    """Blocks of the host have negative numbers."""
    tokens: dict[Sequence, list[Token]] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)
    tables: dict[int, list[int]] = field(default_factory=dict)
    """By sequence: the block table that it gave back when its answer was complete."""
    held: dict[int, list[int]] = field(default_factory=dict)
    """All tables during the last step in which as many as ever were running."""

    def arrived(self, sequence: Sequence, request: Request, answer: int, now_ns: int) -> None:
        self.tokens[sequence] = [
            (stream, at) for stream, start, n in request.prompt for at in range(start, start + n)
        ] + [(sequence.output_stream, at) for at in range(answer)]

    def ran(self, plan: Plan, start_ns: int, ends_ns: list[int], takes: Takes) -> None:
        kv = self.scheduler.kv
        self.copies += plan.copies
        for swap in plan.swaps:
            for block, host in zip(swap.blocks, swap.host_blocks, strict=True):
                source, target = (block, -1 - host) if swap.out else (-1 - host, block)
                for offset in range(kv.block_size):
                    self.slots[target, offset] = self.slots.get((source, offset), (-1, -1))
        for source, target, _, _ in plan.copies:
            for offset in range(kv.block_size):
                self.slots[target, offset] = self.slots.get((source, offset), (-1, -1))
        for sequence, before, n in plan.rows():
            for position in range(before, before + n):
                where = kv.translate(sequence, position)
                self.slots[where] = self.tokens[sequence][position]
        for sequence in self.scheduler.running:
            if isinstance(self.scheduler.order, Priority) and isinstance(kv, PrefixCached):
                break
            read = [self.slots[kv.translate(sequence, at)] for at in range(sequence.computed)]
            assert read == self.tokens[sequence][: sequence.computed], sequence.id
        if len(self.scheduler.running) >= len(self.held):
            self.held = {each.index: list(each.blocks) for each in self.scheduler.running}

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        for parent, child in forks:
            before = self.tokens[parent]
            own = [(child.output_stream, at) for at in range(len(before) - child.computed)]
            self.tokens[child] = before[: child.computed] + own

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        for departure in departures:
            self.tables[departure.sequence.index] = departure.blocks


def watched(requests: list[Request], server: Server) -> tuple[Written, dict[str, pd.DataFrame]]:
    """Serve on memory that is written, recounting every step; check what holds in any run."""
    made: list[Written] = []

    def watch(scheduler: VllmScheduler) -> Written:
        made.append(Written(scheduler))
        return made[-1]

    frames, context = serve(requests, replace(server, watch=watch, check_every=1))
    check(frames, context)
    return made[0], frames


# --- the path of one fork


@pytest.mark.parametrize("prefix_caching", [True, False])
@pytest.mark.parametrize(
    ("fork_at", "n", "shared", "copied", "distinct"),
    [
        (100, 2, 6, 1, 14),
        (96, 2, 6, 0, 14),
        (100, 4, 6, 3, 6 + 4 * 4),
        (3, 3, 0, 2, 3 * 4),
        (112, 3, 7, 0, 7 + 3 * 4),
    ],
)
def test_50_tokens_on_each_branch(
    fork_at: int, n: int, shared: int, copied: int, distinct: int, prefix_caching: bool
) -> None:
    """Block size 16. The prompt's whole blocks are shared to the end, its last one is copied by
    all writers but the last."""
    server = Server(
        num_gpu_blocks=100, block_size=16, limits=ROOMY, forks=True, prefix_caching=prefix_caching
    )
    memory, frames = watched([ask(0, prompt=fork_at, output=51, n=n)], server)
    tables = list(memory.held.values())
    assert len(tables) == n
    assert {tuple(table[:shared]) for table in tables} == {tuple(tables[0][:shared])}
    apart = [block for table in tables for block in table[shared:]]
    assert len(apart) == len(set(apart)), "blocks shared after the fork"
    assert len({block for table in tables for block in table}) == distinct
    assert len(memory.copies) == copied
    assert frames["steps"]["copied_blocks"].sum() == copied
    if copied:
        assert {copy.position for copy in memory.copies} == {fork_at}
        assert {copy.source for copy in memory.copies} == {memory.copies[0].source}
        left = set(memory.held) - {copy.sequence.index for copy in memory.copies}
        assert len(left) == 1, "the last writer has the original"
        assert memory.held[left.pop()][shared] == memory.copies[0].source


def test_rows_of_a_fork() -> None:
    """Prompt 10, block size 4: step 0 gives three first tokens, step 1 copies block 2 twice."""
    server = Server(forks=True)
    memory, frames = watched([ask(0, at_ns=50, prompt=10, output=3, n=3)], server)
    (row,) = frames["requests"].to_dict("records")
    assert (row["branches"], row["output_tokens"], row["wanted_tokens"]) == (3, 9, 9)
    # 10 tokens; then 3 at contexts of 11 and of 12.
    ends = [50 + 1110, 50 + 1110 + 1063, 50 + 1110 + 1063 + 1066]
    assert frames["step_ends"]["end_ns"].tolist() == ends
    assert (row["first_token_ns"], row["finish_ns"], row["ttft_ns"]) == (ends[0], ends[2], 1110)
    assert parts_of(frames, 0) == {"own": 1110}
    events = frames["events"]
    assert events[["step", "event", "branch", "tokens"]].to_numpy().tolist() == [
        [0, Event.ADMIT, 0, 0],
        [0, Event.FORK, 1, 10],
        [0, Event.FORK, 2, 10],
        [2, Event.FINISH, 0, 3],
        [2, Event.FINISH, 1, 3],
        [2, Event.FINISH, 2, 3],
    ]
    assert frames["segments"][["branch", "first_step", "tokens"]].to_numpy().tolist() == [
        [0, 0, 3],
        [1, 0, 3],
        [2, 0, 3],
    ]
    gaps_ns, times = measure_gaps(frames["segments"], frames["step_ends"])
    assert dict(zip(gaps_ns.tolist(), times.tolist(), strict=True)) == {1063: 3, 1066: 3}
    memory_rows = frames["memory"]
    assert memory_rows["savings_first_slots"].tolist() == [0, 16]
    assert memory_rows["used_first_slots"].tolist() == [10, 8 + 3 * 3]
    assert memory_rows["internal_first_slots"].tolist() == [0, 0]
    assert len(memory.copies) == 2


def test_an_answer_of_one_token_forks_and_is_over() -> None:
    memory, frames = watched([ask(0, prompt=10, output=1, n=4)], Server(forks=True))
    assert frames["requests"]["output_tokens"].tolist() == [4]
    assert len(frames["step_ends"]) == 1
    assert memory.copies == []


# --- any world


def test_every_step_is_recounted_in_many_worlds() -> None:
    forked = 0
    for seed in range(40):
        outcome = serve_world(several_answers(random.Random(seed), forks=True))
        forked += int((outcome.records.arrays("events")["event"] == Event.FORK).sum())
    assert forked > 400


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_books_and_memory_agree_in_any_world(seed: int, forks: bool) -> None:
    """Every step recounted from the block tables, every token read back, every table checked;
    gaps and parts of TTFT told once more from rows."""
    world = several_answers(random.Random(seed), forks=forks)
    server = Server.of(world)
    one = replace(server, replicas=1)
    _, frames = watched(world.requests, one)
    if len(frames["requests"]) and forks:
        assert recorded(frames) == recompute(frames, one)
    _, times = measure_gaps(frames["segments"], frames["step_ends"])
    requests, given = frames["requests"], frames["segments"]["tokens"].sum()
    begun = requests["branches"].sum() + (frames["events"]["event"] == Event.PRUNE).sum()
    again = frames["events"]["event"] == Event.FORK
    later = again.sum() - (requests["branches"] - 1).sum() if forks else 0
    assert times.sum() == given - begun
    assert requests["output_tokens"].sum() == given - later


def bugs() -> dict[str, Callable[[pytest.MonkeyPatch], None]]:
    def nobody_copies(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Forks, "shares_last", lambda *_: False)

    def everybody_copies(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(
            Forks, "shares_last", lambda self, sequence: sequence.computed % self._block_size > 0
        )

    def a_copy_outlives_its_writer(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Forks, "_withdraw_copy", lambda *_: True)

    def a_withdrawn_copy_is_forgotten(patch: pytest.MonkeyPatch) -> None:
        original = Forks._withdraw_copy

        def withdraw(self: Forks, sequence: Sequence) -> bool:
            original(self, sequence)
            return False

        patch.setattr(Forks, "_withdraw_copy", withdraw)

    def a_child_has_its_parents_names(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Names, "branch", lambda self, chain, *_: chain)

    def a_part_counts_as_a_block(patch: pytest.MonkeyPatch) -> None:
        original = Paged.release

        def release(self: Paged, sequence: Sequence) -> Departure:
            left = original(self, sequence)
            whole = left.shared_tokens // self.block_size * self.block_size
            return left._replace(shared_tokens=whole)

        patch.setattr(Paged, "release", release)

    def the_books_miss_copies(patch: pytest.MonkeyPatch) -> None:
        original = Paged.take_copies

        def take_copies(self: Paged) -> list[Copy]:
            return original(self)[1:]

        patch.setattr(Paged, "take_copies", take_copies)

    return {bug.__name__: bug for bug in locals().values() if callable(bug)}


@pytest.mark.parametrize("bug", bugs().values(), ids=bugs())
def test_a_bug_is_noticed(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug(monkeypatch)
    for seed in range(200):
        world = several_answers(random.Random(seed), forks=True)
        server = replace(Server.of(world), replicas=1)
        try:
            watched(world.requests, server)
        except (AssertionError, IndexError, KeyError, ValueError, RuntimeError):
            return
    pytest.fail("no world noticed")


# --- seats, preemption, refusals


def test_an_admission_takes_a_seat_for_each_branch() -> None:
    """Four seats: three for the first request from its first chunk on, so the second, which
    wants two, waits until it is over, and the third behind it."""
    limits = Limits(max_num_seqs=4, max_num_batched_tokens=8)
    requests = [ask(0, prompt=12, output=4, n=3), ask(1, output=2, n=2), ask(2, output=2)]
    _, frames = watched(requests, Server(limits=limits, forks=True))
    finish_ns = frames["requests"].set_index("request")["finish_ns"]
    admit_ns = frames["requests"].set_index("request")["admit_ns"]
    assert admit_ns[1] == finish_ns[0]
    assert frames["steps"]["running"].max() == 3
    assert frames["steps"]["limit"][1] == Limit.SEATS
    # The first step spends its tokens, so nobody looks at the queue.
    first_ns = int(frames["step_ends"]["end_ns"][0])
    assert parts_of(frames, 1)["queue_seats"] == finish_ns[0] - first_ns
    assert parts_of(frames, 2)["queue_behind"] >= finish_ns[0] - first_ns


def test_a_branch_is_preempted_and_computed_anew() -> None:
    """Two branches outgrow five blocks of 4: the younger one gives way, keeps its tokens, and
    shares nothing any more when it resumes (no prefix cache)."""
    server = Server(num_gpu_blocks=6, prefix_caching=False, forks=True)
    _, frames = watched([ask(0, prompt=9, output=8, n=2)], server)
    events = frames["events"]
    assert events[events["event"] == Event.PREEMPT]["branch"].tolist() == [1]
    assert events[events["event"] == Event.RESUME]["tokens"].tolist() == [0]
    assert frames["requests"]["preemptions"].tolist() == [1]
    assert frames["chunks"]["branch"].tolist() == [0, 1]
    last = events[events["event"] == Event.FINISH].iloc[-1]
    assert last["branch"] == 1
    ends = frames["step_ends"].set_index("step")["end_ns"]
    assert frames["requests"]["finish_ns"].tolist() == [ends[last["step"]]]


@pytest.mark.parametrize(
    ("forks", "more", "reason"),
    [
        (True, {"n": 5}, "5 answers at once exceed max_num_seqs 4"),
        (True, {"beam": 5}, "5 answers at once exceed max_num_seqs 4"),
        (False, {"beam": 2}, "beam search needs engine.parallel_sampling fork"),
    ],
)
def test_refusals(forks: bool, more: dict[str, int], reason: str) -> None:
    limits = Limits(max_num_seqs=4, max_num_batched_tokens=64)
    frames, context = serve([ask(0, **more), ask(1)], Server(forks=forks, limits=limits))
    check(frames, context)
    assert frames["refused"]["reason"].tolist() == [reason]
    assert frames["requests"]["request"].tolist() == [1]


# --- time


def test_copies_take_time() -> None:
    """Three copies in the step after the fork, 700 ns each."""
    ends = []
    for copy_ns in (0, 700):
        latency = Linear(
            base_ns=1000, per_token_ns=10, per_context_token_ns=1, per_copied_block_ns=copy_ns
        )
        server = Server(forks=True, latency=latency)
        _, frames = watched([ask(0, prompt=10, output=3, n=4)], server)
        ends.append(frames["step_ends"]["end_ns"].to_numpy())
    assert (ends[1] - ends[0]).tolist() == [0, 2100, 2100]


# --- n requests instead


def expand(request: Request, streams: Rows[int]) -> list[Request]:
    if request.n == 1:
        return [request]
    return [
        replace(
            request,
            id=f"{branch}_{request.id}",
            n=1,
            output_stream=streams[branch - 1] if branch else request.output_stream,
        )
        for branch in range(request.n)
    ]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_as_requests_it_is_n_requests(seed: int) -> None:
    """The same steps, memory and events as a trace that has the n requests; the row of the
    request is made of theirs."""
    world = replace(several_answers(random.Random(seed), forks=False), replicas=1)
    streams = iter(range(10**6, 2 * 10**6))
    apart = [
        each
        for request in world.requests
        for each in expand(request, [next(streams) for _ in range(request.n)])
    ]
    together, context = serve(world.requests, Server.of(world))
    check(together, context)
    separate, _ = serve(apart, Server.of(world))
    for table in ("steps", "memory", "step_ends"):
        pd.testing.assert_frame_equal(together[table], separate[table])
    of_answer = separate["requests"].copy()
    of_answer["whose"] = np.repeat(
        [request.id for request in world.requests], [request.n for request in world.requests]
    )[of_answer["request"]]
    by_id = together["requests"].set_index("id")
    for whose, rows in of_answer.groupby("whose"):
        row = by_id.loc[str(whose)]
        first = rows.sort_values(["first_token_ns", "request"]).iloc[0]
        for column in ("first_token_ns", "admit_ns", "hit_tokens", "own_ns", "queue_seats_ns"):
            assert row[column] == first[column]
        assert row["finish_ns"] == rows["finish_ns"].max()
        assert row["output_tokens"] == rows["output_tokens"].sum()
        assert row["preemptions"] == rows["preemptions"].sum()


def test_as_requests_the_fast_loop_agrees() -> None:
    for seed in range(30):
        world = several_answers(random.Random(seed), forks=False, priority=False)
        plain = serve_world(world, check_every=50).content()
        fast = serve_world(world, fast=True, check_every=7).content()
        assert [name for name in plain if plain[name] != fast[name]] == [], f"world {seed}"


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_forking_answers_the_same_in_less_memory(prefix_caching: bool) -> None:
    requests = [ask(i, at_ns=500 * i, prompt=70 + i, output=20, n=3) for i in range(8)]
    peak, computed = [], []
    for forks in (True, False):
        server = Server(limits=ROOMY, forks=forks, prefix_caching=prefix_caching)
        _, frames = watched(requests, server)
        assert frames["requests"]["output_tokens"].tolist() == [60] * 8
        assert frames["requests"]["branches"].tolist() == [3] * 8
        peak.append(frames["memory"]["used_last_slots"].max())
        computed.append(frames["chunks"]["tokens"].sum())
    assert peak[0] < peak[1] or (prefix_caching and peak[0] <= peak[1])
    assert computed[0] == sum(request.prompt_tokens for request in requests) < computed[1]


def test_branches_have_content_of_their_own() -> None:
    """A later request finds the first answer in the cache, and no other."""
    first = ask(0, prompt=8, output=9, n=2)
    quote = Request("later", 10**6, (*first.prompt, (first.output_stream, 0, 9)), 1, 77)
    made_up = Request("other", 2 * 10**6, (*first.prompt, (first.output_stream + 99, 0, 9)), 1, 78)
    _, frames = watched([first, quote, made_up], Server(forks=True))
    assert frames["requests"]["hit_tokens"].tolist() == [0, 16, 8]


def test_a_prefix_cache_shares_no_partial_block() -> None:
    """As requests, the last block of a prompt is computed by each; forks copy it instead."""
    request = ask(0, prompt=10, output=2, n=4)
    (_, apart), (memory, together) = (
        watched([request], Server(forks=forks)) for forks in (False, True)
    )
    assert apart["chunks"]["tokens"].tolist() == [10, 2, 2, 2]
    assert together["chunks"]["tokens"].tolist() == [10]
    assert len(memory.copies) == 3
    assert Counter(copy.sequence.id for copy in memory.copies).most_common(1)[0][1] == 1
