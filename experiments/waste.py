"""Allocated KV memory that holds nothing: measured in the middle of a run, and by arithmetic.

Waste = 1 - used / (used + reserved + internal): of the slots that sequences hold, the share
in which there is no token (yet, or ever).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from experiments.context import Frames
from experiments.kv_use import POOL_PARTS
from experiments.metrics import NS_PER_S, measure_makespan
from experiments.timeline import Ints, StepAxis
from experiments.windows import Floats

HELD = ("used", "reserved", "internal")
"""Parts of the pool that sequences hold."""


def measure_middle(frames: Frames, *, pool_slots: int) -> dict[str, Any]:
    """Time-weighted means over the middle half of a run, 25 % to 75 % of the makespan, in which
    an overloaded server is neither filling up nor running dry.

    `running` sequences are those of all replicas; shares of the pool and `waste` are over the
    time in it that steps run, and None where none does. Steps that reach beyond the half count
    by what lies within.
    """
    makespan_ns = measure_makespan(frames)
    arrivals = [frames[table]["arrival_ns"] for table in ("requests", "refused")]
    start_ns = int(pd.concat(arrivals).min()) if makespan_ns else 0
    from_ns, to_ns = (start_ns + makespan_ns * quarters // 4 for quarters in (1, 3))
    steps = EachStep(frames)
    inside_ns = steps.within(from_ns, to_ns)
    busy_ns = float(inside_ns.sum())
    slot_ns = {part: float(steps.slots(part) @ inside_ns) for part in POOL_PARTS}
    held_ns = sum(slot_ns[part] for part in HELD)
    running_ns = float(steps.rows["running"].to_numpy()[steps.row] @ inside_ns)
    return {
        "from_s": (from_ns - start_ns) / NS_PER_S,
        "to_s": (to_ns - start_ns) / NS_PER_S,
        "running": running_ns / (to_ns - from_ns) if to_ns > from_ns else None,
        "share_of_pool": {
            part: slots / (pool_slots * busy_ns) if busy_ns else None
            for part, slots in slot_ns.items()
        },
        "waste": 1 - slot_ns["used"] / held_ns if held_ns else None,
    }


class EachStep:
    """The rows of `steps` and `memory` written out step by step, replica after replica.

    `used` grows by the same amount in each step of a row, so it is exact, and so is everything
    in a contiguous cache. Blocks of a paged cache are known in the first and the last step of
    a row; between them they are taken to come evenly, which is off by less than a block for
    each running sequence, and only within rows of many steps.
    """

    def __init__(self, frames: Frames) -> None:
        axis = StepAxis(frames["step_ends"])
        order = np.argsort(axis.position(frames["steps"]["replica"], frames["steps"]["first_step"]))
        self.rows = frames["steps"].iloc[order]
        count = self.rows["steps"].to_numpy()
        self.row: Ints = np.repeat(np.arange(len(count)), count)
        """Of each step, in `rows`."""
        self.start_ns, self.end_ns = axis.start_ns(self.rows), axis.end_ns
        offset = np.arange(len(axis)) - np.repeat(count.cumsum() - count, count)
        self._progress = offset / np.maximum(count - 1, 1)[self.row]
        self._memory = frames["memory"].iloc[order]

    def slots(self, part: str) -> Floats:
        """Token slots of a part of the pool during each step."""
        first, last = (
            self._memory[f"{part}_{when}_slots"].to_numpy() for when in ("first", "last")
        )
        level: Floats = first[self.row] + (last - first)[self.row] * self._progress
        return level

    def within(self, from_ns: int, to_ns: int) -> Ints:
        """Nanoseconds of each step between the two moments."""
        inside: Ints = np.minimum(self.end_ns, to_ns) - np.maximum(self.start_ns, from_ns)
        return inside.clip(min=0)


def expect_waste(requests: pd.DataFrame, engine: dict[str, Any]) -> float | None:
    """The waste that follows from the lengths of the answered requests alone, in a server that
    is never idle: a prompt of P tokens and an answer of O hold P, P + 1 ... P + O - 1 tokens
    in one step each, so with steps of equal length

        naive    1 - (E[P] + E[O (O - 1)] / (2 E[O])) / max_model_len
        paged    about half a block for each sequence

    Several answers to a request are as many sequences, of equal lengths. `engine` is that of the
    resolved config. None where there are no answers, or shared blocks, or a cache of the
    user's own.
    """
    if requests.empty or requests["hit_tokens"].any():
        return None
    branches = requests["branches"].to_numpy()
    shares = engine["parallel_sampling"] == "fork" or engine["enable_prefix_caching"]
    if shares and (branches > 1).any():
        return None
    prompt = requests["prompt_tokens"].to_numpy(dtype=np.float64)
    output = requests["output_tokens"].to_numpy(dtype=np.float64) / branches
    used = prompt * output + output * (output - 1) / 2
    kv_cache = engine["kv_cache"]
    if kv_cache["kind"] == "custom":
        return None
    if kv_cache["kind"] == "paged":
        size = engine["block_size"]
        held = _whole_blocks(prompt + output - 1, size) - _whole_blocks(prompt - 1, size)
    elif kv_cache["reserve"] == "prompt":
        grows = kv_cache["fit"] != "buddy"
        held = used if grows else _powers_of_two(prompt + output - 1) - _powers_of_two(prompt - 1)
    else:
        longest = engine["max_model_len"]
        room = {
            "max_model_len": np.full(len(output), float(longest)),
            "oracle_exact": prompt + output,
            "oracle_pow2": np.minimum(prompt + _power_of_two(output), longest),
        }[kv_cache["reserve"]]
        held = (_power_of_two(room) if kv_cache["fit"] == "buddy" else room) * output
    return float(1 - used @ branches / (held @ branches))


def _whole_blocks(tokens: Floats, size: int) -> Floats:
    """Slots of the blocks that 1, 2 ... tokens need, summed up."""
    full, rest = np.divmod(tokens, size)
    slots: Floats = size * (size * full * (full + 1) / 2 + rest * (full + 1))
    return slots


def _power_of_two(tokens: Floats) -> Floats:
    """The smallest one that is not less."""
    power: Floats = np.exp2(np.ceil(np.log2(tokens)))
    return power


def _powers_of_two(tokens: Floats) -> Floats:
    """Slots of the powers of two that hold 1, 2 ... tokens, summed up."""
    power = _power_of_two(np.maximum(tokens, 1))
    slots: Floats = tokens * power - (power * power - 1) / 3
    return slots
