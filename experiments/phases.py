"""Prefill and decode: how much of the time each takes, and whether it computes or moves data."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pandas as pd

from calibrate.roofline import Work

PHASES = ("prefill_only", "mixed", "decode_only", "no_tokens")
"""By what a step computes: only chunks, both, only decodes; nothing (it just preempted)."""


class ModelWork(Protocol):
    """Counts what a model computes and moves; `calibrate.roofline.Roofline` does."""

    def work(self, *, tokens: int, rows: int, area: int, context: int, steps: int = 1) -> Work:
        """FLOP and bytes of so many steps together."""
        ...


def share_phases(
    steps: pd.DataFrame,
    chunks: pd.DataFrame,
    *,
    model_work: ModelWork | None,
    ridge_flop_per_byte: float | None,
) -> dict[str, Any]:
    """Each phase's share of busy time and, where the model's work is known, its intensity.

    The intensity is all FLOP over all bytes of the phase's steps; beside it stands how often
    it holds the device's ridge point: below 1 memory bandwidth binds, above it compute.
    """
    phase = classify(steps)
    duration_ns = (steps["end_ns"] - steps["start_ns"]).to_numpy()
    busy_ns = int(duration_ns.sum())
    counts = _count_work(steps, chunks) if model_work is not None else None
    rows: dict[str, Any] = {}
    for name in PHASES:
        here = phase == name
        row: dict[str, float | int | None] = {
            "steps": int(steps["steps"][here].sum()),
            "share_of_busy_time": int(duration_ns[here].sum()) / busy_ns if busy_ns else None,
        }
        if model_work is not None and counts is not None and name != "no_tokens":
            total = {key: int(value) for key, value in counts[here].sum().items()}
            row |= _measure(model_work, total, ridge=ridge_flop_per_byte)
        rows[name] = row
    return {"phases": rows, "ridge_flop_per_byte": ridge_flop_per_byte}


def classify(steps: pd.DataFrame) -> np.ndarray[Any, Any]:
    """The phase of each row of `steps`, by name."""
    chunks, decodes = steps["chunks"].to_numpy() > 0, steps["decodes"].to_numpy() > 0
    conditions = [chunks & ~decodes, chunks & decodes, decodes]
    return np.select(conditions, PHASES[:3], default=PHASES[3])


def _measure(
    model_work: ModelWork, total: dict[str, int], *, ridge: float | None
) -> dict[str, float | None]:
    if not total["steps"]:
        return {"intensity_flop_per_byte": None, "times_ridge": None}
    work = model_work.work(**total)
    intensity = work.flop / work.bytes
    return {
        "intensity_flop_per_byte": intensity,
        "times_ridge": intensity / ridge if ridge else None,
    }


def _count_work(steps: pd.DataFrame, chunks: pd.DataFrame) -> pd.DataFrame:
    """What each row of `steps` asks of the model, in the terms of `ModelWork.work`."""
    n, before = chunks["tokens"], chunks["computed_before"]
    of_chunks = (
        pd.DataFrame(
            {
                "replica": chunks["replica"],
                "first_step": chunks["step"],  # a row with a chunk is a row of one step
                "area": n * before + n * (n + 1) // 2,
                "context": before + n,
            }
        )
        .groupby(["replica", "first_step"], as_index=False)
        .sum()
    )
    summed = steps.merge(of_chunks, how="left", on=["replica", "first_step"]).fillna(0)
    times, decodes = summed["steps"], summed["decodes"]
    # Each decode's context is one token longer in every step of a row.
    decode_context = times * summed["decode_context"] + decodes * (times * (times - 1) // 2)
    return pd.DataFrame(
        {
            "tokens": summed["chunk_tokens"] + decodes * times,
            "rows": summed["chunks"] + decodes * times,
            "area": summed["area"] + decode_context,
            "context": summed["context"] + decode_context,
            "steps": times,
        }
    )
