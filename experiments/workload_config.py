"""Where requests come from, as a config describes it: files, synthetic workloads, mixes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from experiments.arrivals_config import AtOnceArrivals, DrawnArrivals, PoissonArrivals
from experiments.lengths_config import (
    AnyLengths,
    AnySharing,
    LognormalLengths,
    Mean,
    NoSharing,
    Sessions,
    Sigma,
    Skew,
    Tokens,
)
from experiments.section import Name, Section, refuse
from experiments.trace_config import TraceFile
from experiments.transform_config import AnyTransform
from experiments.weights import NameWeights, NumberWeights
from traces.chat import ChatWorkload
from traces.synthetic.clients import Population

Requests = Annotated[int, Field(ge=1, le=10**9)]
Seconds = Annotated[float, Field(gt=0, le=4e9)]


class ChatTrace(Section):
    """A synthetic chat service; traces/chat.py says what the parameters mean, and their source."""

    kind: Literal["chat"]
    requests: int = ChatWorkload.requests
    sessions_per_second: float = ChatWorkload.sessions_per_second
    turns_mean: float = ChatWorkload.turns_mean
    system_prompts: int = ChatWorkload.system_prompts
    system_prompt_tokens: int = ChatWorkload.system_prompt_tokens
    system_prompt_skew: float = ChatWorkload.system_prompt_skew
    first_message_median: float = ChatWorkload.first_message_median
    first_message_sigma: float = ChatWorkload.first_message_sigma
    later_message_median: float = ChatWorkload.later_message_median
    later_message_sigma: float = ChatWorkload.later_message_sigma
    answer_median: float = ChatWorkload.answer_median
    answer_sigma: float = ChatWorkload.answer_sigma
    answer_max_tokens: int = ChatWorkload.answer_max_tokens
    think_mean_s: float = ChatWorkload.think_mean_s
    answer_ns_per_token: int = ChatWorkload.answer_ns_per_token
    max_prompt_tokens: int = ChatWorkload.max_prompt_tokens

    @model_validator(mode="after")
    def _check_ranges(self) -> ChatTrace:
        try:
            self.workload(seed=0)
        except ValueError as error:
            parameter, _, why = str(error).partition(" = ")
            refuse("found " + why.replace(": allowed", "; allowed:"), at=parameter)
        return self

    def workload(self, *, seed: int) -> ChatWorkload:
        return ChatWorkload(seed=seed, **self.model_dump(exclude={"kind"}))


class Source(Section):
    """A trace, and what is done to it."""

    trace: AnyTrace = Field(description="a section as the run's own `trace`")
    transforms: list[AnyTransform] = Field(default=[])
    """Applied in order."""


class ReplayedArrivals(Source):
    """The arrivals of another trace."""

    kind: Literal["replayed"]


AnyArrivals = Annotated[DrawnArrivals | ReplayedArrivals, Field(discriminator="kind")]


class IndependentLengths(Section):
    """Prompts and answers with distributions of their own."""

    kind: Literal["independent"] = "independent"
    prompt: AnyLengths = LognormalLengths(kind="lognormal", median=1020, mean=1154.7)
    """Of the part of a prompt that is its own; shared content comes on top."""
    output: AnyLengths = LognormalLengths(kind="lognormal", median=129, mean=211.1)
    """Of answers."""


class JointLengths(Source):
    """Lengths of whole requests of another trace, drawn with replacement."""

    kind: Literal["joint"]


def _default_kind(lengths: Any) -> Any:
    if isinstance(lengths, dict) and "kind" not in lengths:
        return {"kind": "independent", **lengths}
    return lengths


BothLengths = Annotated[
    Annotated[IndependentLengths | JointLengths, Field(discriminator="kind")],
    BeforeValidator(_default_kind),
]


class Traffic(Section):
    """What requests are like; defaults are fitted to Azure's conversation trace of 2023."""

    arrivals: AnyArrivals = PoissonArrivals(kind="poisson", rate=5.53)
    lengths: BothLengths = IndependentLengths()
    sharing: AnySharing = NoSharing(kind="none")
    tenants: NameWeights | None = None
    """How often each tenant asks, as in {alice: 3, bob: 1}."""
    priorities: NumberWeights | None = None
    """How often each priority is asked for; lower is more urgent."""
    n: NumberWeights | None = None
    """How often so many answers are asked for, as in {1: 0.9, 4: 0.1}."""

    @model_validator(mode="after")
    def _check_traffic(self) -> Traffic:
        if isinstance(self.sharing, Sessions) and isinstance(self.arrivals, AtOnceArrivals):
            refuse(
                "found 'at_once' with sessions, none of which would come to a second turn;"
                " allowed: arrivals in which time passes",
                at="arrivals",
            )
        for answers in self.n or ():
            if not 1 <= answers <= 16_384:
                refuse(f"found {answers} answers; allowed: 1 to 16384", at="n")
        return self


class SyntheticTrace(Traffic):
    """A synthetic workload: arrivals x lengths x sharing."""

    kind: Literal["synthetic"]
    requests: Requests | None = None
    """How many; null: as many as come within duration_s."""
    duration_s: Seconds | None = None
    """If given, the workload ends there."""

    @model_validator(mode="after")
    def _check_end(self) -> SyntheticTrace:
        needs_requests = isinstance(self.arrivals, AtOnceArrivals)
        check_end(self, finite=isinstance(self.arrivals, ReplayedArrivals), timeless=needs_requests)
        return self


class Client(Traffic):
    """One of several clients; its name becomes the tenant of its requests."""

    name: Name


class RandomClients(Section):
    """Clients that differ at random; traces/synthetic/clients.py says how, and why."""

    count: Annotated[int, Field(ge=1, le=10_000)]
    rate: Annotated[float, Field(ge=1e-6, le=1e6)]
    """Requests per second of all clients together."""
    rate_skew: Skew = Population.rate_skew
    """Client k sends a share in proportion to 1 / k**rate_skew."""
    cv_median: Annotated[float, Field(ge=0.1, le=10)] = Population.cv_median
    """Over the clients, of the CV of gaps."""
    cv_sigma: Annotated[float, Field(ge=0, le=1)] = Population.cv_sigma
    prompt_median: Mean = Population.prompt_median
    """Over the clients, of the median prompt."""
    prompt_spread: Sigma = Population.prompt_spread
    """Sigma of the median prompt over the clients."""
    prompt_sigma: Sigma = Population.prompt_sigma
    """Sigma of the prompts of one client."""
    output_mean: Mean = Population.output_mean
    """Median over the clients of the mean answer."""
    output_spread: Sigma = Population.output_spread
    """Sigma of the mean answer over the clients."""
    longest: Tokens = Population.longest
    """What is longer is clipped, and counted."""


class ClientsTrace(Section):
    """A mix of clients, each with traffic of its own."""

    kind: Literal["clients"]
    requests: Requests | None = None
    """Of all clients together; null: as many as come within duration_s."""
    duration_s: Seconds | None = None
    """If given, the workload ends there."""
    clients: list[Client] = Field(default=[])
    """Each as a synthetic trace, without an end, and with a name."""
    population: RandomClients | None = None
    """Clients drawn at random, beside those listed."""

    @model_validator(mode="after")
    def _check_clients(self) -> ClientsTrace:
        if not self.clients and self.population is None:
            refuse("found no clients; allowed: clients, population or both")
        check_names([client.name for client in self.clients], at="clients")
        for client in self.clients:
            if self.population is not None and re.fullmatch(r"c\d{4}", client.name):
                allowed = "another one: the population's are c0000, c0001, ..."
                refuse(f"found the name {client.name!r}; allowed: {allowed}", at="clients")
        kinds = [client.arrivals for client in self.clients]
        check_end(
            self,
            finite=not self.population and all(isinstance(k, ReplayedArrivals) for k in kinds),
            timeless=any(isinstance(kind, AtOnceArrivals) for kind in kinds),
        )
        return self


class Part(Source):
    """One of several traces."""

    name: Name
    """Begins the ids of its requests."""


class MergedTrace(Section):
    """Several traces at once; they share no content."""

    kind: Literal["merge"]
    traces: Annotated[list[Part], Field(min_length=1)]
    """Each a section with name, trace and, if you like, transforms."""

    @model_validator(mode="after")
    def _check_names(self) -> MergedTrace:
        check_names([part.name for part in self.traces], at="traces")
        return self


AnyTrace = Annotated[
    ChatTrace | SyntheticTrace | ClientsTrace | MergedTrace | TraceFile,
    Field(discriminator="kind"),
]


def check_end(trace: SyntheticTrace | ClientsTrace, *, finite: bool, timeless: bool) -> None:
    """Refuse a workload that would go on for ever."""
    if trace.requests is not None or finite:
        return
    if timeless:
        refuse("missing; allowed: how many requests arrive at once", at="requests")
    if trace.duration_s is None:
        refuse("found no end; allowed: requests, duration_s or both", at="requests")


def check_names(names: list[str], *, at: str) -> None:
    for name in names:
        if names.count(name) > 1:
            refuse(f"found the name {name!r} twice; allowed: different names", at=at)
