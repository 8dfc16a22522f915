"""What a run leaves behind: tables of integers, defined by content.

The same run gives the same tables, however its engine got there. Metrics are queries on
them (experiments/metrics.py), so a new metric needs no new simulation. Units are in the
names: `_ns`, `_blocks`, `_slots`; everything else counts tokens, requests or steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from sim.memory import Levels, Slots, slots_of
from sim.request import Request
from sim.ttft import PARTS


class Event(IntEnum):
    """What `events` rows tell of a request; `tokens` means something else in each."""

    ADMIT = 0
    """tokens: found in the prefix cache."""
    RESUME = 1
    """Admitted again after a preemption; tokens: found in the prefix cache."""
    PREEMPT = 2
    """tokens: computed ones that were given up."""
    FINISH = 3
    """tokens: of the answer."""


COLUMNS: dict[str, tuple[str, ...]] = {
    # One row per answered request, in the order in which they finished.
    "requests": (
        "request",  # index: position in the order of arrival
        "replica",
        "arrival_ns",
        "admit_ns",  # start of the first step with a chunk of it
        "first_token_ns",
        "finish_ns",
        "prompt_tokens",
        "output_tokens",
        "wanted_tokens",  # the trace's answer, before max_tokens and max_model_len
        "hit_tokens",  # of the prompt, found in the prefix cache when first admitted
        "preemptions",
        "priority",
        "ttft_ns",
        *(f"{part}_ns" for part in PARTS),
        "saved_by_prefix_ns",
    ),
    # One row per longest run of consecutive steps that do the same work: no chunk, admission
    # or preemption in any, nobody finishing before the last, the same limit. Anything else
    # is a row of one step.
    "steps": (
        "replica",
        "first_step",
        "steps",
        "start_ns",
        "end_ns",
        "limit",  # sim.plan.Limit
        "running",
        "waiting",  # when the first step was decided
        "decodes",  # sequences that compute one token in each step
        "decode_context",  # tokens they attend to in the first step
        "chunks",
        "chunk_tokens",
        "admitted",
        "hit_tokens",
        "preempted",
        "finished",  # at the end of the last step
        "copied_blocks",
        "evicted_blocks",
    ),
    # The slots of the KV pool during the first and the last step of each row of `steps`.
    "memory": (
        "replica",
        "first_step",
        *(f"{part}_{when}_slots" for when in ("first", "last") for part in Slots._fields),
    ),
    # One row per chunk: everything computed but plain decodes.
    "chunks": ("replica", "step", "request", "computed_before", "tokens", "alone_ns"),
    # One row per uninterrupted run of steps that each gave the request one token.
    "segments": ("replica", "request", "first_step", "tokens"),
    "events": ("replica", "step", "event", "request", "tokens"),
    # The end of each step.
    "step_ends": ("replica", "step", "end_ns"),
}


STEP_ROW = (
    "replica",
    "first_step",
    "start_ns",
    "limit",
    "running",
    "waiting",
    "decodes",
    "decode_context",
    "chunks",
    "chunk_tokens",
    "admitted",
    "hit_tokens",
    "preempted",
    "copied_blocks",
    "steps",
    "end_ns",
    "finished",
    "evicted_blocks",
    *(f"{level}_{when}" for when in ("first", "last") for level in Levels._fields),
)
"""What is kept of a row of `steps`, known first things first; `memory` is made of its end."""


class Table:
    """Rows of integers, appended one by one, read by column."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self._flat = array("q")
        self.append: Callable[[Iterable[int]], None] = self._flat.extend

    def __len__(self) -> int:
        return len(self._flat) // len(self.columns)

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """Column by column, int64[rows]."""
        rows = np.array(self._flat, dtype=np.int64).reshape(-1, len(self.columns))
        return {name: rows[:, i].copy() for i, name in enumerate(self.columns)}


class Records:
    """All tables of one run; its replicas write into the same ones."""

    def __init__(self) -> None:
        self.tables = {
            name: Table(columns)
            for name, columns in COLUMNS.items()
            if name not in ("memory", "step_ends")
        }
        self.tables["steps"] = Table(STEP_ROW)
        self.step_ends: list[array[int]] = []
        """Per replica: the end of each of its steps, ns."""
        self.slot_ns: list[list[int]] = []
        """Per replica, in the order of `Slots`: slots x ns of the time that steps ran."""
        self._pools: list[tuple[int, int]] = []
        self.ids: list[str] = []
        """The trace's ids, in the order of `requests`; likewise"""
        self.tenants: list[str | None] = []
        self.sessions: list[str | None] = []
        self.refused: list[tuple[Request, str]] = []
        """Requests that were turned away, with the reason."""

    def open_replica(self, *, num_blocks: int, block_size: int) -> array[int]:
        """Make room for one more replica with this pool; returns where its step ends go."""
        self._pools.append((num_blocks, block_size))
        self.step_ends.append(array("q"))
        return self.step_ends[-1]

    def arrays(self, name: str) -> dict[str, NDArray[np.int64]]:
        """A table by column, int64[rows]; rows of `steps` and `memory` by replica and step,
        all others in the order in which things happened."""
        if name == "step_ends":
            return self._step_end_arrays()
        if name not in ("steps", "memory"):
            return self.tables[name].arrays()
        columns = self.tables["steps"].arrays()
        order = np.lexsort((columns["first_step"], columns["replica"]))
        columns = {column: values[order] for column, values in columns.items()}
        if name == "memory":
            columns |= self._slot_arrays(columns)
        return {column: columns[column] for column in COLUMNS[name]}

    def _slot_arrays(self, steps: dict[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        num_blocks, block_size = np.array(self._pools, dtype=np.int64).reshape(-1, 2).T
        replica = steps["replica"]
        slots: dict[str, NDArray[np.int64]] = {}
        for when in ("first", "last"):
            levels = Levels(*(steps[f"{level}_{when}"] for level in Levels._fields))  # type: ignore[arg-type]
            parts = slots_of(
                levels,
                num_blocks=num_blocks[replica],  # type: ignore[arg-type]
                block_size=block_size[replica],  # type: ignore[arg-type]
            )
            slots |= {f"{part}_{when}_slots": getattr(parts, part) for part in Slots._fields}
        return slots

    def _step_end_arrays(self) -> dict[str, NDArray[np.int64]]:
        counts = [len(ends) for ends in self.step_ends]
        return {
            "replica": np.repeat(np.arange(len(counts)), counts),
            "step": np.concatenate([np.arange(n) for n in counts]),
            "end_ns": np.concatenate([np.array(ends, dtype=np.int64) for ends in self.step_ends]),
        }
