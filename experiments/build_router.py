"""Who gets the next request, as a config names it."""

from __future__ import annotations

from experiments.cluster_config import Cluster, CustomRouter
from experiments.custom import make
from experiments.custom_parts import ROUTER
from experiments.errors import ConfigError, shown
from sim.cluster import LeastOutstanding, RoundRobin, Router
from sim.engine import Engine
from sim.request import Request


def build_router(cluster: Cluster) -> Router:
    """Raises ConfigError where a class of the user's own cannot be made."""
    router = cluster.router
    if isinstance(router, CustomRouter):
        return _Doubted(router)
    return RoundRobin() if router.kind == "round_robin" else LeastOutstanding()


class _Doubted:
    """A router of the user's own, whose answers are looked at. Raises ConfigError for one that
    is none of the engines."""

    def __init__(self, section: CustomRouter) -> None:
        self._path = section.path
        self._router: Router = make(section, at=ROUTER, needs=["__call__"])

    def __call__(self, engines: list[Engine], request: Request) -> Engine:
        engine: object = self._router(engines, request)
        if not isinstance(engine, Engine) or engine not in engines:
            raise ConfigError(
                f"{ROUTER}.path: {self._path} sends request {request.id} to"
                f" {shown(engine)}; allowed: one of the {len(engines)} engines it is given"
            )
        return engine
