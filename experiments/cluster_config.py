"""The replicas, and who gets the next request, as a config describes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from experiments.custom_config import Custom
from experiments.section import Section, by_kind


class RoundRobin(Section):
    """One replica after the other, blind to their load."""

    kind: Literal["round_robin"] = "round_robin"


class LeastOutstanding(Section):
    """The replica with the fewest unanswered requests; the first among equals."""

    kind: Literal["least_outstanding"]


class CustomRouter(Custom):
    """A router of your own: it is made with its options, and called with the list of engines and
    the request. docs/guides/write-a-cache-or-a-router.md says what it has to do."""


MOST_REPLICAS = 4096


class Cluster(Section):
    """How many replicas serve, and who gets the next request."""

    replicas: Annotated[int, Field(gt=0, le=MOST_REPLICAS)] = 1
    router: Annotated[
        RoundRobin | LeastOutstanding | CustomRouter,
        BeforeValidator(by_kind("round_robin")),
        Field(discriminator="kind"),
    ] = RoundRobin()
