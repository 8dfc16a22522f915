"""Where the time of a step comes from, as a config says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from calibrate.link import LINK_EFFICIENCY
from calibrate.roofline import BANDWIDTH_EFFICIENCY, COMPUTE_EFFICIENCY
from experiments.custom_config import Custom
from experiments.engine_config import Count
from experiments.section import Section, refuse
from sim.flight import EMPTY_STEP_SLEEP_NS

Efficiency = Annotated[float, Field(ge=0.001, le=1)]
Duration = Annotated[int, Field(ge=0, le=10**12)]
"""Nanoseconds: up to 1,000 s, far from the 2**63 ns that tables hold."""


class Clock(Section):
    """What every latency kind has."""

    front_end_ns: Duration = 0
    """Time of a request outside the engine before its first token (HTTP, tokenizer)."""
    empty_step_sleep_ns: Duration = EMPTY_STEP_SLEEP_NS
    """How long the engine sleeps after a step in which nobody could run: vLLM's 1 ms."""


class RooflineLatency(Clock):
    """Modelled from the model's shape and the device's datasheet; nothing is measured."""

    kind: Literal["roofline"]
    compute_efficiency: Efficiency = COMPUTE_EFFICIENCY
    """Share of the datasheet's FLOP/s that steps reach."""
    bandwidth_efficiency: Efficiency = BANDWIDTH_EFFICIENCY
    """Share of the datasheet's bytes/s that steps reach."""
    link_efficiency: Efficiency = LINK_EFFICIENCY
    """Share of the datasheet's bytes/s that all-reduces between GPUs reach."""
    communication: Literal["modelled", "none"] = "modelled"
    """All-reduces of tensor parallelism: from the device's link, or for nothing."""
    host_ns: Duration = 0
    """Host time of every step during which the GPU idles."""


class LinearLatency(Clock):
    """step = base + per_token x tokens + per_context_token x context + per_copied_block x copied
    blocks + per_swapped_block x blocks swapped out or in."""

    kind: Literal["linear"]
    base_ns: Duration
    """nanoseconds of every step"""
    per_token_ns: Annotated[int, Field(ge=0, le=10**9)]
    """nanoseconds for each scheduled token"""
    per_context_token_ns: Annotated[int, Field(ge=0, le=10**6)]
    """nanoseconds for each token of context, summed over the sequences"""
    per_copied_block_ns: Annotated[int, Field(ge=0, le=10**9)] = 0
    """nanoseconds for each KV block that is copied on write"""
    per_swapped_block_ns: Annotated[int, Field(ge=0, le=10**9)] = 0
    """nanoseconds for each KV block that is copied to the host or back"""

    @model_validator(mode="after")
    def _check_time(self) -> LinearLatency:
        if not self.base_ns + self.per_token_ns:
            refuse("found steps that take no time; allowed: base_ns or per_token_ns above 0")
        return self


class ReplayLatency(Clock):
    """The i-th step takes the i-th recorded duration, whatever it computes."""

    kind: Literal["replay"]
    path: str = Field(description="a CSV file with a column duration_ns, one row per step")


class StepsLatency(Clock):
    """Prices fitted to whole steps of a real engine's step log."""

    kind: Literal["steps"]
    path: str = Field(description="a file that `pagesim calibrate from-steps LOG --out FILE` wrote")


class Measured(Clock):
    """What tables of measured operators have in common."""

    dtype: Literal["bfloat16", "float16", "fp8"] | None = None
    """Of the weights; null: what the table has, and bfloat16 from aiconfigurator."""
    host_ns: Duration = 0
    """Host time of every step during which the GPU idles: tables know kernels alone."""
    launch_ns: Duration = 0
    """What steps take longer that no captured graph replays, whose kernels are launched one by one:
    those with chunks, and decodes beyond `capture_sizes`."""
    capture_sizes: list[Count] | None = None
    """Token counts of captured CUDA graphs, to which steps of decodes alone are padded; null: no
    padding."""
    communication: Literal["auto", "measured", "modelled", "none"] = "auto"
    """All-reduces of tensor parallelism: the table's, from the device's link, or for nothing; auto:
    the table's, and from the link what it has not."""
    skew: bool = True
    """Use what the table knows of decodes of mixed length."""


class TableLatency(Measured):
    """Measured operators, from a latency table."""

    kind: Literal["table"]
    path: str = Field(
        description="a latency table (.parquet), as `pagesim calibrate run` and `import` write"
        " them, or the name of a shipped one: tiny-cpu"
    )


class ImportedLatency(Measured):
    """Measured operators, from another project's profile."""

    kind: Literal["imported"]
    source: Literal["llmservingsim", "aiconfigurator", "vidur"]
    path: str | None = None
    """The profile's folder; null: the installed wheel of aiconfigurator-core."""
    version: str | None = None
    """Of vLLM, where aiconfigurator has several; null: the newest."""
    modelled_attention: bool = True
    """What aiconfigurator has not measured of FlashAttention-2 (chunks behind a context, beside
    decodes, decodes of mixed length) as its blocks tell; false: as if there were no such thing."""

    @model_validator(mode="after")
    def _check_source(self) -> ImportedLatency:
        if self.path is None and self.source != "aiconfigurator":
            refuse(f"missing; allowed: the folder of a profile of {self.source}", at="path")
        if self.version is not None and self.source != "aiconfigurator":
            refuse("found a version; allowed: with source aiconfigurator", at="version")
        if not self.modelled_attention and self.source != "aiconfigurator":
            refuse("found false; allowed: with source aiconfigurator", at="modelled_attention")
        return self


class ExecutedLatency(Clock):
    """What the steps took on real kernels: with executor.kind kernels, and only there."""

    kind: Literal["executed"]


class CustomLatency(Clock, Custom):
    """A clock of your own: it is made with its options, and with those of model, device and engine
    (as resolved) that it names. docs/guides/write-a-clock.md says what it has to do."""


Latency = (
    RooflineLatency
    | LinearLatency
    | ReplayLatency
    | StepsLatency
    | TableLatency
    | ImportedLatency
    | ExecutedLatency
    | CustomLatency
)
