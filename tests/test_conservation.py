"""What holds between the tables of a run, and that a wrong cell anywhere is noticed."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.context import Context
from experiments.metrics import check
from sim.record.rows import Event
from sim.scheduling.vllm import Limits
from tests.served import Frames, Server, ask, serve
from tests.worlds import small_world


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_it_holds_in_small_worlds(seed: int) -> None:
    world = small_world(random.Random(seed))
    check(*serve(world.requests, Server.of(world)))


@pytest.fixture(scope="module")
def eventful() -> tuple[Frames, Context]:
    """Chunked prefills, shared prefixes, preemptions, a refusal, two replicas."""
    tight = Limits(max_num_seqs=4, max_num_batched_tokens=7, scheduler_reserve_full_isl=False)
    server = Server(num_gpu_blocks=11, limits=tight, max_model_len=28, replicas=2)
    requests = [ask(i, at_ns=300 * i, prompt=9 + i % 5, output=14, of=i % 3) for i in range(12)]
    frames, context = serve([*requests, ask(12, at_ns=9000, prompt=40)], server)
    assert len(frames["refused"]) == 1
    assert frames["requests"]["preemptions"].sum() > 2
    assert frames["requests"]["hit_tokens"].sum() > 0
    check(frames, context)
    return frames, context


def first(frame: pd.DataFrame, column: str, value: int) -> int:
    """Index of the first row with the value, or more."""
    return int(frame.index[frame[column] >= value][0])


def change(
    table: str, column: str, by: int = 1, *, at: Callable[[pd.DataFrame], int] | int = 0
) -> Any:
    """A corruption: one cell of a table is off."""

    def corrupt(frames: Frames, _context: Context) -> None:
        frame = frames[table]
        frame.loc[at(frame) if callable(at) else at, column] += by

    return corrupt


def drop(table: str, at: int) -> Any:
    """A corruption: one row of a table is missing."""

    def corrupt(frames: Frames, _context: Context) -> None:
        frame = frames[table]
        frames[table] = frame.drop(frame.index[at]).reset_index(drop=True)

    return corrupt


def lose_a_request(_frames: Frames, context: Context) -> None:
    context["arrived"] += 1


def answer_twice(frames: Frames, _context: Context) -> None:
    frames["requests"].loc[0, "request"] = frames["requests"].loc[1, "request"]


def leak_slots(_frames: Frames, context: Context) -> None:
    context["slot_ns"][1][0] += 1


def preempted(frame: pd.DataFrame) -> int:
    return int(frame.index[frame["event"] == Event.PREEMPT][0])


def long_row(frame: pd.DataFrame) -> int:
    return first(frame, "steps", 2)


CORRUPTIONS = {
    "a request is lost": (lose_a_request, "arrived"),
    "a refusal is lost": (drop("refused", 0), "arrived"),
    "a request is answered twice": (answer_twice, "finished twice"),
    "a part is off": (change("requests", "own_ns"), "do not sum to ttft_ns"),
    "a part is off, and made up for": (
        lambda frames, context: [
            change("requests", "queue_seats_ns", -1)(frames, context),
            change("requests", "own_ns", 1)(frames, context),
        ],
        "queue parts",
    ),
    "a search took time, and none was made": (
        lambda frames, context: [
            change("requests", "search_ns", 1)(frames, context),
            change("requests", "own_ns", -1)(frames, context),
        ],
        "search_ns is not",
    ),
    "admitted before it came": (change("requests", "arrival_ns", 10**6), "time runs back"),
    "finished at another time": (change("requests", "finish_ns"), "finish_ns is not"),
    "an answer is longer": (change("requests", "output_tokens"), "lost or computed too often"),
    "a chunk is longer": (change("chunks", "tokens"), "lost or computed too often"),
    "a chunk is missing": (drop("chunks", 3), "lost or computed too often"),
    "a hit is larger": (change("events", "tokens", 4), "lost or computed too often"),
    "a victim held less": (
        change("events", "tokens", -1, at=preempted),
        "lost or computed too often",
    ),
    "a preemption is missing": (
        lambda frames, context: drop("events", preempted(frames["events"]))(frames, context),
        "preempted disagrees",
    ),
    "a segment is longer": (change("segments", "tokens"), "lost or computed too often"),
    "a segment is elsewhere": (change("segments", "first_step"), "first_token_ns is not"),
    "preemptions miscounted": (change("requests", "preemptions"), "preemptions and resumptions"),
    "a step decodes more": (change("steps", "decodes"), "decode other sequences"),
    "a step has a chunk more": (change("steps", "chunks"), "disagrees with the chunks"),
    "a step computes more": (change("steps", "chunk_tokens"), "disagrees with the chunks"),
    "a step admits more": (change("steps", "admitted"), "disagrees with the events"),
    "a step ends more": (change("steps", "finished"), "disagrees with the events"),
    "a row counts a step more": (change("steps", "steps", at=long_row), "missing or overlap"),
    "a row of steps is missing": (drop("steps", 4), "missing or overlap"),
    "the last row is missing": (drop("steps", -1), "different numbers of steps"),
    "a row starts too early": (change("steps", "start_ns", -1, at=3), "overlap in time"),
    "a row ends backwards": (change("steps", "end_ns", -(10**9), at=3), "end before they start"),
    "a row ends late": (change("steps", "end_ns", at=lambda f: len(f) - 1), "its last step"),
    "a step's end is missing": (drop("step_ends", 5), "different numbers of steps"),
    "a step's end has another number": (change("step_ends", "step", 99, at=5), "misses a step"),
    "a step ends before the last": (change("step_ends", "end_ns", -(10**9), at=5), "runs back"),
    "slots appear": (change("memory", "used_first_slots"), "add up to the pool"),
    "slots vanish": (change("memory", "free_last_slots", -1), "add up to the pool"),
    "memory has another row": (change("memory", "first_step"), "different rows"),
    "slots over time do not add up": (leak_slots, "slot_ns"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_noticed(name: str, eventful: tuple[Frames, Context]) -> None:
    corrupt, message = CORRUPTIONS[name]
    frames, context = deepcopy(eventful)
    corrupt(frames, context)
    with pytest.raises(AssertionError, match=message):
        check(frames, context)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        (table, column)
        for table, columns in {
            "requests": ("arrival_ns", "admit_ns", "first_token_ns", "finish_ns", "prompt_tokens",
                         "output_tokens", "preemptions", "ttft_ns", "interference_ns"),
            "steps": ("first_step", "steps", "end_ns", "decodes", "chunks", "chunk_tokens",
                      "admitted", "preempted", "finished"),
            "chunks": ("step", "request", "tokens"),
            "segments": ("request", "first_step", "tokens"),
            "events": ("step", "event", "request"),
            "step_ends": ("step",),
        }.items()
        for column in columns
    ],
)  # fmt: skip
def test_no_row_may_change(table: str, column: str, eventful: tuple[Frames, Context]) -> None:
    """Whatever row it is in: one more in any of these columns is noticed."""
    original, context = eventful
    for at in original[table].index:
        frames = original | {table: original[table].copy()}
        if column == "tokens" and table == "events" and frames[table]["event"][at] == Event.FINISH:
            continue
        frames[table].loc[at, column] += 1
        with pytest.raises(AssertionError):
            check(frames, context)
