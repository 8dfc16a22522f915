"""What a run leaves behind: tables of integers, defined by content.

The same run gives the same tables, however its engine got there. Metrics are queries on
them (experiments/metrics.py), so a new metric needs no new simulation. Units are in the
names: `_ns`, `_blocks`, `_slots`; everything else counts tokens, requests or steps.
"""

from __future__ import annotations

import numpy as np

from sim.record.memory import Slots
from sim.record.rows import Columns
from sim.record.ttft import PARTS
from sim.request import Request

COLUMNS: dict[str, tuple[str, ...]] = {
    # One row per answered request, in the order in which they finished: with their last answer.
    "requests": (
        "request",  # index: position in the order of arrival
        "branches",  # answers
        "replica",
        "arrival_ns",
        "admit_ns",  # start of the first step with a chunk of it
        "first_token_ns",  # the engine's, of any branch; admission and hits are that branch's
        "finish_ns",
        "prompt_tokens",
        "output_tokens",  # of all answers together
        "wanted_tokens",  # the trace's answers, before max_tokens and max_model_len
        "hit_tokens",  # of the prompt, found in the prefix cache when first admitted
        "preemptions",
        "priority",
        "beam",  # width of the search that found the answers, or 0
        "ttft_ns",  # of a search: until it ends
        *(f"{part}_ns" for part in PARTS),
        "saved_by_prefix_ns",
    ),
    # One row per longest run of consecutive steps that do the same work: no chunk, admission
    # or preemption in any, nobody finishing before the last, the same limit, and free memory
    # too scattered for the head in all of them or in none. Anything else is a row of one step.
    "steps": (
        "replica",
        "first_step",
        "steps",
        "planned_ns",  # when the first of them was decided: as it starts, but for batches in flight
        "start_ns",  # with several batches in flight, when the one before ended, if that is later
        "end_ns",
        "limit",  # sim.plan.Limit
        "running",
        "waiting",  # when the first step was decided
        "decodes",  # sequences that compute one token in each step
        "decode_context",  # tokens they attend to in the first step
        "wasted",  # of the decodes: those of answers that ended while the step was in flight
        "chunks",
        "chunk_tokens",
        "admitted",
        "hit_tokens",
        "preempted",
        "finished",  # at the end of the last step
        "copied_blocks",
        "swapped_out_blocks",  # to the host, as sequences are preempted; a row of one step, as
        "swapped_in_blocks",  # when they are back
        "swap_ns",  # what these copies cost by themselves, where that is known
        "host_blocks",  # that hold what was swapped out
        "evicted_blocks",
    ),
    # The slots of the KV pool during the first and the last step of each row of `steps`.
    "memory": (
        "replica",
        "first_step",
        *(f"{part}_{when}_slots" for when in ("first", "last") for part in Slots._fields),
    ),
    # One row per chunk: everything computed but plain decodes.
    "chunks": ("replica", "step", "request", "branch", "computed_before", "tokens", "alone_ns"),
    # One row per uninterrupted run of steps that each gave the branch one token; by branch.
    "segments": ("replica", "request", "branch", "first_step", "tokens"),
    "events": ("replica", "step", "event", "request", "branch", "tokens"),
    # The end of each step.
    "step_ends": ("replica", "step", "end_ns"),
}


class Records:
    """All tables of one run, those of its replicas together."""

    def __init__(self) -> None:
        self.slot_ns: list[list[int]] = []
        """Per replica, in the order of `Slots`: slots x ns of the time that steps ran."""
        self.refused: list[tuple[Request, str]] = []
        """Requests that were turned away, with the reason."""
        self._tables: list[dict[str, Columns]] = []
        self.names: dict[int, tuple[str, str | None, str | None]] = {}
        """The trace's id, tenant and session of each accepted request, by index."""

    def add(self, tables: dict[str, Columns], slot_ns: Slots[int]) -> None:
        """The tables of the next replica are complete."""
        self._tables.append(tables)
        self.slot_ns.append(list(slot_ns))

    def arrays(self, name: str) -> Columns:
        """A table by column, int64[rows]: the replicas' rows one after the other, but those of
        `requests` in the order of `finish_ns`."""
        parts = [tables[name] for tables in self._tables]
        columns = {
            column: np.concatenate([part[column] for part in parts]) for column in COLUMNS[name]
        }
        if name == "requests" and len(parts) > 1:
            order = np.argsort(columns["finish_ns"], kind="stable")
            columns = {column: values[order] for column, values in columns.items()}
        return columns

    def texts(self) -> dict[str, list[str | None]]:
        """What the trace calls each row of `requests`: `id`, `tenant` and `session`."""
        rows = [self.names[index] for index in self.arrays("requests")["request"].tolist()]
        return {
            name: [row[at] for row in rows] for at, name in enumerate(("id", "tenant", "session"))
        }
