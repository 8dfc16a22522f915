"""A snapshot of memory against a naive look at the tables, at any moment of any small world."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.blocks_colours import OWNERS, Palette
from experiments.blocks_grid import lay_out
from experiments.blocks_snapshot import Cell, Holder, Snapshot, State
from experiments.blocks_watch import Census, Seen, Watch
from sim.kv.books import list_names
from sim.observer import Observer
from sim.scheduling.face import Scheduler
from tests.worlds import SmallWorld, serve, small_world


@dataclass
class View:
    """What a step looks like to someone who asks every sequence for every block."""

    step: int
    start_ns: int
    end_ns: int
    tables: dict[int, tuple[list[int], int]]
    """By request: its block table, and its computed tokens."""
    keyed: set[int]


@dataclass
class Ledger(Observer):
    """An observer that writes everything down."""

    scheduler: Any
    views: list[View] = field(default_factory=list)
    stays: dict[int, tuple[int, float]] = field(default_factory=dict)
    """When each request came and left."""

    def arrived(self, sequence: Any, request: Any, answer_tokens: int, now_ns: int) -> None:
        self.stays[sequence.index] = (now_ns, float("inf"))

    def ran(self, plan: Any, start_ns: int, ends_ns: list[int], takes: object) -> None:
        scheduler = self.scheduler
        tables = {seq.index: (list(seq.blocks), seq.computed) for seq in scheduler.running}
        keyed = set(list_names(scheduler.kv.pool.cached))
        self.views.append(View(plan.step, start_ns, ends_ns[0], tables, keyed))

    def ended(self, departures: list[Any], now_ns: int) -> None:
        for departure in departures:
            index = departure.sequence.index
            self.stays[index] = (self.stays[index][0], now_ns)


def watch(world: SmallWorld, **when: Any) -> list[Snapshot]:
    seen: list[Snapshot] = []
    watches = []

    def make(scheduler: Scheduler) -> Watch:
        watches.append(Watch(scheduler, seen.append, **when))
        return watches[-1]

    with suppress(Seen):
        serve(world, watch=make)
        watches[0].close()
    return seen


def write_down(world: SmallWorld) -> Ledger:
    ledgers = []

    def make(scheduler: Scheduler) -> Ledger:
        ledgers.append(Ledger(scheduler))
        return ledgers[-1]

    serve(world, watch=make)
    return ledgers[0]


def count(world: SmallWorld, request: str | None) -> Census:
    counts = []

    def make(scheduler: Scheduler) -> Census:
        counts.append(Census(scheduler, request=request))
        return counts[-1]

    serve(world, watch=make)
    return counts[0]


def single(seed: int) -> SmallWorld:
    return replace(small_world(random.Random(seed)), replicas=1)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32))
def test_a_snapshot_is_what_the_tables_say(seed: int) -> None:
    world = single(seed)
    ledger = write_down(world)
    rng = random.Random(seed)
    edges = [ns for view in ledger.views for ns in (view.start_ns, view.end_ns, view.end_ns - 1)]
    last_ns = max(edges, default=0)
    times = sorted(
        ns
        for ns in {0, last_ns + 7, *rng.sample(edges, min(20, len(edges))), rng.randint(0, last_ns)}
        if ns >= 0
    )
    seen = watch(world, times=times)
    assert [snapshot.at_ns for snapshot in seen] == times
    for snapshot in seen:
        check_balance(snapshot, world)
        view = next(
            (v for v in ledger.views if v.start_ns <= snapshot.at_ns < v.end_ns),
            View(-1, 0, 0, {}, snapshot_keys(snapshot)),
        )
        assert snapshot.step == (None if view.step < 0 else view.step)
        assert_same(snapshot, view, world.block_size)
        here = {i for i, (came, left) in ledger.stays.items() if came <= snapshot.at_ns < left}
        assert snapshot.waiting == len(here - view.tables.keys())


def snapshot_keys(snapshot: Snapshot) -> set[int]:
    return {at for at, cell in enumerate(snapshot.cells) if cell.keyed}


def assert_same(snapshot: Snapshot, view: View, size: int) -> None:
    assert {h.index: (list(h.cells), h.computed) for h in snapshot.holders} == view.tables
    assert snapshot_keys(snapshot) == view.keyed
    for block, cell in enumerate(snapshot.cells):
        holders = {index for index, (table, _) in view.tables.items() if block in table}
        assert set(cell.holders) == holders
        assert len(cell.holders) == len(holders)
        tokens = [
            max(0, min(size, view.tables[index][1] - view.tables[index][0].index(block) * size))
            for index in holders
        ]
        if block == 0:
            assert cell.state is State.NULL
        elif holders:
            assert cell.state is (State.SHARED if len(holders) > 1 else State.HELD)
            assert cell.filled == max(tokens)
        else:
            assert cell.state is (State.IDLE if block in view.keyed else State.FREE)


def check_balance(snapshot: Snapshot, world: SmallWorld) -> None:
    """Cells add up to the pool, and to the memory identity."""
    counts, memory, size = snapshot.count(), snapshot.memory, world.block_size
    assert sum(counts.values()) == len(snapshot.cells) == world.num_blocks
    assert snapshot.slots == world.num_blocks * size == sum(memory[:-1])
    held = [cell for cell in snapshot.cells if cell.holders]
    assert len(held) == snapshot.held
    assert memory.used == sum(cell.filled for cell in held)
    assert memory.used + memory.reserved + memory.internal == snapshot.held * size
    assert memory.savings == sum(
        sum(tokens for *_, tokens in snapshot.table(holder)) for holder in snapshot.holders
    ) - sum(cell.filled for cell in held)
    assert (memory.idle, memory.free, memory.null) == (
        counts[State.IDLE] * size,
        counts[State.FREE] * size,
        size,
    )


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32))
def test_a_step_by_its_number_and_the_fullest_of_them(seed: int) -> None:
    world = single(seed)
    ledger = write_down(world)
    if not ledger.views:
        assert watch(world, step=0) == []
        return
    view = random.Random(seed).choice(ledger.views)
    (snapshot,) = watch(world, step=view.step)
    assert (snapshot.step, snapshot.at_ns) == (view.step, view.start_ns)
    assert_same(snapshot, view, world.block_size)
    held = [len({b for table, _ in v.tables.values() for b in table}) for v in ledger.views]
    of_one = [len(v.tables.get(1, ([], 0))[0]) for v in ledger.views]
    for request, blocks in ((None, held), (world.requests[1].id, of_one)):
        counted = count(world, request)
        expected = blocks.index(max(blocks)) if max(blocks) else None
        assert counted.fullest == expected
        assert counted.end_ns == ledger.views[-1].end_ns


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=300),
    st.sampled_from([0.5, 1.6, 6.0]),
    st.integers(1, 400),
)
def test_a_grid_shows_everything_once(kinds: list[int], aspect: float, most: int) -> None:
    cells = [Cell(State.FREE, 4) if k == 0 else Cell(State.HELD, 4, 4, True, (k,)) for k in kinds]
    grid = lay_out(cells, aspect=aspect, most=most)
    assert len(grid.cells) == -(-len(cells) // grid.per_cell) <= most
    assert (grid.rows - 1) * grid.columns < len(grid.cells) <= grid.rows * grid.columns
    for at, shown in enumerate(grid.cells):
        group = [cell for place, cell in enumerate(cells) if grid.place(place) == at]
        assert group.count(shown) == max(map(group.count, group))
    starts = grid.row_starts(5)
    assert 1 <= len(starts) <= 5
    assert starts[0] == 0
    assert all(grid.place(first) == row * grid.columns for row, first in starts.items())


def test_a_grid_looks_like_what_it_was_asked_for() -> None:
    for size, columns, rows in ((15, 5, 3), (1_200, 40, 30), (60_000, 320, 188)):
        grid = lay_out([Cell(State.FREE, 16)] * size, aspect=1.6, most=1 << 16)
        assert (grid.columns, grid.rows, grid.per_cell) == (columns, rows, 1)
    assert lay_out([Cell(State.FREE, 16)] * 200_000, aspect=1.6, most=1 << 16).per_cell == 4


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), unique_by=lambda pair: pair[0]),
        max_size=12,
    )
)
def test_a_sequence_keeps_its_colour(moments: list[list[tuple[int, int]]]) -> None:
    palette, before = Palette(), dict[int, int]()
    for moment in moments:
        holders = [Holder(index, "", 1, 1, tuple(range(blocks))) for index, blocks in moment]
        colours = palette.assign(holders)
        running = {index for index, _ in moment}
        assert colours.keys() <= running
        assert len(colours) == min(len(running), len(OWNERS))
        assert len(set(colours.values())) == len(colours)
        assert set(colours.values()) <= set(range(len(OWNERS)))
        kept = before.items() & colours.items()
        assert len(kept) == len(before.keys() & running)
        newest = [blocks for index, blocks in moment if index not in before]
        coloured = [b for index, b in moment if index in colours and index not in before]
        assert sorted(newest, reverse=True)[: len(coloured)] == sorted(coloured, reverse=True)
        before = colours


@pytest.mark.parametrize("index", [3, 13])
def test_a_lone_request_has_the_colour_of_its_number(index: int) -> None:
    assert Palette().assign([Holder(index, "", 1, 1, (1,))]) == {index: 3}
