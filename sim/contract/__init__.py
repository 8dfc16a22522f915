"""What every KV cache, scheduler, router and latency model must do: tests that strangers can call.

    from sim.contract import check_scheduler
    def test_mine() -> None:
        check_scheduler(lambda kv: MyScheduler(kv=kv, ...))

Each raises AssertionError and says what was violated. They draw random cases from a seed.
"""

from sim.contract.caches import check_kv_cache
from sim.contract.latencies import check_latency_model
from sim.contract.routers import check_router
from sim.contract.schedulers import check_scheduler

__all__ = ["check_kv_cache", "check_latency_model", "check_router", "check_scheduler"]
