"""A measurement from what a user asked for: grid, bench, log, loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from calibrate.kernels.face import KernelError
from calibrate.kernels.pool import FORMATS, FP8, INT8, KVPool
from calibrate.llama_shape import LlamaShape
from calibrate.measure.bench import LAYERS_KEPT, Bench, Pools
from calibrate.measure.errors import MeasureError
from calibrate.measure.grid import ALL_OPERATORS, make_grid, most_blocks
from calibrate.measure.limits import Limits
from calibrate.measure.log import Log, say_cut
from calibrate.measure.loop import Loop, Watch
from calibrate.measure.machine import describe, find_device, free_bytes, read_clocks
from calibrate.measure.random_steps import draw_steps
from calibrate.measure.timers import make_timer
from calibrate.runner_parts import find_kernels

DTYPES = ("bfloat16", "float16", "float32")
_LONGEST_CONTEXT = 32_768
_FEWEST_TOKENS = 256
_MOST_ROWS = 8
"""Chunks beside the decodes of a step."""
_SAME = ("block_size", "max_tokens", "max_batch", "max_context", "steps", "seed")
STEPS = "steps"
"""What whole steps are called beside operators."""
_ALIASES = {"fp8": FP8, "int8": INT8}
PARTS = (*ALL_OPERATORS, STEPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure."""

    device: str = "cuda"
    provider: str | None = None
    """None: triton on CUDA, torch elsewhere."""
    dtype: str = "bfloat16"
    kv_cache_dtypes: tuple[str, ...] = ("auto",)
    budget_s: float = 240.0
    block_size: int = 16
    max_tokens: int = 8192
    max_batch: int = 256
    max_context: int = _LONGEST_CONTEXT
    pool_tokens: int | None = None
    """Of the KV cache in `dtype`; None: what the device's memory holds beside the weights."""
    steps: int = 200
    seed: int = 0
    only: tuple[str, ...] = ()
    """Operators, and "steps"; none: everything."""

    def check(self) -> None:
        """Raises MeasureError."""
        if self.dtype not in DTYPES:
            raise MeasureError(f"--dtype: found {self.dtype}; allowed: {', '.join(DTYPES)}")
        for name, least in (
            *(("block_size", 1), ("max_tokens", 2), ("max_batch", 1), ("max_context", 16)),
            *(("steps", 0), ("seed", 0)),
        ):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                found = getattr(self, name)
                raise MeasureError(f"--{option}: found {found}; allowed: {least} or more")
        for name in self.only:
            if name not in PARTS:
                raise MeasureError(f"--only: found {name}; allowed: {', '.join(PARTS)}")
        if self.budget_s <= 0:
            raise MeasureError(f"--budget: found {self.budget_s:g} s; allowed: above 0")

    def wants(self, part: str) -> bool:
        return not self.only or part in self.only

    def formats(self) -> tuple[str, ...]:
        """The KV formats by their full names, each once. Raises MeasureError."""
        known = {"auto": self.dtype, **_ALIASES, **{name: name for name in FORMATS}}
        for name in self.kv_cache_dtypes:
            if name not in known:
                allowed = ", ".join(known)
                raise MeasureError(f"--kv-cache-dtype: found {name}; allowed: {allowed}")
        return tuple(dict.fromkeys(known[name] for name in self.kv_cache_dtypes))


def measure(
    shape: LlamaShape,
    options: Options,
    out: Path,
    *,
    watch: Watch = lambda *_: None,
    announce: Callable[[str], None] = lambda _: None,
) -> None:
    """Measure, or go on with a measurement that was stopped, into `out`.

    Raises MeasureError for options that cannot be, KernelError for kernels that are not there.
    `announce` is told, in a line each, what will be measured and what was left out.
    """
    options.check()
    formats = options.formats()
    device = find_device(options.device)
    provider = options.provider or ("triton" if device.type == "cuda" else "torch")
    kernels = find_kernels(provider)
    timer = make_timer(device)
    free = free_bytes(device)
    machine = describe(device)
    same = {
        "model": asdict(shape),
        "device": machine["device"],
        "provider": provider,
        "kernels": machine["settings"]["kernel_hash"],
        "dtype": options.dtype,
        "formats": list(formats),
        **{name: getattr(options, name) for name in _SAME},
        **({"only": sorted(options.only)} if options.only else {}),
    }
    limits = make_limits(shape, options, formats, free)
    pools = _pools(shape, options, limits, free)
    header = {
        "same": same,
        "machine": machine,
        "limits": asdict(limits),
        "budget_s": options.budget_s,
    }
    log = Log(out, header)
    try:
        # One that goes on has the pool of the one before: what memory is free may differ.
        if log.header["limits"] != header["limits"]:
            limits = Limits(**log.header["limits"])
            pools = _pools(shape, options, limits, free)
        bench = Bench(
            shape,
            kernels,
            timer,
            device=device,
            dtype=options.dtype,
            pools=pools,
            positions=limits.context + 1,
            seed=options.seed,
        )
        groups = make_grid(formats, limits, dtype=options.dtype)
        groups = [group for group in groups if options.wants(group.points[0].operator)]
        points = sum(len(group.points) for group in groups)
        count = options.steps if options.wants(STEPS) else 0
        announce(f"{points} points and {count} whole steps of {shape.name}, {provider}")
        loop = Loop(
            bench=bench,
            log=log,
            groups=groups,
            steps=draw_steps(count, formats=formats, limits=limits, seed=options.seed),
            budget_s=options.budget_s,
            seed=options.seed,
            refusals=(MemoryError, KernelError, MeasureError),
            watch=watch,
            clocks=partial(read_clocks, device),
        )
        loop.run()
    except MemoryError as error:
        raise MeasureError(
            f"the weights of {min(shape.layers, LAYERS_KEPT)} layers of {shape.name}, its embedding"
            f" and head do not fit: {error}"
        ) from None
    finally:
        log.close()
    announce(say_cut(log.cut))


def make_limits(shape: LlamaShape, options: Options, formats: tuple[str, ...], free: int) -> Limits:
    """The grid's ends. Raises MeasureError where the weights leave no room for a cache."""
    weights = shape.parameters * FORMATS[options.dtype].itemsize
    if options.pool_tokens is not None:
        pool = options.pool_tokens * _token_bytes(shape, options.dtype)
    else:
        pool = free - weights
    tokens = {format: pool // _token_bytes(shape, format) for format in formats}
    if min(tokens.values()) < _FEWEST_TOKENS:
        raise MeasureError(
            f"the weights of {shape.name} take {weights / 2**30:.2f} GiB of {free / 2**30:.2f} GiB:"
            f" found room for a KV cache of {max(0, min(tokens.values())):,} tokens; allowed:"
            f" {_FEWEST_TOKENS} or more (--pool-tokens; no more than a few layers are kept here)"
        )
    return Limits(
        tokens=options.max_tokens,
        batch=options.max_batch,
        context=min(options.max_context, shape.max_positions),
        pool_tokens=tokens,
    )


def _pools(shape: LlamaShape, options: Options, limits: Limits, free: int) -> Pools:
    """As large as the largest point needs. Raises MeasureError where they do not fit."""
    most = limits.batch * limits.context + limits.tokens
    # Every row ends in a block of its own.
    slack = (limits.batch + _MOST_ROWS) * options.block_size
    tokens = {
        format: max(min(pool, most), most_blocks(pool) * options.block_size) + slack
        for format, pool in limits.pool_tokens.items()
    }
    kept = min(shape.layers, LAYERS_KEPT) / shape.layers
    needed = sum(kept * count * _token_bytes(shape, format) for format, count in tokens.items())
    if needed > free:
        raise MeasureError(
            f"KV pools of {needed / 2**30:.2f} GiB in {free / 2**30:.2f} GiB; allowed: fewer"
            " --pool-tokens, a smaller --max-batch or --max-context, or fewer KV dtypes"
        )
    return Pools(tokens=tokens, block_size=options.block_size)


def _token_bytes(shape: LlamaShape, format: str) -> int:
    """K and V of one token in all layers."""
    pool = KVPool.empty(
        format,
        layers=shape.layers,
        blocks=1,
        block_size=1,
        kv_heads=shape.kv_heads,
        head_size=shape.head_size,
        device="meta",
    )
    return pool.bytes_per_token
