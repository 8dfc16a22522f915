"""Where the time of a step comes from, as a config says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from calibrate.roofline import BANDWIDTH_EFFICIENCY, COMPUTE_EFFICIENCY
from experiments.section import Section, refuse

Efficiency = Annotated[float, Field(ge=0.001, le=1)]
Duration = Annotated[int, Field(ge=0, le=10**12)]
"""Nanoseconds: up to 1,000 s, far from the 2**63 ns that tables hold."""


class Clock(Section):
    """What every latency kind has."""

    front_end_ns: Duration = 0
    """Time of a request outside the engine before its first token (HTTP, tokenizer)."""


class RooflineLatency(Clock):
    """Modelled from the model's shape and the device's datasheet; nothing is measured."""

    kind: Literal["roofline"]
    compute_efficiency: Efficiency = COMPUTE_EFFICIENCY
    """Share of the datasheet's FLOP/s that steps reach."""
    bandwidth_efficiency: Efficiency = BANDWIDTH_EFFICIENCY
    """Share of the datasheet's bytes/s that steps reach."""
    host_ns: Duration = 0
    """Host time of every step during which the GPU idles."""


class LinearLatency(Clock):
    """step = base + per_token x tokens + per_context_token x context + per_copied_block x copied
    blocks."""

    kind: Literal["linear"]
    base_ns: Duration
    """nanoseconds of every step"""
    per_token_ns: Annotated[int, Field(ge=0, le=10**9)]
    """nanoseconds for each scheduled token"""
    per_context_token_ns: Annotated[int, Field(ge=0, le=10**6)]
    """nanoseconds for each token of context, summed over the sequences"""
    per_copied_block_ns: Annotated[int, Field(ge=0, le=10**9)] = 0
    """nanoseconds for each KV block that is copied on write"""

    @model_validator(mode="after")
    def _check_time(self) -> LinearLatency:
        if not self.base_ns + self.per_token_ns:
            refuse("found steps that take no time; allowed: base_ns or per_token_ns above 0")
        return self


class ReplayLatency(Clock):
    """The i-th step takes the i-th recorded duration, whatever it computes."""

    kind: Literal["replay"]
    path: str = Field(description="a CSV file with a column duration_ns, one row per step")


Latency = RooflineLatency | LinearLatency | ReplayLatency
