"""Which parts of a run are classes of the user's own, and what these are asked to do."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.cluster_config import CustomRouter
from experiments.config import Config
from experiments.custom import asks_for, describe, find_class, settle
from experiments.custom_config import Custom
from experiments.engine_config import CustomCache, CustomScheduler, Engine
from experiments.errors import ConfigError
from experiments.latency_config import CustomLatency

SCHEDULER, CACHE = "engine.scheduler", "engine.kv_cache"
LATENCY, ROUTER = "latency", "cluster.router"
SCHEDULER_GIVEN = ("kv", "limits")
"""What a scheduler is made with, by keyword; and what it may ask for, by naming it:"""
SCHEDULER_OFFERED = ("order", "rules", "max_model_len")
LATENCY_OFFERED = ("model", "device", "engine")


def settle_custom(config: Config) -> Config:
    """The config with the source of each of its classes. Raises ConfigError for a class that is
    not there, that does not take what it is given, or cannot do what the config asks of it."""
    engine, cluster, latency = config.engine, config.cluster, config.latency
    if isinstance(scheduler := engine.scheduler, CustomScheduler):
        scheduler = settle(
            scheduler, at=SCHEDULER, given=SCHEDULER_GIVEN, offered=SCHEDULER_OFFERED
        )
        engine = engine.model_copy(update={"scheduler": scheduler})
        _check_order(engine, scheduler)
        _check_forks(engine, scheduler, at=SCHEDULER)
    if isinstance(kv_cache := engine.kv_cache, CustomCache):
        kv_cache = settle(kv_cache, at=CACHE, given=("block_size",), positional=1)
        engine = engine.model_copy(update={"kv_cache": kv_cache})
        _check_forks(engine, kv_cache, at=CACHE)
    if isinstance(router := cluster.router, CustomRouter):
        cluster = cluster.model_copy(update={"router": settle(router, at=ROUTER, given=())})
    if isinstance(latency, CustomLatency):
        latency = settle(latency, at=LATENCY, given=(), offered=LATENCY_OFFERED)
    parts = {"engine": engine, "cluster": cluster, "latency": latency}
    return config.model_copy(update=parts)


def describe_custom(config: Config) -> list[str]:
    """A note on each of them."""
    return [describe(section, at=at) for at, section in _list_custom(config)]


def _list_custom(config: Config) -> Iterator[tuple[str, Custom]]:
    for at, section in (
        (SCHEDULER, config.engine.scheduler),
        (CACHE, config.engine.kv_cache),
        (LATENCY, config.latency),
        (ROUTER, config.cluster.router),
    ):
        if isinstance(section, Custom):
            yield at, section


def _check_order(engine: Engine, scheduler: CustomScheduler) -> None:
    asked = asks_for(find_class(scheduler, at=SCHEDULER).made_by, ["order"])
    if engine.scheduling_policy != "fcfs" and not asked:
        raise ConfigError(
            f"engine.scheduling_policy: found {engine.scheduling_policy}; allowed with"
            f" {scheduler.path}: fcfs, since it does not ask for an order (order=)"
        )


def _check_forks(engine: Engine, section: Custom, *, at: str) -> None:
    if engine.parallel_sampling == "fork" and not hasattr(
        find_class(section, at=at).made_by, "fork"
    ):
        raise ConfigError(
            f"engine.parallel_sampling: found fork; allowed with {section.path}: requests, since"
            " it has no method fork"
        )
