"""Where a run left the range that a table was measured in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibrate.attention_curves import ChunksByArea
from calibrate.curves import SLACK

if TYPE_CHECKING:
    from calibrate.step_parts import Parts

Columns = Mapping[str, NDArray[np.int64]]


def count_outside(
    parts: Parts, steps: Columns, chunks: Columns, *, most_swapped: float | None = None
) -> dict[str, int]:
    """Steps and chunks beyond `SLACK` times the last measured point, by axis; none that are 0.

    `most_swapped` blocks were measured at once, or none were.
    """
    times = steps["steps"]
    tokens = steps["decodes"] + steps["chunk_tokens"]
    rows = steps["decodes"] + steps["chunks"]
    largest, deepest = parts.chunks.largest, parts.chunks.deepest
    many, before = chunks["tokens"] > 1, chunks["computed_before"]
    counted = {
        _say("scheduled tokens", parts.tokens.last): times[tokens > SLACK * parts.tokens.last],
        _say("rows of logits", parts.rows.last): times[rows > SLACK * parts.rows.last],
        _say("decodes", parts.decodes.largest): times[
            steps["decodes"] > SLACK * parts.decodes.largest
        ],
        "steps with decodes of more context than was measured, extrapolated": _deep_steps(
            parts, steps
        ),
        f"chunks of more than the measured {largest:,.0f} tokens, extrapolated": (
            many & (chunks["tokens"] > SLACK * largest)
        ),
    }
    if isinstance(parts.chunks, ChunksByArea):
        counted["chunks behind a context, which was not measured, priced by area"] = many & (
            before > 0
        )
    else:
        counted[f"chunks behind more than the measured {deepest:,.0f} tokens, extrapolated"] = (
            many & (before > SLACK * deepest)
        )
    for operator, what, counts, measured in (
        ("allreduce", "tokens in an all-reduce", tokens, parts.tokens.last),
        ("allgather", "rows in an all-gather", rows, parts.rows.last),
    ):
        last = parts.collectives.get(operator, measured)
        if last < measured:  # or else they are counted above
            counted[_say(what, last)] = times[counts > SLACK * last]
    if parts.copies is None:
        counted["steps that copy blocks, which was not measured, priced 0"] = times[
            steps["copied_blocks"] > 0
        ]
    if most_swapped is not None:
        swapped = np.maximum(steps["swapped_out_blocks"], steps["swapped_in_blocks"])
        counted[_say("blocks swapped", most_swapped)] = times[swapped > SLACK * most_swapped]
    return {what: int(n.sum()) for what, n in counted.items() if n.sum()}


def _say(axis: str, last: float) -> str:
    return f"steps of more {axis} than the measured {last:,.0f}, extrapolated"


def _deep_steps(parts: Parts, steps: Columns) -> NDArray[np.int64]:
    """Of each row the steps with more context than was measured: it grows from step to step."""
    decodes, times = steps["decodes"], steps["steps"]
    batches, where = np.unique(decodes, return_inverse=True)
    reach = np.array([parts.decodes.reach(n) if n else 0 for n in batches.tolist()])[where]
    within = (reach - steps["decode_context"]) // np.maximum(decodes, 1) + 1
    deep = times - np.clip(within, 0, times).astype(np.int64)
    return np.where(decodes, deep, 0)
