"""Changes to a trace as a config names them; they are applied in order."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments.section import Section, refuse
from traces.schema import Trace
from traces.transforms.content import Relabel, Truncate
from traces.transforms.selection import Head, Thin
from traces.transforms.time import ScaleRate, Window

Seconds = Annotated[float, Field(ge=0, le=4e9)]
Limit = Annotated[int, Field(ge=1, le=10**9)]


class WindowTransform(Section):
    """Only the requests that arrive within a time."""

    kind: Literal["window"]
    from_s: Seconds = 0
    to_s: Seconds | None = None
    """Not included; null: to the end."""
    rebase: bool = True
    """Arrivals count from from_s."""

    @model_validator(mode="after")
    def _check_order(self) -> WindowTransform:
        if self.to_s is not None and self.to_s <= self.from_s:
            refuse(f"found {self.to_s:g}; allowed: above from_s = {self.from_s:g}", at="to_s")
        return self

    def apply(self, trace: Trace, *, seed: int) -> Trace:
        return Window(trace, from_s=self.from_s, to_s=self.to_s, rebase=self.rebase)


class ScaleRateTransform(Section):
    """The same requests, faster or slower; the shape of bursts stays."""

    kind: Literal["scale_rate"]
    factor: Annotated[float, Field(ge=1e-6, le=1e6)]
    """Arrival times are divided by it: 2 doubles the rate."""

    def apply(self, trace: Trace, *, seed: int) -> Trace:
        return ScaleRate(trace, factor=self.factor)


class ThinTransform(Section):
    """A random part of the trace, at a lower rate."""

    kind: Literal["thin"]
    keep: Annotated[float, Field(gt=0, le=1)]
    """Share that stays."""
    by: Literal["session", "request"] = "session"
    """What stays or goes as a whole; a request without session is one by itself."""

    def apply(self, trace: Trace, *, seed: int) -> Trace:
        return Thin(trace, keep=self.keep, by=self.by, seed=seed)


class HeadTransform(Section):
    """The first requests."""

    kind: Literal["head"]
    requests: Limit

    def apply(self, trace: Trace, *, seed: int) -> Trace:
        return Head(trace, requests=self.requests)


class TruncateTransform(Section):
    """No prompt, and no answer, above a length."""

    kind: Literal["truncate"]
    max_prompt_tokens: Limit | None = None
    max_output_tokens: Limit | None = None
    longer: Literal["clip", "drop"] = "clip"
    """What becomes of longer ones; prompts keep their first tokens."""

    @model_validator(mode="after")
    def _check_limits(self) -> TruncateTransform:
        if self.max_prompt_tokens is None and self.max_output_tokens is None:
            refuse("found no limit; allowed: max_prompt_tokens, max_output_tokens or both")
        return self

    def apply(self, trace: Trace, *, seed: int) -> Trace:
        return Truncate(
            trace,
            max_prompt_tokens=self.max_prompt_tokens,
            max_output_tokens=self.max_output_tokens,
            longer=self.longer,
        )


class RelabelTransform(Section):
    """Other labels for all requests; null leaves one as it is."""

    kind: Literal["relabel"]
    tenant: Annotated[str, Field(min_length=1)] | None = None
    priority: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    session: Annotated[str, Field(min_length=1)] | None = None
    forget: list[Literal["tenant", "priority", "session"]] = Field(default=[])
    """Labels to take away."""

    def apply(self, trace: Trace, *, seed: int) -> Trace:
        return Relabel(
            trace,
            tenant=self.tenant,
            priority=self.priority,
            session=self.session,
            forget=self.forget,
        )


AnyTransform = Annotated[
    WindowTransform
    | ScaleRateTransform
    | ThinTransform
    | HeadTransform
    | TruncateTransform
    | RelabelTransform,
    Field(discriminator="kind"),
]
