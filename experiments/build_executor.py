"""Executors as a config names them. Torch is imported where one of real kernels is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from calibrate.kernels.providers import lacks_torch
from calibrate.llama_shape import LlamaShape
from calibrate.model import ModelError, read_model
from experiments.deployment import Deployment
from experiments.errors import ConfigError
from experiments.executed import Executed
from experiments.executor_config import RealKernels
from sim.kv.cache import KVCache
from sim.kv.swap import Swapped

if TYPE_CHECKING:
    from calibrate.executor import KernelExecutor

MakeKernels = Callable[[KVCache, int], "KernelExecutor"]
"""A replica's executor, by its cache and its number."""
_POOL_FORMATS = {"fp8": "fp8_e4m3"}
"""vLLM's dtypes of a KV cache that kernels call otherwise."""


def describe_kernels(deployment: Deployment, options: RealKernels) -> Executed:
    """What the clock of a run on real kernels measures. Raises ConfigError where it cannot be."""
    with explain_kernels():
        import torch

        from calibrate.runner_parts import find_device, find_kernels, name_device, say_clock

        shape, device = load_shape(deployment, options), find_device(options.device)
        return Executed(
            f"measured, {say_clock(device)}: {find_kernels(options.provider).name} kernels of"
            f" {shape.name} in {options.dtype} (random weights) on {name_device(device)},"
            f" torch {torch.__version__}"
        )


def kernel_executors(deployment: Deployment, options: RealKernels) -> MakeKernels:
    """What makes an executor for each replica; weights are shared.

    Raises ConfigError, now or when one is made: where torch, the provider or the device is
    missing, for what the kernels cannot do, and where weights and pools do not fit in memory.
    """
    with explain_kernels():
        from calibrate.executor import KernelExecutor
        from calibrate.runner import Runner
        from calibrate.runner_parts import (
            draw_llama,
            empty_pool,
            find_device,
            find_kernels,
            host_pool,
        )
        from calibrate.token_ids import TokenIds

        engine, replicas = deployment.config.engine, deployment.config.cluster.replicas
        assert engine.max_model_len is not None
        seed = deployment.config.seed if options.seed is None else options.seed
        kernels = find_kernels(options.provider)
        model = draw_llama(
            load_shape(deployment, options),
            dtype=options.dtype,
            device=find_device(options.device),
            positions=engine.max_model_len,
            seed=seed,
        )
    name = engine.kv_cache_dtype
    format = options.dtype if name == "auto" else _POOL_FORMATS.get(name, name)

    def make(kv: KVCache, replica: int) -> KernelExecutor:
        with explain_kernels():
            pool = empty_pool(
                model,
                format,
                blocks=kv.num_blocks,
                block_size=kv.block_size,
                replicas=replicas - replica,
            )
            host = None
            if isinstance(kv, Swapped):
                host = host_pool(pool, kv.host.num_blocks, replicas=replicas - replica)
            runner = Runner(
                model,
                pool,
                kernels,
                host=host,
                temperature=options.temperature,
                seed=seed + replica,
            )
        return KernelExecutor(runner, TokenIds(model.shape.vocab_size, seed=seed))

    return make


@contextmanager
def explain_kernels() -> Iterator[None]:
    """Raise as a ConfigError what kernels refuse, memory that runs out, and torch that is not
    there or does not load."""
    if reason := lacks_torch():
        raise ConfigError(f"executor.kind: kernels needs torch: {reason}")
    import torch

    from calibrate.kernels.errors import KernelError

    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise ConfigError(
            f"executor: out of memory ({reason}); allowed: fewer KV blocks"
            " (engine.num_gpu_blocks_override, engine.preemption.swap_space), or smaller steps"
            " (engine.max_num_batched_tokens)"
        ) from None
    except KernelError as error:
        raise ConfigError(f"executor: {error}") from None


def load_shape(deployment: Deployment, options: RealKernels) -> LlamaShape:
    """What kernels run. Raises ConfigError where there is no such model, or none of their kind."""
    name = options.model or deployment.config.model
    if name is None:
        raise ConfigError("executor.model: missing; allowed: tiny, or a model, here or as `model`")
    try:
        return read_model(name, LlamaShape.from_config)
    except ModelError as error:
        raise ConfigError(f"executor.model: {error}") from None
