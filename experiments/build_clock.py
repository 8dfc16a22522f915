"""A clock of the user's own."""

from __future__ import annotations

from typing import Any

from experiments.custom import asks_for, explained, find_class, make, members_of
from experiments.custom_parts import LATENCY, LATENCY_OFFERED
from experiments.deployment import Deployment
from experiments.errors import ConfigError, shown
from experiments.latency_config import CustomLatency
from sim.contract import check_latency_model
from sim.latency import LatencyModel
from sim.plan import Plan


def build_custom_clock(deployment: Deployment, section: CustomLatency) -> LatencyModel:
    """Raises ConfigError where it cannot be made, and where it breaks the contract of clocks: then,
    and not when a long run is over."""
    known = {
        "model": deployment.model,
        "device": deployment.device,
        "engine": deployment.config.engine,
    }
    made_by = find_class(section, at=LATENCY).made_by
    asked = {name: known[name] for name in asks_for(made_by, LATENCY_OFFERED)}
    clock: LatencyModel = make(
        section,
        at=LATENCY,
        made_by=_doubted(made_by, section.path),
        needs=members_of(LatencyModel),
        **asked,
    )
    with explained(f"{LATENCY}: {section.path} fails sim.contract.check_latency_model"):
        check_latency_model(clock)
    return clock


def _doubted(made_by: type[Any], path: str) -> type[Any]:
    """The class, with a look at every answer: the contract asks for a few plans alone."""
    if not hasattr(made_by, "durations"):
        return made_by

    def durations(self: Any, plan: Plan, k: int) -> list[int]:
        found: list[int] = made_by.durations(self, plan, k)
        if not _are_durations(found, k):
            raise ConfigError(
                f"{LATENCY}.path: {path} says that step {plan.step} and those that repeat it"
                f" take {shown(found)}; allowed: a list of 1 or up to {k} whole numbers of ns"
                " above 0"
            )
        return found

    with explained(f"{LATENCY}.path: {path} cannot be subclassed"):
        return type(made_by.__name__, (made_by,), {"durations": durations})


def _are_durations(found: object, k: int) -> bool:
    return (
        isinstance(found, list)
        and 1 <= len(found) <= k
        and all(type(each) is int and each > 0 for each in found)
    )
