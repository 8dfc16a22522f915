"""How long synthetic prompts and answers are, and what prompts share, as a config says it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments.section import Section, refuse
from traces.synthetic import lengths, sharing
from traces.synthetic.empirical import Empirical

Tokens = Annotated[int, Field(ge=1, le=lengths.LONGEST)]
Mean = Annotated[float, Field(ge=1, le=1e7)]
Sigma = Annotated[float, Field(ge=0, le=5)]
Skew = Annotated[float, Field(ge=0, le=10)]


class ConstantLengths(Section):
    """Always the same."""

    kind: Literal["constant"]
    tokens: Tokens

    def build(self) -> lengths.Lengths:
        return lengths.Constant(self.tokens)


class UniformLengths(Section):
    """Every length from low to high alike."""

    kind: Literal["uniform"]
    low: Tokens
    high: Tokens
    """Included."""

    @model_validator(mode="after")
    def _check_order(self) -> UniformLengths:
        if self.high < self.low:
            refuse(f"found {self.high}; allowed: low = {self.low} or more", at="high")
        return self

    def build(self) -> lengths.Lengths:
        return lengths.Uniform(self.low, self.high)


class LognormalLengths(Section):
    """Lognormal, by two of median, mean and sigma; rounded up to whole tokens."""

    kind: Literal["lognormal"]
    median: Mean | None = None
    mean: Mean | None = None
    """Before rounding and clipping; with a median, sigma = sqrt(2 ln(mean / median))."""
    sigma: Sigma | None = None
    """Standard deviation of the logarithm."""
    max: Tokens = lengths.LONGEST
    """What is longer is clipped, and counted."""

    @model_validator(mode="after")
    def _check_shape(self) -> LognormalLengths:
        given = [name for name in ("median", "mean", "sigma") if getattr(self, name) is not None]
        if len(given) != 2:
            found = ", ".join(given) or "none of them"
            refuse(f"found {found}; allowed: two of median, mean and sigma")
        if self.mean is not None and self.median is not None:
            most = self.median * math.exp(5**2 / 2)
            if not self.median <= self.mean <= most:
                allowed = f"median = {self.median:g} to {most:g}"
                refuse(f"found {self.mean:g}; allowed: {allowed}", at="mean")
        return self

    def build(self) -> lengths.Lengths:
        median, sigma = self.median, self.sigma
        if self.mean is not None:
            if median is not None:
                sigma = lengths.sigma_of(mean=self.mean, median=median)
            elif sigma is not None:
                median = lengths.median_of(mean=self.mean, sigma=sigma)
        assert median is not None
        assert sigma is not None
        return lengths.Lognormal(median, sigma, self.max)


class ExponentialLengths(Section):
    """Exponential; rounded up to whole tokens."""

    kind: Literal["exponential"]
    mean: Mean
    max: Tokens = lengths.LONGEST
    """What is longer is clipped, and counted."""

    def build(self) -> lengths.Lengths:
        return lengths.Exponential(self.mean, self.max)


class ZipfLengths(Section):
    """A power law: length x with a weight of x**-exponent."""

    kind: Literal["zipf"]
    exponent: Skew
    low: Annotated[int, Field(ge=1, le=10**7)] = 1
    high: Annotated[int, Field(ge=1, le=10**7)]
    """Included."""

    @model_validator(mode="after")
    def _check_order(self) -> ZipfLengths:
        if self.high < self.low:
            refuse(f"found {self.high}; allowed: low = {self.low} or more", at="high")
        return self

    def build(self) -> lengths.Lengths:
        return lengths.Zipf(self.exponent, self.low, self.high)


class EmpiricalLengths(Section):
    """Drawn, with replacement, from a column of a CSV file or from a trace."""

    kind: Literal["empirical"]
    path: str = Field(description="a CSV file with a header, or a trace file; also .gz")
    column: str = Field(
        description="a column of the CSV file, or prompt_tokens or output_tokens of the trace"
    )

    def build(self) -> lengths.Lengths:
        return Empirical(self.path, column=self.column)


AnyLengths = Annotated[
    ConstantLengths
    | UniformLengths
    | LognormalLengths
    | ExponentialLengths
    | ZipfLengths
    | EmpiricalLengths,
    Field(discriminator="kind"),
]


class NoSharing(Section):
    """Every prompt is its own."""

    kind: Literal["none"]

    def build(self) -> sharing.Sharing:
        return sharing.NOTHING


class SystemPrompts(Section):
    """Each prompt begins with one of several system prompts."""

    kind: Literal["system_prompts"]
    count: Annotated[int, Field(ge=1, le=10**6)]
    tokens: Tokens
    skew: Skew = 1.0
    """The k-th most popular is chosen with a weight of 1 / k**skew; 0: all alike."""

    def build(self) -> sharing.Sharing:
        return sharing.SystemPrompts(self.count, self.tokens, self.skew)


class PromptTree(Section):
    """Each prompt begins with a path from the root of a tree to a leaf, as few-shot examples do."""

    kind: Literal["prompt_tree"]
    depth: Annotated[int, Field(ge=1, le=16)]
    """Nodes on a path, the root included."""
    branching: Annotated[int, Field(ge=1, le=10**4)]
    """Children of each node."""
    tokens_per_node: Annotated[int, Field(ge=1, le=10**7)]
    skew: Skew = 0.0
    """A node's k-th child is chosen with a weight of 1 / k**skew."""

    @model_validator(mode="after")
    def _check_size(self) -> PromptTree:
        if self.build().streams > 10**12:
            refuse(
                "found a tree of more than 10**12 nodes; allowed: a smaller depth or branching",
                at="branching",
            )
        return self

    def build(self) -> sharing.Sharing:
        return sharing.PromptTree(self.depth, self.branching, self.tokens_per_node, self.skew)


class RagDocuments(Section):
    """Each prompt holds retrieved documents, before its question or after it."""

    kind: Literal["rag"]
    documents: Annotated[int, Field(ge=1, le=10**6)]
    """How many there are to retrieve from."""
    document_tokens: Annotated[int, Field(ge=1, le=10**6)]
    """Of each document."""
    skew: Skew = 1.0
    """The k-th most popular is chosen with a weight of 1 / k**skew; 0: all alike."""
    position: Literal["before", "after"] = "before"
    """Of the question; a document after it is never found by a prefix cache."""
    retrieved: Annotated[int, Field(ge=1, le=100)] = 1
    """Documents in a prompt; one may come twice."""
    instructions: Annotated[int, Field(ge=0, le=10**7)] = 0
    """Tokens that all prompts begin with."""

    def build(self) -> sharing.Sharing:
        return sharing.Rag(
            self.documents,
            self.document_tokens,
            self.skew,
            self.position,
            self.retrieved,
            self.instructions,
        )


OpeningSharing = Annotated[
    NoSharing | SystemPrompts | PromptTree | RagDocuments, Field(discriminator="kind")
]


class Sessions(Section):
    """Conversations of several turns that quote all before them; open loop.

    Arrivals are those of sessions. A turn arrives after the nominal time of the answer before
    it, and a think time, however long the server really took.
    """

    kind: Literal["sessions"]
    turns_mean: Annotated[float, Field(ge=1, le=1e4)] = 2.0
    """Geometric."""
    think_mean_s: Annotated[float, Field(ge=0, le=1e6)] = 100.0
    """Exponential."""
    answer_ns_per_token: Annotated[int, Field(ge=0, le=10**12)] = 25_000_000
    """The pace at which answers are taken to be read."""
    max_prompt_tokens: Tokens = 32_768
    """A session ends, counted, before a later prompt that would be longer."""
    opening: OpeningSharing = NoSharing(kind="none")
    """What the first prompts of sessions share."""


AnySharing = Annotated[
    NoSharing | SystemPrompts | PromptTree | RagDocuments | Sessions, Field(discriminator="kind")
]
