"""What a run is: a frozen, checked description. Adding a kind to a union registers it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from experiments.cluster_config import Cluster
from experiments.engine_config import Engine
from experiments.errors import ConfigError
from experiments.executor_config import Executor, RealKernels, SimulatedExecutor
from experiments.explain import explain
from experiments.latency_config import ExecutedLatency, Latency, ReplayLatency, RooflineLatency
from experiments.section import Name, Section, refuse
from experiments.source import Source
from experiments.transform_config import AnyTransform
from experiments.workload_config import AnyTrace

Positive = Annotated[float, Field(gt=0)]

AnyLatency = Annotated[Latency, Field(discriminator="kind")]


class Slo(Section):
    """Limits a good answer keeps, in milliseconds; null: no such limit."""

    ttft_ms: Positive | None = None
    tpot_ms: Positive | None = None
    e2e_ms: Positive | None = None


class Config(Section):
    """One run of pagesim."""

    name: Name = "run"
    """Begins the name of the folder with the results."""
    model: str | None = None
    """A shipped model's name, or the path of a Hugging Face config.json."""
    device: str | None = None
    """A shipped GPU's name."""
    engine: Engine = Engine()
    executor: Executor = SimulatedExecutor()
    """Who runs the steps."""
    latency: AnyLatency = RooflineLatency(kind="roofline")
    """How long they take; with executor.kind kernels it is `executed`, and need not be said."""
    trace: AnyTrace = Field(
        description="where requests come from; kind: chat, synthetic, clients, merge, or auto for a"
        " file that shows its format (`pagesim schema` lists the kinds of all formats)"
    )
    transforms: list[AnyTransform] = Field(default=[])
    """What is done to the trace, in order."""
    cluster: Cluster = Cluster()
    slo: Slo = Slo()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Everything drawn at random follows from it."""
    variants: dict[str, dict[str, Any]] | None = Field(default=None, exclude=True)
    """Several runs to compare: names and what each of them replaces, nested as here or dotted, as
    in {few seats: {engine.max_num_seqs: 8}}. A section that says another kind is replaced whole.
    What does not run all of them takes the config without them."""

    @model_validator(mode="before")
    @classmethod
    def _take_measured_times(cls, values: Any) -> Any:
        if isinstance(values, dict) and "latency" not in values:
            executor = values.get("executor")
            kind = executor.get("kind") if isinstance(executor, dict) else executor
            if kind == "kernels":
                return values | {"latency": {"kind": "executed"}}
        return values

    @model_validator(mode="after")
    def _check_parts(self) -> Config:
        if isinstance(self.executor, RealKernels):
            self._check_kernels()
        elif isinstance(self.latency, ExecutedLatency):
            refuse("found executed; allowed: with executor.kind kernels", at="latency")
        if isinstance(self.latency, ReplayLatency) and self.cluster.replicas > 1:
            refuse("a recording is of one engine; allowed: cluster.replicas 1", at="latency")
        return self

    def _check_kernels(self) -> None:
        """One process runs whole steps of one model, one after another, and times them."""
        engine, found = self.engine, "found kernels, which run"
        if not isinstance(self.latency, ExecutedLatency):
            refuse(
                f"found {self.latency.kind}; allowed with executor.kind kernels, whose steps are"
                " measured: executed",
                at="latency",
            )
        if engine.batches_in_flight > 1:
            refuse(
                f"{found} one batch at a time; allowed: engine.async_scheduling false and"
                " engine.pipeline_parallel_size 1",
                at="executor",
            )
        if engine.tensor_parallel_size > 1:
            refuse(
                f"{found} the model on one device; allowed: engine.tensor_parallel_size 1",
                at="executor",
            )


def load_config(path: str | Path, *, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file; each override is `a.b=v` and replaces a value.

    A config that says no name is called after its file. Raises ConfigError.
    """
    source = read_source(path, overrides=overrides)
    return parse_config(source.values, source=source)


def check_repeatable(config: Config, *, wanted_by: str) -> None:
    """Raise ConfigError where two runs of a config would not be alike, as something needs them."""
    if isinstance(config.executor, RealKernels):
        raise ConfigError(
            "executor.kind: found kernels, which never take the same time twice; allowed with"
            f" {wanted_by}: simulated (latency.kind replay has a run's durations.csv as its clock)"
        )


def read_source(path: str | Path, *, overrides: Iterable[str] = ()) -> Source:
    """What `load_config` checks: the file, its overrides and its name. Raises ConfigError."""
    source = Source(path)
    for assignment in overrides:
        source.override(assignment)
    source.values.setdefault("name", Path(path).stem)
    return source


def parse_config(values: Mapping[str, Any], *, source: Source | None = None) -> Config:
    """Check values as they come from YAML. Raises ConfigError, with places if `source` has them."""
    with explain(values, source):
        return Config.model_validate(values)
