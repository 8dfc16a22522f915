"""One replica's scheduler with its cache, and the world that suits them, from resolved options."""

from __future__ import annotations

from typing import Any

from experiments.build_caches import build_contiguous, build_custom_cache, build_paged
from experiments.custom import asks_for, find_class, make, members_of
from experiments.custom_parts import SCHEDULER, SCHEDULER_OFFERED
from experiments.engine_config import CustomScheduler, Engine
from sim.fast.steady import Steady, SteadyStatic
from sim.fast.vllm import FastVllm
from sim.kv.cache import KVCache
from sim.scheduling.face import OneStep, Scheduler
from sim.scheduling.in_flight import BatchesInFlight
from sim.scheduling.orders import Fcfs
from sim.scheduling.priority import Priority
from sim.scheduling.static import StaticBatching
from sim.scheduling.versions import VERSIONS
from sim.scheduling.vllm import Limits, VllmScheduler
from sim.world import CalendarWorld, World


def build_scheduler(
    engine: Engine, *, num_gpu_blocks: int, world: World, num_cpu_blocks: int = 0
) -> Scheduler:
    """ConfigError where the cache has no room for a request of max_model_len, and where a class of
    the user's own cannot be made."""
    limits = _limit(engine, num_gpu_blocks=num_gpu_blocks)
    rules = VERSIONS[engine.scheduler.version]
    order = Priority() if engine.scheduling_policy == "priority" else Fcfs()
    loop = engine.loop
    if engine.kv_cache.kind == "contiguous":
        slots = num_gpu_blocks * engine.block_size
        kv: KVCache = build_contiguous(engine, engine.kv_cache, slots=slots, world=world)
    elif engine.kv_cache.kind == "custom":
        kv = build_custom_cache(engine, engine.kv_cache, num_gpu_blocks=num_gpu_blocks)
        loop = "plain"  # promises are made for caches that are known
    else:
        paged = build_paged(engine, num_gpu_blocks=num_gpu_blocks, num_cpu_blocks=num_cpu_blocks)
        if _suits_fast_vllm(engine):
            return FastVllm(kv=paged, order=order, limits=limits, rules=rules)
        if engine.batches_in_flight > 1:
            assert engine.max_model_len is not None
            return BatchesInFlight(
                kv=paged,
                order=order,
                limits=limits,
                rules=rules,
                max_model_len=engine.max_model_len,
                asynchronous=engine.async_scheduling,
                stages=engine.pipeline_parallel_size,
            )
        kv = paged
    if engine.scheduler.kind == "custom":
        known = {"order": order, "rules": rules, "max_model_len": engine.max_model_len}
        return _build_custom(engine, engine.scheduler, known, kv=kv, limits=limits)
    make_scheduler = _SCHEDULERS[engine.scheduler.kind, loop]
    return make_scheduler(kv=kv, order=order, limits=limits, rules=rules)


_SCHEDULERS: dict[tuple[str, str | None], type[VllmScheduler]] = {
    ("vllm", "plain"): VllmScheduler,
    ("vllm", "fast"): Steady,
    ("static", "plain"): StaticBatching,
    ("static", "fast"): SteadyStatic,
}


def build_world(engine: Engine) -> World:
    """What ends answers, in the way that suits the loop."""
    assert engine.max_model_len is not None
    make_world = CalendarWorld if _suits_fast_vllm(engine) else World
    return make_world(max_model_len=engine.max_model_len)


def count_seats(engine: Engine) -> int:
    """Most sequences that run at once."""
    assert engine.max_num_seqs is not None
    return engine.max_num_active_seqs or engine.max_num_seqs


def _limit(engine: Engine, *, num_gpu_blocks: int) -> Limits:
    assert engine.max_num_batched_tokens is not None
    return Limits(
        max_num_seqs=count_seats(engine),
        max_num_batched_tokens=engine.max_num_scheduled_tokens or engine.max_num_batched_tokens,
        enable_chunked_prefill=engine.enable_chunked_prefill,
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
        scheduler_reserve_full_isl=engine.scheduler_reserve_full_isl,
        watermark_blocks=int(engine.watermark * num_gpu_blocks),
    )


def _suits_fast_vllm(engine: Engine) -> bool:
    """Does the fast loop know a scheduler that does not walk the batch? (Else it has `Steady`.)"""
    rules = VERSIONS[engine.scheduler.version]
    in_order = engine.scheduling_policy == "fcfs" or not rules.self_preemption_stops
    return (
        engine.loop == "fast"
        and engine.scheduler.kind == "vllm"
        and engine.kv_cache.kind == "paged"
        and engine.parallel_sampling == "requests"
        and engine.batches_in_flight == 1
        and in_order
    )


def _build_custom(
    engine: Engine, section: CustomScheduler, known: dict[str, Any], *, kv: KVCache, limits: Limits
) -> Scheduler:
    at = SCHEDULER
    made_by = find_class(section, at=at).made_by
    asked = {name: known[name] for name in asks_for(made_by, SCHEDULER_OFFERED)}
    if engine.loop == "plain":
        promises = [name for name in ("stable_for", "extend_by") if hasattr(made_by, name)]
        nothing = {name: vars(OneStep)[name] for name in promises}
        made_by = type(made_by.__name__, (made_by,), nothing)
    needs = members_of(Scheduler)
    scheduler: Scheduler = make(
        section, at=at, made_by=made_by, needs=needs, kv=kv, limits=limits, **asked
    )
    return scheduler
