"""What a run is: a frozen, checked description. Adding a kind to a union registers it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from calibrate.roofline import BANDWIDTH_EFFICIENCY, COMPUTE_EFFICIENCY
from experiments.engine_config import Engine
from experiments.explain import explain
from experiments.section import Section, refuse
from experiments.source import Source
from experiments.transform_config import AnyTransform
from experiments.workload_config import AnyTrace

Positive = Annotated[float, Field(gt=0)]
Efficiency = Annotated[float, Field(ge=0.001, le=1)]
Duration = Annotated[int, Field(ge=0, le=10**12)]
"""Nanoseconds: up to 1,000 s, far from the 2**63 ns that tables hold."""


class Latency(Section):
    """What every latency kind has."""

    front_end_ns: Duration = 0
    """Time of a request outside the engine before its first token (HTTP, tokenizer)."""


class RooflineLatency(Latency):
    """Modelled from the model's shape and the device's datasheet; nothing is measured."""

    kind: Literal["roofline"]
    compute_efficiency: Efficiency = COMPUTE_EFFICIENCY
    """Share of the datasheet's FLOP/s that steps reach."""
    bandwidth_efficiency: Efficiency = BANDWIDTH_EFFICIENCY
    """Share of the datasheet's bytes/s that steps reach."""
    host_ns: Duration = 0
    """Host time of every step during which the GPU idles."""


class LinearLatency(Latency):
    """step = base + per_token x tokens + per_context_token x context."""

    kind: Literal["linear"]
    base_ns: Duration
    """nanoseconds of every step"""
    per_token_ns: Annotated[int, Field(ge=0, le=10**9)]
    """nanoseconds for each scheduled token"""
    per_context_token_ns: Annotated[int, Field(ge=0, le=10**6)]
    """nanoseconds for each token of context, summed over the sequences"""

    @model_validator(mode="after")
    def _check_time(self) -> LinearLatency:
        if not self.base_ns + self.per_token_ns:
            refuse("found steps that take no time; allowed: base_ns or per_token_ns above 0")
        return self


class ReplayLatency(Latency):
    """The i-th step takes the i-th recorded duration, whatever it computes."""

    kind: Literal["replay"]
    path: str = Field(description="a CSV file with a column duration_ns, one row per step")


AnyLatency = Annotated[RooflineLatency | LinearLatency | ReplayLatency, Field(discriminator="kind")]


class Cluster(Section):
    """How many replicas serve, and who gets the next request."""

    replicas: Annotated[int, Field(gt=0, le=4096)] = 1
    router: Literal["round_robin", "least_outstanding"] = "round_robin"


class Slo(Section):
    """Limits a good answer keeps, in milliseconds; null: no such limit."""

    ttft_ms: Positive | None = None
    tpot_ms: Positive | None = None
    e2e_ms: Positive | None = None


class Config(Section):
    """One run of pagesim."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "run"
    """Begins the name of the folder with the results."""
    model: str | None = None
    """A shipped model's name, or the path of a Hugging Face config.json."""
    device: str | None = None
    """A shipped GPU's name."""
    engine: Engine = Engine()
    latency: AnyLatency = RooflineLatency(kind="roofline")
    trace: AnyTrace = Field(
        description="where requests come from; kind: chat, synthetic, clients, merge, or a file:"
        " azure, mooncake, native or auto"
    )
    transforms: list[AnyTransform] = Field(default=[])
    """What is done to the trace, in order."""
    cluster: Cluster = Cluster()
    slo: Slo = Slo()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Everything drawn at random follows from it."""

    @model_validator(mode="after")
    def _check_parts(self) -> Config:
        if isinstance(self.latency, ReplayLatency) and self.cluster.replicas > 1:
            refuse("a recording is of one engine; allowed: cluster.replicas 1", at="latency")
        return self


def load_config(path: str | Path, *, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file; each override is `a.b=v` and replaces a value.

    A config that says no name is called after its file. Raises ConfigError.
    """
    source = Source(path)
    for assignment in overrides:
        source.override(assignment)
    source.values.setdefault("name", Path(path).stem)
    return parse_config(source.values, source=source)


def parse_config(values: Mapping[str, Any], *, source: Source | None = None) -> Config:
    """Check values as they come from YAML. Raises ConfigError, with places if `source` has them."""
    with explain(values, source):
        return Config.model_validate(values)
