"""What the numbers of a run are computed from: its tables, and what stands around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import pandas as pd

from experiments.phases import ModelWork

Frames = Mapping[str, pd.DataFrame]
"""The tables of `sim.record.records.COLUMNS` by name. `requests` also has `id`, `tenant` and
`session`; `refused` has `id`, `arrival_ns`, `prompt_tokens`, `output_tokens`, `reason`."""


class Deployment(TypedDict):
    """The KV pool of one replica, and how the device's memory came to hold it."""

    num_gpu_blocks: int
    """The null block included."""
    block_size: int
    num_cpu_blocks: NotRequired[int | None]
    """Of host memory per replica; None where nobody is swapped."""
    block_bytes: NotRequired[int | None]
    """Of one block on one GPU, where that is known."""
    memory: NotRequired[list[dict[str, Any]]]
    """The rows of `calibrate.memory.MemoryPlan`: term, bytes, derivation."""


class Latency(TypedDict):
    """What the clock was driven by."""

    source: str
    modelled: bool
    """No measurement stands behind the durations."""
    knows_alone: bool
    """A chunk by itself has a price; False where durations are recorded."""
    ridge_flop_per_byte: float | None
    """Above this intensity the device is bound by compute; None where nothing is known."""


class TraceNotes(TypedDict):
    name: str
    notes: Mapping[str, int]
    """How many lines were dropped, clipped or shifted, by what was done to them."""


class Context(TypedDict):
    """The circumstances of a run that its tables do not tell."""

    config: dict[str, Any]
    arrived: int
    """Requests that the trace delivered, refused ones included: `Cluster.arrived`."""
    deployment: Deployment
    latency: Latency
    trace: TraceNotes
    slot_ns: list[list[int]]
    """Per replica: each part of `sim.record.memory.Slots`, integrated over the time steps ran."""
    model_work: ModelWork | None
    wall_s: float
    cpu_s: float
