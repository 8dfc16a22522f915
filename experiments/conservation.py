"""Nothing is lost: what must hold between the tables of any run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from experiments.context import Context, Frames
from experiments.kv_use import POOL_PARTS, count_pool_slots
from experiments.timeline import Ints, StepAxis, count_intervals
from sim.record.memory import Slots
from sim.record.rows import Event
from sim.record.ttft import PARTS


def check(frames: Frames, context: Context) -> None:
    """Raise AssertionError, saying what is wrong where, unless the tables agree.

    Requests: arrived = finished + rejected, times in order, parts that sum to TTFT. Steps:
    consecutive, in time, with an end each. Tokens: what chunks and decodes computed is what
    answers needed, by branch of a request and by step. Memory: slots that add up to the pool.
    """
    _check_requests(frames, context)
    _check_steps(frames)
    _check_references(frames)
    axis = StepAxis(frames["step_ends"])
    _check_moments(frames, axis)
    _check_events(frames, axis, block_size=context["deployment"]["block_size"])
    _check_tokens_of_branches(frames, axis)
    _check_tokens_of_steps(frames, axis)
    _check_memory(frames, context)


def _check_requests(frames: Frames, context: Context) -> None:
    requests = frames["requests"]
    finished, rejected, arrived = len(requests), len(frames["refused"]), context["arrived"]
    _require(
        arrived == finished + rejected,
        f"{arrived} requests arrived, but {finished} finished and {rejected} were rejected",
    )
    _require(bool(requests["request"].is_unique), "a request finished twice")
    times = ["arrival_ns", "admit_ns", "first_token_ns", "finish_ns"]
    _require_rows((np.diff(requests[times], axis=1) >= 0).all(axis=1), requests, "time runs back")
    columns = [f"{part}_ns" for part in PARTS]
    _require_rows(
        requests[columns].sum(axis=1) == requests["ttft_ns"],
        requests,
        "the parts do not sum to ttft_ns",
    )
    search_ns = requests["finish_ns"] - requests["first_token_ns"]
    _require_rows(
        requests["search_ns"] == search_ns.where(requests["beam"] > 0, 0),
        requests,
        "search_ns is not the time from a search's first token to its end",
    )
    queue = [column for column in columns if column.startswith("queue_")]
    _require_rows(
        requests[queue].sum(axis=1) == requests["admit_ns"] - requests["arrival_ns"],
        requests,
        "the queue parts do not sum to the time before admission",
    )


def _check_steps(frames: Frames) -> None:
    """Row follows row without a gap in numbers or a step back in time."""
    steps, ends = frames["steps"], frames["step_ends"]
    rows = steps.sort_values(["replica", "first_step"], kind="stable")
    _require_rows(rows["steps"] >= 1, rows, "a row without a step")
    _require_rows(rows["start_ns"] <= rows["end_ns"], rows, "steps end before they start")
    before = rows.groupby("replica")
    expected = before["first_step"].shift() + before["steps"].shift()
    _require_rows(rows["first_step"] == expected.fillna(0), rows, "steps are missing or overlap")
    earlier = before["end_ns"].shift()
    _require_rows(~(rows["start_ns"] < earlier), rows, "steps overlap in time")
    _require(
        rows.groupby("replica")["steps"].sum().equals(ends.groupby("replica")["step"].size()),
        "steps and step_ends count different numbers of steps",
    )
    ordered = ends.sort_values(["replica", "step"], kind="stable")
    number = ordered.groupby("replica").cumcount()
    _require_rows(ordered["step"] == number, ordered, "step_ends misses a step or has one twice")
    previous = ordered.groupby("replica")["end_ns"].shift()
    _require_rows(~(ordered["end_ns"] < previous), ordered, "time runs back")


def _check_references(frames: Frames) -> None:
    """Whatever happened belongs to a step that ran."""
    steps_of = frames["step_ends"].groupby("replica")["step"].size()
    for name, step, length in (
        ("chunks", "step", None),
        ("events", "step", None),
        ("segments", "first_step", "tokens"),
    ):
        rows = frames[name]
        last = rows[step] if length is None else rows[step] + rows[length] - 1
        ran = (rows[step] >= 0) & (last < rows["replica"].map(steps_of))
        _require_rows(ran, rows, f"{name} in a step that did not run")


def _check_moments(frames: Frames, axis: StepAxis) -> None:
    """Rows and requests begin and end when steps do."""
    steps, requests = frames["steps"], frames["requests"]
    last = axis.position(steps["replica"], steps["first_step"] + steps["steps"] - 1)
    _require_rows(
        steps["end_ns"] == axis.end_ns[last], steps, "the row does not end with its last step"
    )
    events, start_ns = frames["events"], axis.start_ns(steps)
    of_request = requests.set_index("request")

    def check_moments(happened: pd.DataFrame, step: str, moments: Ints, column: str) -> None:
        said = of_request[column].reindex(happened["request"]).to_numpy()
        at = moments[axis.position(happened["replica"], happened[step])]
        _require_rows(at == said, happened, f"{column} is not that of the step")

    # The branch that is first to have a token gives the request its moments.
    by_token = frames["segments"].sort_values(["first_step", "branch"])
    firsts = by_token.drop_duplicates("request")
    check_moments(firsts, "first_step", axis.end_ns, "first_token_ns")
    admitted = events[events["event"] == Event.ADMIT]
    admitted = admitted.merge(firsts[["request", "branch"]], on=["request", "branch"])
    of_row = _find_rows(axis, steps, admitted)
    admit_ns = of_request["admit_ns"].reindex(admitted["request"]).to_numpy()
    decided_ns = steps["planned_ns"].to_numpy()[of_row]
    # With pipeline stages a step begins before the one before it ends.
    begun = (decided_ns <= admit_ns) & (
        admit_ns <= start_ns[axis.position(admitted["replica"], admitted["step"])]
    )
    _require_rows(begun, admitted, "admit_ns is not that of the step")
    finished = events[events["event"] == Event.FINISH].sort_values("step", kind="stable")
    lasts = finished.drop_duplicates("request", keep="last")
    check_moments(lasts, "step", axis.end_ns, "finish_ns")
    shown_ns = requests["first_token_ns"] + requests["search_ns"]
    front_end_ns = requests["ttft_ns"] - (shown_ns - requests["arrival_ns"])
    _require(front_end_ns.nunique() <= 1, "ttft_ns is not first token - arrival + a constant")


def _check_events(frames: Frames, axis: StepAxis, *, block_size: int) -> None:
    """Rows of `steps` count the events that belong to them."""
    steps, events, requests = frames["steps"], frames["events"], frames["requests"]
    row = _find_rows(axis, steps, events)
    event, once_each = events["event"], pd.Series(1, index=events.index)
    blocks = -(-events["tokens"] // block_size)
    for column, kinds, weight in (
        ("admitted", (Event.ADMIT, Event.RESUME), once_each),
        ("preempted", (Event.PREEMPT,), once_each),
        ("finished", (Event.FINISH, Event.PRUNE), once_each),
        ("swapped_out_blocks", (Event.SWAP_OUT,), blocks),
        ("swapped_in_blocks", (Event.SWAP_IN,), blocks),
    ):
        of_kind = event.isin(kinds)
        counted = np.bincount(row[of_kind], weights=weight[of_kind], minlength=len(steps))
        _require_rows(steps[column] == counted, steps, f"{column} disagrees with the events")
    of_branch = events.groupby([*_BRANCH, "event"]).size().unstack(fill_value=0)
    of_branch = of_branch.reindex(columns=list(Event), fill_value=0)
    began = of_branch[Event.ADMIT] + of_branch[Event.FORK]
    once = (began == 1) & (of_branch[Event.FINISH] + of_branch[Event.PRUNE] == 1)
    _require_rows(once, of_branch.reset_index(), "not admitted and finished exactly once")
    kept = of_branch[Event.SWAP_OUT].between(of_branch[Event.SWAP_IN], of_branch[Event.PREEMPT])
    _require_rows(kept, of_branch.reset_index(), "more swapped in than out, or than preempted")
    of_request = of_branch.groupby("request").sum()
    _require(
        bool(of_request.index.isin(requests["request"]).all()),
        "events of a request that never finished",
    )
    of_request = of_request.reindex(requests["request"], fill_value=0)
    answers = of_request[Event.FINISH].to_numpy()
    _require_rows(answers == requests["branches"], requests, "branches disagree with the events")
    preempted = requests["preemptions"].to_numpy()
    for_good = _preempted_for_good(events).groupby("request").sum()
    never_back = for_good.reindex(requests["request"], fill_value=0).to_numpy()
    gave_way = of_request[Event.PREEMPT] == preempted
    back = of_request[Event.RESUME] == preempted - never_back
    _require_rows(gave_way & back, requests, "preemptions and resumptions disagree")


def _preempted_for_good(events: pd.DataFrame) -> pd.Series[Any]:
    """Of each branch that was preempted: whether its last token was under way then."""
    step = events.set_index(_BRANCH)["step"]
    event = events.set_index(_BRANCH)["event"]
    preempted = step[event == Event.PREEMPT].groupby(_BRANCH).max()
    finished = step[event == Event.FINISH]
    never_back: pd.Series[Any] = preempted > finished.reindex(preempted.index)
    return never_back


def _check_tokens_of_branches(frames: Frames, axis: StepAxis) -> None:
    """Computed + found in the cache, swapped in or shared at birth - given up = what it holds in
    the end, which is prompt + answer - 1 unless it is pruned, or preempted for good; and it gave a
    token for each from its first one on."""
    requests, events, segments = frames["requests"], frames["events"], frames["segments"]
    decodes = segments["tokens"] - _begins_with_no_decode(frames, axis)
    tokens = {event: events["tokens"].where(events["event"] == event, 0) for event in Event}
    found = tokens[Event.ADMIT] + tokens[Event.RESUME] + tokens[Event.FORK]
    found += tokens[Event.SWAP_IN]
    held = _sum_by_branch(
        (frames["chunks"], frames["chunks"]["tokens"]),
        (segments, decodes),
        (events, found - tokens[Event.PREEMPT]),
    )
    names = held.index.to_frame(index=False)
    wanted = requests.set_index("request").reindex(names["request"])
    prompt = wanted["prompt_tokens"].to_numpy()
    answer = (wanted["output_tokens"] / wanted["branches"]).to_numpy()
    happened = {
        event: _sum_by_branch((events, tokens[event])).reindex(held.index, fill_value=0).to_numpy()
        for event in (Event.FORK, Event.PRUNE)
    }
    # The last token of an answer is never computed.
    end = np.where(happened[Event.PRUNE] > 0, happened[Event.PRUNE], prompt + answer - 1)
    for_good = _preempted_for_good(events).reindex(held.index, fill_value=False)
    _require_rows(
        held == np.where(for_good, 0, end), names, "tokens were lost or computed too often"
    )
    start = np.where(happened[Event.FORK] > 0, happened[Event.FORK], prompt)
    given = _sum_by_branch((segments, segments["tokens"])).reindex(held.index, fill_value=0)
    _require_rows(given == end + 1 - start, names, "segments do not make up the answer")


def _check_tokens_of_steps(frames: Frames, axis: StepAxis) -> None:
    """Each step's decodes and chunks are those of `segments` and `chunks`."""
    steps, chunks, segments = frames["steps"], frames["chunks"], frames["segments"]
    row = _find_rows(axis, steps, chunks)
    for column, weights in (("chunks", None), ("chunk_tokens", chunks["tokens"])):
        counted = np.bincount(row, weights=weights, minlength=len(steps))
        _require_rows(steps[column] == counted, steps, f"{column} disagrees with the chunks")
    first = axis.position(segments["replica"], segments["first_step"])
    last = first + segments["tokens"].to_numpy()
    from_step = first + _begins_with_no_decode(frames, axis)
    decoding = count_intervals(from_step, last, length=len(axis))
    begins = axis.position(steps["replica"], steps["first_step"])
    order = np.argsort(begins)
    useful = (steps["decodes"] - steps["wasted"]).to_numpy()
    said = np.repeat(useful[order], steps["steps"].to_numpy()[order])
    wrong = np.flatnonzero(said != decoding)
    _require(
        not len(wrong),
        f"{len(wrong)} steps decode other sequences than the segments say,"
        f" first at position {wrong[:1]}",
    )


def _check_memory(frames: Frames, context: Context) -> None:
    memory, steps = frames["memory"], frames["steps"]
    pool = count_pool_slots(context["deployment"])
    for when in ("first", "last"):
        columns = [f"{part}_{when}_slots" for part in Slots._fields]
        _require_rows(
            memory[columns[:-1]].sum(axis=1) == pool,
            memory,
            f"the slots of the {when} step do not add up to the pool of {pool}",
        )
        _require_rows((memory[columns] >= 0).all(axis=1), memory, "negative slots")
    host = steps["host_blocks"].between(0, context["deployment"].get("num_cpu_blocks") or 0)
    _require_rows(host, steps, "host memory holds more blocks than it has")
    keys = ["replica", "first_step"]
    _require(memory[keys].equals(steps[keys]), "memory and steps have different rows")
    busy_ns = (steps["end_ns"] - steps["start_ns"]).groupby(steps["replica"]).sum()
    for replica, slot_ns in enumerate(context["slot_ns"]):
        _require(
            sum(slot_ns[: len(POOL_PARTS)]) == pool * int(busy_ns.get(replica, 0)),
            f"replica {replica}: slot_ns do not add up to pool x busy time",
        )


def _begins_with_no_decode(frames: Frames, axis: StepAxis) -> Ints:
    """1 for each segment whose first token came of a chunk, its own or its parent's; 0 where it
    is a decode's."""
    segments, chunks, events = frames["segments"], frames["chunks"], frames["events"]
    forks = events[events["event"] == Event.FORK]

    def moments(rows: pd.DataFrame, step: str) -> pd.MultiIndex:
        at = axis.position(rows["replica"], rows[step])
        return pd.MultiIndex.from_arrays([rows["request"], rows["branch"], at])

    begun = moments(chunks, "step").append(moments(forks, "step"))
    return moments(segments, "first_step").isin(begun).astype(np.int64)


def _find_rows(axis: StepAxis, steps: pd.DataFrame, happened: pd.DataFrame) -> Ints:
    """The row of `steps` in which each of these events or chunks happened."""
    begins = axis.position(steps["replica"], steps["first_step"])
    order = np.argsort(begins)
    at = axis.position(happened["replica"], happened["step"])
    return order[np.searchsorted(begins[order], at, side="right") - 1]


def _sum_by_branch(*parts: tuple[pd.DataFrame, pd.Series[Any]]) -> pd.Series[Any]:
    """Sums of the tokens that go with the rows of these tables, by request and branch."""
    whose = pd.concat([rows[_BRANCH] for rows, _ in parts])
    tokens = pd.concat([tokens for _, tokens in parts]).to_numpy()
    summed: pd.Series[Any] = whose.assign(tokens=tokens).groupby(_BRANCH)["tokens"].sum()
    return summed


def _require_rows(holds: Any, rows: pd.DataFrame, message: str) -> None:
    """All must hold; quotes the first row for which it does not."""
    wrong = rows[~np.asarray(holds, dtype=bool)]
    if len(wrong):
        first = {name: value for name, value in wrong.iloc[0].items() if name in _NAMING}
        raise AssertionError(f"{message}: {len(wrong)} rows, the first with {first}")


_BRANCH = ["request", "branch"]
_NAMING = ("id", "request", "branch", "replica", "step", "first_step")
"""Columns that say which row is meant."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
