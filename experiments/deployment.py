"""What vLLM would settle at start-up: the limits left open, and how many blocks there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from calibrate.device import Device, DeviceError, load_device
from calibrate.memory import DoesNotFit, MemoryPlan, default_limits, plan_memory
from calibrate.model import Model, ModelError, load_model
from experiments.config import Config
from experiments.custom import asks_for, find_class
from experiments.custom_parts import LATENCY, settle_custom
from experiments.engine_config import MOST_BLOCKS, Engine
from experiments.errors import ConfigError
from experiments.latency_config import CustomLatency, ImportedLatency, RooflineLatency, TableLatency
from sim.scheduling.versions import VERSIONS

_UTILIZATION = {"0.19": 0.9}
_UTILIZATION_SINCE_0_20 = 0.92
MOST_BLOCKS_OF_ALL = 10 * MOST_BLOCKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A config with nothing left open, and what it was derived from."""

    config: Config
    """Resolved: resolving it again changes nothing."""
    model: Model | None
    device: Device | None
    memory: MemoryPlan | None
    """The memory of one GPU; None where blocks are given and no device is."""
    num_gpu_blocks: int
    """Per replica, the null block included."""
    num_cpu_blocks: int = 0
    """Of host memory per replica, where preempted sequences are swapped."""
    notes: tuple[str, ...] = ()
    """What a user should know: limits that are not what vLLM would have taken."""


def resolve(config: Config) -> Deployment:
    """Settle what the config leaves open, as vLLM of its version would.

    One thing is kinder: where the model's maximum length does not fit in the cache, vLLM
    does not start; here max_model_len is reduced to what fits, and a note says so.

    Raises ConfigError for what is missing or contradicts itself and for the user's own classes
    where they are not there, ModelError and DeviceError for unknown or refused ones, DoesNotFit
    where no cache is left, the device cannot hold it, or an explicit max_model_len does not fit in
    it.
    """
    config = settle_custom(config)
    model = None if config.model is None else load_model(config.model)
    device = None if config.device is None else load_device(config.device)
    _check_parts(config, model=model, device=device)
    engine = _settle_limits(config.engine, model=model, device=device)
    memory = _plan(engine, model=model, device=device)
    num_gpu_blocks = engine.num_gpu_blocks_override
    if num_gpu_blocks is None:
        assert memory is not None
        num_gpu_blocks = memory.num_blocks
    num_cpu_blocks = _count_cpu_blocks(engine, model=model)
    _check_size(num_gpu_blocks, replicas=config.cluster.replicas)
    engine, notes = _settle_length(engine, model=model, num_gpu_blocks=num_gpu_blocks)
    if memory is not None and memory.excess_bytes > 0:
        notes = (*notes, _warn_of_excess(memory))
    _check_lengths(engine)
    names = {
        "model": config.model if model is None or Path(config.model or "").exists() else model.name,
        "device": None if device is None else device.name,
    }
    return Deployment(
        config=config.model_copy(update={"engine": engine, **names}),
        model=model,
        device=device,
        memory=memory,
        num_gpu_blocks=num_gpu_blocks,
        num_cpu_blocks=num_cpu_blocks,
        notes=notes,
    )


def _check_parts(config: Config, *, model: Model | None, device: Device | None) -> None:
    """Model and device may be left out only where nothing is derived from them."""
    engine = config.engine
    modelled = isinstance(config.latency, RooflineLatency)
    measured = isinstance(config.latency, TableLatency | ImportedLatency)
    of_device = isinstance(config.latency, ImportedLatency) and (
        config.latency.source == "aiconfigurator"
    )
    asked: list[str] = []
    if isinstance(config.latency, CustomLatency):
        asked = asks_for(find_class(config.latency, at=LATENCY).made_by, ("model", "device"))
    derives_blocks = engine.num_gpu_blocks_override is None
    preemption = engine.preemption
    swaps_bytes = preemption.kind == "swap" and preemption.num_cpu_blocks_override is None
    for what, given, needs in (
        (
            "model",
            model,
            {
                f"latency.kind {config.latency.kind}": modelled or measured,
                "latency.path, whose class asks for it": "model" in asked,
                "the number of KV blocks (or give engine.num_gpu_blocks_override)": derives_blocks,
                "engine.max_model_len (or give it)": engine.max_model_len is None,
                "engine.preemption.swap_space (or give num_cpu_blocks_override)": swaps_bytes,
            },
        ),
        (
            "device",
            device,
            {
                "latency.kind roofline": modelled,
                "latency.source aiconfigurator": of_device,
                "latency.path, whose class asks for it": "device" in asked,
                "the number of KV blocks (or give engine.num_gpu_blocks_override)": derives_blocks,
                "engine.max_num_seqs (or give it)": engine.max_num_seqs is None,
                "engine.max_num_batched_tokens (or give it)": engine.max_num_batched_tokens is None,
            },
        ),
    ):
        needed = [need for need, holds in needs.items() if holds]
        if given is None and needed:
            raise ConfigError(f"{what}: missing; needed for {', '.join(needed)}")


def _settle_limits(engine: Engine, *, model: Model | None, device: Device | None) -> Engine:
    seqs, tokens = engine.max_num_seqs, engine.max_num_batched_tokens
    if device is not None:
        default_seqs, default_tokens = default_limits(device)
        if tokens is None:
            tokens = default_tokens
            if not engine.enable_chunked_prefill:
                longest = engine.max_model_len or (model.max_position_embeddings if model else 0)
                tokens = max(tokens, longest)
        seqs = seqs or min(default_seqs, tokens)
    assert seqs is not None
    assert tokens is not None
    if tokens < seqs:
        raise ConfigError(
            f"engine.max_num_batched_tokens: found {tokens}; allowed: max_num_seqs ({seqs}) or"
            " more, since every running sequence computes at least one token"
        )
    version = engine.scheduler.version
    utilization = _UTILIZATION.get(version, _UTILIZATION_SINCE_0_20)
    kv_cache = engine.kv_cache
    if kv_cache.kind == "paged" and kv_cache.free_order is None:
        kv_cache = kv_cache.model_copy(update={"free_order": VERSIONS[version].free_order})
    caching = engine.enable_prefix_caching
    if caching is None and kv_cache.kind != "custom":
        caching = kv_cache.kind == "paged"
    return engine.model_copy(
        update={
            "max_num_seqs": seqs,
            "max_num_batched_tokens": tokens,
            "gpu_memory_utilization": engine.gpu_memory_utilization or utilization,
            "dtype": "bfloat16",
            "loop": engine.loop or "fast",
            "kv_cache": kv_cache,
            "enable_prefix_caching": caching,
        }
    )


def _plan(engine: Engine, *, model: Model | None, device: Device | None) -> MemoryPlan | None:
    if model is None or device is None:
        return None
    assert engine.gpu_memory_utilization is not None
    try:
        return plan_memory(
            model,
            device,
            gpu_memory_utilization=engine.gpu_memory_utilization,
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            block_size=engine.block_size,
            kv_cache_dtype=engine.kv_cache_dtype,
            tensor_parallel_size=engine.tensor_parallel_size,
            pipeline_parallel_size=engine.pipeline_parallel_size,
            vllm_version=engine.scheduler.version,
            num_gpu_blocks_override=engine.num_gpu_blocks_override,
            kv_cache_memory_bytes=engine.kv_cache_memory_bytes,
            **engine.memory.model_dump(),
        )
    except (ModelError, DeviceError, DoesNotFit):
        raise
    except ValueError as error:
        raise ConfigError(f"engine: {error}") from None


def count_block_bytes(engine: Engine, model: Model) -> int:
    """Of one KV block on one GPU. Raises ConfigError where the GPUs cannot divide the model."""
    try:
        spec = model.kv_spec(
            engine.kv_cache_dtype, tensor_parallel_size=engine.tensor_parallel_size
        )
    except ModelError:
        raise
    except ValueError as error:
        raise ConfigError(f"engine: {error}") from None
    return spec.block_bytes(engine.block_size)


def _count_cpu_blocks(engine: Engine, *, model: Model | None) -> int:
    """What swap_space holds; as vLLM V0 has it, GPUs of a group keep their parts apart."""
    preemption = engine.preemption
    if preemption.kind == "recompute":
        return 0
    if preemption.num_cpu_blocks_override is not None:
        return preemption.num_cpu_blocks_override
    assert model is not None
    blocks = int(preemption.swap_space * 2**30) // count_block_bytes(engine, model)
    if blocks > MOST_BLOCKS:
        raise ConfigError(
            f"engine.preemption.swap_space: found {preemption.swap_space:g} GiB, which is"
            f" {blocks:,} KV blocks; allowed: up to {MOST_BLOCKS:,}"
        )
    return blocks


def _check_size(num_gpu_blocks: int, *, replicas: int) -> None:
    """What a machine can simulate, however large the device."""
    if num_gpu_blocks > MOST_BLOCKS:
        raise ConfigError(
            f"engine.block_size: found {num_gpu_blocks:,} KV blocks; allowed: up to"
            f" {MOST_BLOCKS:,}, so larger ones"
        )
    if replicas * num_gpu_blocks > MOST_BLOCKS_OF_ALL:
        raise ConfigError(
            f"cluster.replicas: found {replicas:,} with {num_gpu_blocks:,} KV blocks each; allowed:"
            f" up to {MOST_BLOCKS_OF_ALL:,} blocks in all"
        )


def _warn_of_excess(memory: MemoryPlan) -> str:
    cache, excess, requested = (
        f"{count / 2**30:.2f} GiB"
        for count in (memory.cache.bytes, memory.excess_bytes, memory.requested.bytes)
    )
    return (
        f"GPU memory is overcommitted: with a KV cache of {cache} all terms are {excess} more than"
        f" the {requested} that gpu_memory_utilization requests (vLLM takes the cache as it is"
        " given, and may run out of memory)"
    )


def _settle_length(
    engine: Engine, *, model: Model | None, num_gpu_blocks: int
) -> tuple[Engine, tuple[str, ...]]:
    """max_model_len: as given if it fits; else the model's maximum, or as much as fits."""
    fits = (num_gpu_blocks - 1) * engine.block_size
    maximum = None if model is None else model.max_position_embeddings
    if engine.max_model_len is None:
        assert maximum is not None
        reduced = min(maximum, fits)
        notes: tuple[str, ...] = ()
        if reduced < maximum:
            notes = (
                f"max_model_len is {reduced}: the model allows {maximum}, but the KV cache holds"
                f" {fits} tokens (vLLM would not start and ask for this max_model_len)",
            )
        return engine.model_copy(update={"max_model_len": reduced}), notes
    given = engine.max_model_len
    if maximum is not None and given > maximum:
        raise ConfigError(
            f"engine.max_model_len: found {given}; allowed: up to the model's {maximum}"
        )
    if given > fits:
        raise DoesNotFit(
            f"engine.max_model_len: found {given}; allowed: up to {fits}, which is what"
            f" {num_gpu_blocks} blocks of {engine.block_size} tokens hold, one of them being the"
            " null block"
        )
    return engine, ()


def _check_lengths(engine: Engine) -> None:
    longest, tokens = engine.max_model_len, engine.max_num_batched_tokens
    assert longest is not None
    assert tokens is not None
    if not engine.enable_chunked_prefill and tokens < longest:
        raise ConfigError(
            f"engine.max_num_batched_tokens: found {tokens}; allowed: max_model_len ({longest})"
            " or more, since enable_chunked_prefill is false"
        )
    if engine.long_prefill_token_threshold > longest:
        raise ConfigError(
            f"engine.long_prefill_token_threshold: found {engine.long_prefill_token_threshold};"
            f" allowed: up to max_model_len ({longest})"
        )
