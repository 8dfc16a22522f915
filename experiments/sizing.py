"""How much context fits where: the memory plan of a run, read as a capacity planner reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from calibrate.device import Device, load_device
from calibrate.memory import DoesNotFit, MemoryPlan
from calibrate.model import Model, load_model
from calibrate.stages import divide_layers
from experiments.config import parse_config
from experiments.deployment import resolve
from experiments.engine_config import Engine
from experiments.errors import ConfigError
from sim.kv.spec import KVSpec

COMPARED_DTYPES = ("auto", "fp8", "int8_per_token_head")
CONTEXTS = tuple(1024 << doubling for doubling in range(8))
"""1k to 128k tokens."""
_PARALLELISMS = tuple(1 << doubling for doubling in range(1, 7))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The blocks that sequences share out; the first ones hold a prefix common to all."""

    blocks: int
    """Without the null block."""
    block_size: int
    prefix_tokens: int = 0
    """Tokens all sequences begin with; 0 without prefix caching."""

    @property
    def shared_blocks(self) -> int:
        """Whole blocks of the common prefix, counted once; a partial one is everyone's own."""
        return self.prefix_tokens // self.block_size

    def own_blocks(self, context: int) -> int:
        """What one sequence of `context` tokens takes beside the shared blocks."""
        return -(-context // self.block_size) - self.shared_blocks

    def blocks_of(self, sequences: int, context: int) -> int:
        return self.shared_blocks + sequences * self.own_blocks(context)

    def sequences(self, context: int) -> int | None:
        """How many of `context` tokens fit at once; None for fewer tokens than the prefix has."""
        if context <= self.prefix_tokens:
            return None
        return max(0, self.blocks - self.shared_blocks) // self.own_blocks(context)

    def longest_context(self, sequences: int) -> int:
        """How long each of so many sequences may be, in tokens; 0 where not all find a place."""
        own = max(0, self.blocks - self.shared_blocks) // sequences
        return (self.shared_blocks + own) * self.block_size if own else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A deployment under one KV cache dtype."""

    kv_cache_dtype: str
    """As a run would resolve it."""
    spec: KVSpec
    plan: MemoryPlan | None = None
    """None where the model's weights are not counted; so are the pool and the seats."""
    pool: Pool | None = None
    seats: int | None = None
    """max_num_seqs of the run; None also where there is no run to be had."""
    too_large: bool = False
    """The model leaves no room for a cache: a run would be refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """What fits: one size for the dtype that was asked for, and those it is compared with."""

    model: Model
    device: Device
    engine: Engine
    """As it was given: null where a run derives it."""
    asked: Size
    sizes: tuple[Size, ...]
    """All of them, the one asked for among them."""
    missing: tuple[str, ...]
    """Dtypes that do not exist for this model."""
    enough_gpus: int | None
    """The smallest power of two of them that holds a model that does not fit, if up to 64 do."""

    def fits(self, *, context: int, users: int) -> bool:
        """Whether so many sequences find room, as far as one can tell."""
        pool = self.asked.pool
        return pool is None or pool.blocks_of(users, context) <= pool.blocks


def size_deployment(
    *,
    model: str,
    device: str,
    engine: dict[str, object],
    context: int = 1,
    prefix_tokens: int = 0,
) -> Sizing:
    """Plan the memory of one replica as a run of the same options does, for several KV dtypes.

    Raises ConfigError, ModelError and DeviceError for what a run would refuse, and for a context
    beyond the model's or within the prefix; a model that does not fit is no error but an answer.
    """
    loaded, found = load_model(model), load_device(device)
    if context > loaded.max_position_embeddings:
        most = loaded.max_position_embeddings
        raise ConfigError(f"context: found {context}; allowed: up to the model's {most}")
    if prefix_tokens >= context:
        raise ConfigError(
            f"shared-prefix: found {prefix_tokens}; allowed: less than the context ({context})"
        )
    given = parse_config(_values(model, device, engine)).engine
    asked = given.kv_cache_dtype
    exists = [dtype for dtype in dict.fromkeys((*COMPARED_DTYPES, asked)) if _exists(loaded, dtype)]
    if asked not in exists:
        # Say why, in the words of the one who knows.
        _spec(loaded, asked, given)
    sizes = {
        dtype: _size(loaded, model, device, engine | {"kv_cache_dtype": dtype}, prefix_tokens)
        for dtype in exists
    }
    return Sizing(
        model=loaded,
        device=found,
        engine=given,
        asked=sizes[asked],
        sizes=tuple(sizes.values()),
        missing=tuple(dtype for dtype in COMPARED_DTYPES if dtype not in exists),
        enough_gpus=_count_gpus(model, device, engine) if sizes[asked].too_large else None,
    )


def _values(model: str, device: str, engine: dict[str, object]) -> dict[str, object]:
    """A config of this deployment; requests and clock play no part in its memory."""
    return {"model": model, "device": device, "engine": engine, "trace": {"kind": "chat"}}


def _count_gpus(model: str, device: str, engine: dict[str, object]) -> int | None:
    for gpus in _PARALLELISMS:
        config = parse_config(_values(model, device, engine | {"tensor_parallel_size": gpus}))
        try:
            resolve(config)
        except (DoesNotFit, ConfigError):
            continue
        return gpus
    return None


def _exists(model: Model, dtype: str) -> bool:
    try:
        model.kv_spec(dtype)
    except ValueError:
        return False
    return True


def _spec(model: Model, dtype: str, engine: Engine) -> KVSpec:
    """Of a GPU of the stage with the most layers."""
    stages = engine.pipeline_parallel_size
    try:
        layers = max(stage.layers for stage in divide_layers(model.layers, stages))
        spec = model.kv_spec(dtype, tensor_parallel_size=engine.tensor_parallel_size)
        return replace(spec, layers=layers)
    except ValueError as error:
        raise ConfigError(f"engine: {error}") from None


def _size(
    model: Model, name: str, device: str, engine: dict[str, object], prefix_tokens: int
) -> Size:
    config = parse_config(_values(name, device, engine))
    asked = config.engine
    size = Size(kv_cache_dtype=asked.kv_cache_dtype, spec=_spec(model, asked.kv_cache_dtype, asked))
    given = asked.memory.weights_bytes, asked.memory.activation_bytes
    if not model.counted and None in given:
        return size
    shared = prefix_tokens if asked.enable_prefix_caching is not False else 0
    pool = Pool(blocks=0, block_size=asked.block_size, prefix_tokens=shared)
    try:
        deployment = resolve(config)
    except DoesNotFit as error:
        if error.plan is None:
            raise
        return replace(size, plan=error.plan, pool=pool, too_large=True)
    return replace(
        size,
        plan=deployment.memory,
        pool=replace(pool, blocks=deployment.num_gpu_blocks - 1),
        seats=deployment.config.engine.max_num_seqs,
    )


def list_contexts(asked: int, *, most: int) -> Iterator[int]:
    """The usual context lengths and the one asked for, up to the model's longest."""
    for context in sorted({*CONTEXTS, asked, most}):
        if context <= most:
            yield context
