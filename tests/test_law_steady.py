"""The law where decisions walk the batch: contiguous caches, static batches, forks, and the
priorities of older versions. See tests/test_law.py."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

import sim.engine
import sim.fast.steady
import sim.stuck
from sim.branching import ByForking, Separately
from sim.fast.group import FOR_EVER, Group
from sim.fast.steady import Steady, SteadyStatic
from sim.kv.contiguous import Contiguous
from sim.moves import NO_TAKES
from sim.plan import Plan
from sim.scheduling.vllm import Limits
from sim.stuck import Livelocked
from tests import test_law as law
from tests.served import ask
from tests.worlds import (
    RESERVES,
    SPACES,
    SmallWorld,
    differences,
    serve,
    several_answers,
    small_world,
    tell_apart,
)

WORLDS = 240
BATCHES = 8
SHARP = (116, 225, 1035)
"""Worlds that rare rules decide: holes under a refused head, the end of forming a batch, and
publications."""
PIECES = [(reserve, space) for reserve in RESERVES for space in SPACES]


def in_pieces(rng: random.Random, *, reserve: str, space: str) -> SmallWorld:
    """A contiguous cache that just holds the longest request, or some more."""
    world = small_world(rng, priority=rng.random() < 0.3)
    slots = world.max_model_len
    if space == "buddy":
        slots = 1 << (slots - 1).bit_length()
    slots += rng.choice([0, rng.randint(0, slots), rng.randint(0, 4 * slots)])
    return replace(
        world,
        contiguous=(reserve, space),
        num_blocks=slots,
        block_size=1,
        prefix_caching=False,
        static=rng.random() < 0.3,
    )


def draw(seed: int) -> SmallWorld:
    """By turns: pieces of each kind, forks, and blocks in static batches or by old priorities."""
    rng = random.Random(seed)
    turn, number = divmod(seed, 4)[::-1]
    if turn < 2:
        reserve, space = PIECES[(2 * number + turn) % len(PIECES)]
        return in_pieces(rng, reserve=reserve, space=space)
    if turn == 2:
        return replace(several_answers(rng, forks=True), static=rng.random() < 0.2)
    if rng.random() < 0.5:
        return replace(small_world(rng), static=True)
    return replace(small_world(rng, priority=True), version="0.32")


@pytest.fixture(autouse=True)
def few_preemptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a scheduler that livelocks by mistake is soon found out."""
    monkeypatch.setattr(sim.stuck, "MOST_PREEMPTIONS", 300)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_fast_equals_plain(batch: int) -> None:
    for seed in (*SHARP, *range(WORLDS))[batch::BATCHES]:
        assert differences(draw(seed)) == [], f"world {seed}"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(WORLDS, 1 << 32))
def test_fast_equals_plain_in_drawn_worlds(seed: int) -> None:
    try:
        plain = serve(draw(seed), check_every=50).content()
    except Livelocked:
        reject()  # three worlds in a thousand, where small prompts preempt each other for ever
    assert serve(draw(seed), fast=True, check_every=7).content() == plain


@pytest.mark.parametrize(
    "suits",
    [
        lambda world: world.contiguous,
        lambda world: world.static,
        lambda world: world.forks and all(request.beam == 0 for request in world.requests),
    ],
    ids=["pieces", "static", "forks"],
)
def test_decisions_stand(suits: Callable[[SmallWorld], object]) -> None:
    """For two steps on average and more, where nobody searches."""
    engines = [
        engine
        for world in map(draw, range(100))
        if suits(world)
        for engine in serve(world, fast=True, check_every=1000).engines
    ]
    assert len(engines) > 10
    assert sum(engine.steps for engine in engines) > 2 * sum(each.decisions for each in engines)


def test_a_head_too_wide_for_the_seats_is_refused_once() -> None:
    """It closes a static batch in a step of decodes alone, which has a head to be behind of; those
    that follow are closed by seats, too, but look at nobody."""
    world = SmallWorld(
        requests=[ask(0, prompt=10, output=9), ask(1, n=3), ask(2)],
        limits=Limits(max_num_seqs=3, max_num_batched_tokens=10),
        num_blocks=50,
        block_size=4,
        max_model_len=40,
        prefix_caching=False,
        priority=False,
        version="0.33",
        latency=(100, 0, 0),
        replicas=1,
        router="round_robin",
        forks=True,
        static=True,
    )
    assert differences(world) == []
    behind_ns = serve(world).records.arrays("requests")["queue_behind_ns"]
    assert sorted(behind_ns.tolist()) == [0, 0, 100]


def test_beams_are_run_step_by_step() -> None:
    """They part at the end of each."""
    world = several_answers(random.Random(2), forks=True)
    requests = [replace(request, n=1, beam=2) for request in world.requests]
    for engine in serve(replace(world, requests=requests), fast=True).engines:
        assert engine.steps == engine.decisions > 0


# --- bugs put back

BUGS: list[law.Break] = [
    law.a_stretch_runs_on_past_a_step_that_ends_at_an_arrival,
    law.an_urgent_arrival_cuts_no_stretch,
    law.arrivals_never_cut,
    law.fillers_are_one_step_off,
    law.no_bound_by_publications,
    law.one_step_too_many_before_blocks_run_out,
]


def bug(break_it: law.Break) -> law.Break:
    BUGS.append(break_it)
    return break_it


@bug
def a_step_that_preempted_repeats(patch: pytest.MonkeyPatch) -> None:
    law.a_step_that_preempted_repeats(patch, Steady)


@bug
def prefills_repeat(patch: pytest.MonkeyPatch) -> None:
    law.prefills_repeat(patch, Steady)


@bug
def one_slot_more_than_there_is(patch: pytest.MonkeyPatch) -> None:
    original = Contiguous.above
    patch.setattr(Contiguous, "above", lambda self, sequence: original(self, sequence) + 1)


@bug
def a_hole_may_be_grown_into_under_a_refused_head(patch: pytest.MonkeyPatch) -> None:
    original = sim.fast.steady._steps_in_pieces

    def steps_in_pieces(kv: Contiguous, plan: Plan) -> int:
        refused, plan.refused = plan.refused, None
        steps = original(kv, plan)
        plan.refused = refused
        return steps

    patch.setattr(sim.fast.steady, "_steps_in_pieces", steps_in_pieces)


@bug
def slots_that_are_grown_into_go_unnoted(patch: pytest.MonkeyPatch) -> None:
    original = sim.fast.steady._grow_pieces

    def grow_pieces(*args: object) -> object:
        original(*args)  # type: ignore[arg-type]
        return NO_TAKES

    patch.setattr(sim.fast.steady, "_grow_pieces", grow_pieces)


@bug
def slots_are_noted_a_step_late(patch: pytest.MonkeyPatch) -> None:
    original = sim.fast.steady._grow_pieces

    def grow_pieces(kv: Contiguous, decodes: object, steps: int) -> object:
        takes = original(kv, decodes, steps)  # type: ignore[arg-type]
        return takes._replace(offsets=[min(offset + 1, steps) for offset in takes.offsets])

    patch.setattr(sim.fast.steady, "_grow_pieces", grow_pieces)


@bug
def one_step_too_many_before_an_answer_ends(patch: pytest.MonkeyPatch) -> None:
    original = sim.world.World.steps_left
    patch.setattr(sim.world.World, "steps_left", lambda self, plan: original(self, plan) + 1)


@bug
def beams_do_not_part(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ByForking, "may_part", Separately.may_part)


@bug
def the_step_that_closes_a_batch_repeats(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SteadyStatic, "stable_for", Steady.stable_for)


@bug
def every_refused_head_stays_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Steady, "_steps_refused", lambda *_: FOR_EVER)


@bug
def blocks_go_out_in_reverse_order(patch: pytest.MonkeyPatch) -> None:
    original = Group.takers
    patch.setattr(Group, "takers", lambda self, step: original(self, step)[::-1])


@pytest.mark.parametrize("break_it", BUGS, ids=lambda break_it: break_it.__name__)
def test_the_law_notices(break_it: law.Break, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(monkeypatch)
    assert tell_apart(map(draw, (*SHARP, *range(WORLDS)))), "no world noticed"
