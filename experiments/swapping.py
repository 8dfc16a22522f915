"""What swapping moved, what that cost, and how much of the host's memory it took."""

from __future__ import annotations

from typing import Any

import pandas as pd

from experiments.context import Deployment, Frames
from sim.record.rows import Event


def measure_swaps(frames: Frames, deployment: Deployment) -> dict[str, Any] | None:
    """Of all replicas together, means over the time that steps ran; None where nobody is swapped.

    `recomputed` preemptions found no room in the host. Bytes are those of one GPU, None where
    blocks have no known size; `copy_ms` is what the clock asks for the copies by themselves, and
    0 where steps are measured whole.
    """
    num_cpu_blocks = deployment.get("num_cpu_blocks")
    if num_cpu_blocks is None:
        return None
    steps, events = frames["steps"], frames["events"]["event"]
    block_bytes = deployment.get("block_bytes")
    out, back = (int(steps[f"swapped_{way}_blocks"].sum()) for way in ("out", "in"))
    swapped = int((events == Event.SWAP_OUT).sum())
    busy_ns = _integrate(steps, pd.Series(1, index=steps.index))
    used = steps["host_blocks"]
    room_ns = num_cpu_blocks * busy_ns
    return {
        "swapped": swapped,
        "recomputed": int((events == Event.PREEMPT).sum()) - swapped,
        "resumed_from_host": int((events == Event.SWAP_IN).sum()),
        "out_blocks": out,
        "in_blocks": back,
        "out_bytes": None if block_bytes is None else out * block_bytes,
        "in_bytes": None if block_bytes is None else back * block_bytes,
        "copy_ms": int(steps["swap_ns"].sum()) / 1e6,
        "share_of_busy_time": int(steps["swap_ns"].sum()) / busy_ns if busy_ns else None,
        "num_cpu_blocks": num_cpu_blocks,
        "host_used_share": _integrate(steps, used) / room_ns if room_ns else None,
        "host_peak_blocks": int(used.max()) if len(used) else 0,
    }


def _integrate(steps: pd.DataFrame, level: pd.Series[Any]) -> int:
    """Over the time of the steps, in exact integers."""
    duration_ns = (steps["end_ns"] - steps["start_ns"]).tolist()
    return sum(value * ns for value, ns in zip(level.tolist(), duration_ns, strict=True))
