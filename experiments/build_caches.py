"""KV caches as a config names them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from experiments.custom import make, members_of
from experiments.custom_parts import CACHE
from experiments.engine_config import ContiguousCache, CustomCache, Engine
from experiments.errors import ConfigError
from sim.kv.cache import KVCache
from sim.kv.contiguous import (
    Contiguous,
    oracle_exact,
    oracle_pow2,
    reserve_max,
    reserve_now,
)
from sim.kv.paged import Paged
from sim.kv.prefix import PrefixCached
from sim.kv.space import Buddies, Holes, Space
from sim.kv.swap import HostTier, Swapped, SwappedPrefix
from sim.world import World


def build_paged(engine: Engine, *, num_gpu_blocks: int, num_cpu_blocks: int) -> Paged:
    """A cache of blocks, with the host's where there is swapping."""
    free_order = engine.kv_cache.free_order if engine.kv_cache.kind == "paged" else None
    assert free_order is not None
    make_cache: Callable[..., Paged] = PrefixCached if engine.enable_prefix_caching else Paged
    if engine.preemption.kind == "swap":
        swapped = SwappedPrefix if engine.enable_prefix_caching else Swapped
        make_cache = partial(swapped, host=HostTier(num_cpu_blocks))
    return make_cache(num_gpu_blocks, block_size=engine.block_size, free_order=free_order)


def build_contiguous(
    engine: Engine, options: ContiguousCache, *, slots: int, world: World
) -> Contiguous:
    """A cache over so many slots of memory."""
    longest = engine.max_model_len
    assert longest is not None
    space: Space
    match options.fit:
        case "buddy":
            space = Buddies(slots)
        case "first_fit" | "best_fit" as fit:
            space = Holes(slots, best=fit == "best_fit")
    if not space.fits(longest):
        raise ConfigError(
            f"engine.kv_cache.fit: found {options.fit}, which has no piece for max_model_len"
            f" {longest:,} in {slots:,} slots; allowed: first_fit, best_fit, or a shorter"
            " max_model_len"
        )
    reserve = {
        "max_model_len": reserve_max(longest),
        "oracle_pow2": oracle_pow2(world.answer_tokens, longest),
        "oracle_exact": oracle_exact(world.answer_tokens),
        "prompt": reserve_now,
    }[options.reserve]
    return Contiguous(space, reserve=reserve)


def build_custom_cache(engine: Engine, options: CustomCache, *, num_gpu_blocks: int) -> KVCache:
    """A cache of the user's own. Raises ConfigError where it cannot be made, and where it has more
    memory than it is given, or less."""
    size = engine.block_size
    kv: KVCache = make(
        options, num_gpu_blocks, at=CACHE, needs=members_of(KVCache), block_size=size
    )
    if kv.num_blocks * kv.block_size != num_gpu_blocks * size:
        raise ConfigError(
            f"{CACHE}.path: found {options.path} with {kv.num_blocks} blocks of {kv.block_size}"
            f" tokens; allowed: the memory it is given, {num_gpu_blocks} blocks of {size}"
        )
    return kv
