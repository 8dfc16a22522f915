"""From a point of the grid to calls of real kernels on data that no cache holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibrate.kernels.face import Attend, Kernels
from calibrate.kernels.pool import INT8, KVPool
from calibrate.kernels.rows import Rows
from calibrate.llama import Llama
from calibrate.llama_shape import LlamaShape
from calibrate.llama_step import Decoder, cache_of, dense_of, prepare
from calibrate.measure.errors import MeasureError
from calibrate.measure.grid import DEQUANTISE, HOST_OPERATORS, SKEW, Point
from calibrate.measure.random_steps import RandomStep
from calibrate.measure.refusals import kernel_errors, memory_errors
from calibrate.measure.timers import Call, Reading, Timer

LAYERS_KEPT = 4
"""Of weights and KV: in turn, so that none is in a cache when its turn comes."""
_MOST_CALLS = 8
_TIMES_CACHE = 2
_DEEP_BLOCKS = 2

Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """How large KV pools are made."""

    tokens: dict[str, int]
    """By format, of the pool that attention reads."""
    block_size: int


class Bench:
    """Everything that is measured, on one device. Pools are made when first asked for."""

    def __init__(
        self,
        shape: LlamaShape,
        kernels: Kernels,
        timer: Timer,
        *,
        device: torch.device,
        dtype: str,
        pools: Pools,
        positions: int,
        seed: int,
    ) -> None:
        """`positions`: of the longest sequence. Raises KernelError where kernels lack a
        part, MemoryError where the weights do not fit."""
        self.dense, self.cache = dense_of(kernels), cache_of(kernels)
        self.shape, self.kernels, self.timer = shape, kernels, timer
        self.device, self.dtype = device, getattr(torch, dtype)
        self.pools, self._seed = pools, seed
        # Not torch's own, which a failed capture of a graph leaves of no use.
        self._random = torch.Generator(device).manual_seed(seed)
        self.kept = min(shape.layers, LAYERS_KEPT)
        with memory_errors():
            self.model = Llama(
                shape,
                dtype=self.dtype,
                device=device,
                positions=positions,
                seed=seed,
                kept=self.kept,
            )
        self.decoder = Decoder(self.model, self.dense)
        self._shallow: dict[str, KVPool] = {}
        self._deep: KVPool | None = None
        self._hosts: KVPool | None = None

    def read(self, point: Point) -> Reading:
        """Measure one point. Raises KernelError, and MemoryError where memory runs out."""
        with kernel_errors(self.device), torch.inference_mode():
            graphs = point.operator not in HOST_OPERATORS
            return self.timer.read(self._calls(point), graphs=graphs)

    def read_step(self, step: RandomStep) -> Reading:
        """Measure a whole step, embedding to sampled tokens: in a graph, and launched kernel by
        kernel. Raises as `read` does."""
        with kernel_errors(self.device), torch.inference_mode():
            pool = self._pool(step.format)
            rows = self._rows(step.spans, pool, turn=0)
            logits = prepare(
                self.model,
                rows,
                ids=self._ids(rows.tokens),
                wanted=rows.last_tokens,
                pool=pool,
                kernels=self.kernels,
            )
            tokens = torch.empty(len(step.spans), dtype=torch.int64, device=self.device)

            def run() -> None:
                self.dense.greedy(logits(), tokens)

            reading = self.timer.read([run])
            eager_ns, launch_ns = self.timer.read_eager(run) or (None, None)
            return reading._replace(eager_ns=eager_ns, launch_ns=launch_ns)

    def release(self) -> None:
        """Give up pools, after memory has run out: they are made again when asked for."""
        self._shallow.clear()
        self._deep = self._hosts = None
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def _calls(self, point: Point) -> list[Call]:
        place, format = point.place, point.format
        match point.operator:
            case "linear":
                return self._dense_calls(point.variant, place["tokens"])
            case "head":
                x = self._numbers(place["rows"], self.shape.hidden_size)
                return [lambda: self.decoder.head(x)]
            case "sampling":
                logits = self._numbers(place["rows"], self.shape.vocab_size)
                tokens = torch.empty(place["rows"], dtype=torch.int64, device=self.device)
                return [lambda: self.dense.greedy(logits, tokens)]
        assert format is not None
        if point.operator == "kv_write":
            return self._writes(format, place["tokens"])
        if point.operator.startswith("attention") or point.operator == SKEW:
            return self._attention(format, spans_of(point))
        return self._moves(point.operator, format, place["blocks"])

    def _dense_calls(self, variant: str, tokens: int) -> list[Call]:
        x = self._numbers(tokens, self.shape.hidden_size)
        residual = torch.zeros_like(x)
        if variant == "ends":
            ids, embed, norm = self._ids(tokens), self.decoder.embed, self.decoder.last_norm
            return [lambda: norm(embed(ids), residual.zero_())]
        positions = torch.arange(tokens, device=self.device) % len(self.model.angles)
        attended = self._numbers(tokens, self.shape.heads, self.shape.head_size)

        def skip(*_: object) -> Tensor:
            return attended

        def call(index: int) -> Call:
            return lambda: self.decoder.layer(index, x, residual, positions, skip)

        return [call(index) for index in range(self.kept)]

    def _attention(self, format: str, spans: Spans) -> list[Call]:
        pool = self._pool(format)
        tokens = sum(n for _, n in spans)
        query = self._numbers(tokens, self.shape.heads, self.shape.head_size)
        out = torch.empty_like(query)
        footprint = sum(sum(span) for span in spans) * pool.bytes_per_token // pool.layers
        prepared: list[Attend] = []
        calls: list[Call] = []
        for turn in range(self._turns(footprint, pool.layers)):
            rows = self._rows(spans, pool, turn=turn)
            prepared.append(self.kernels.attention(rows, pool, heads=self.shape.heads))
        for turn in range(max(len(prepared), pool.layers)):
            attend, layer = prepared[turn % len(prepared)], turn % pool.layers
            calls.append(_bind(attend, query, layer, out))
        return calls

    def _writes(self, format: str, tokens: int) -> list[Call]:
        pool = self._pool(format)
        size = (tokens, self.shape.kv_heads, self.shape.head_size)
        key, value = self._numbers(*size), self._numbers(*size)
        slots = self._rows([(0, tokens)], pool, turn=0).slots(pool.block_size)
        return [
            _bind(self.cache.write, key, value, pool, layer, slots) for layer in range(pool.layers)
        ]

    def _moves(self, operator: str, format: str, blocks: int) -> list[Call]:
        if operator == DEQUANTISE:
            pool = self._pool(format)
            size = (blocks, pool.block_size, pool.kv_heads, pool.head_size)
            keys, values = (torch.empty(size, dtype=self.dtype, device=self.device) for _ in "kv")
            of = torch.from_numpy(self._order(pool)[:blocks].copy()).to(self.device)
            return [
                _bind(self.cache.dequantise, pool, layer, of, keys, values)
                for layer in range(pool.layers)
            ]
        pool, host = self._whole(format, blocks)
        order = self._order(pool)
        if operator == "block_copy":
            pairs = _pairs(order[:blocks], order[blocks : 2 * blocks]).to(self.device)
            return [_bind(self.cache.copy, pool, pairs)]
        near, far = order[:blocks], np.arange(blocks)
        if operator == "swap_out":
            return [_bind(self.cache.swap_out, pool, host, _pairs(near, far))]
        return [_bind(self.cache.swap_in, host, pool, _pairs(far, near))]

    def _ids(self, tokens: int) -> Tensor:
        random = torch.Generator().manual_seed(self._seed)
        return torch.randint(self.shape.vocab_size, (tokens,), generator=random).to(self.device)

    def _turns(self, footprint: int, layers: int) -> int:
        """How many places of the pool to read in turn, so that the last cache holds no more than
        a part of them."""
        wanted = -(-_TIMES_CACHE * self.timer.cache_bytes // max(1, footprint))
        return max(1, min(_MOST_CALLS * layers, wanted))

    def _rows(self, spans: Spans, pool: KVPool, *, turn: int) -> Rows:
        """Rows in blocks of the pool that lie anywhere, others in every turn as far as it has
        others."""
        size = pool.block_size
        order = self._order(pool)
        needed = [-(-sum(span) // size) for span in spans]
        start = turn * sum(needed) % pool.blocks
        ids = np.roll(order, -start)
        ends = np.cumsum([0, *needed])
        if ends[-1] > pool.blocks:
            raise MeasureError(f"{ends[-1]} blocks wanted of a pool of {pool.blocks}")
        tables = [ids[ends[row] : ends[row + 1]].tolist() for row in range(len(spans))]
        return Rows.of(list(spans), tables, block_size=size, device=self.device)

    def _numbers(self, *sizes: int) -> Tensor:
        """Activations."""
        return torch.randn(sizes, device=self.device, generator=self._random).to(self.dtype)

    def _order(self, pool: KVPool) -> NDArray[np.int64]:
        return np.random.default_rng(self._seed).permutation(pool.blocks)

    def _pool(self, format: str) -> KVPool:
        if format not in self._shallow:
            blocks = -(-self.pools.tokens[format] // self.pools.block_size)
            self._shallow[format] = self._filled(format, layers=self.kept, blocks=blocks)
        return self._shallow[format]

    def _whole(self, format: str, blocks: int) -> tuple[KVPool, KVPool]:
        """A pool of all layers and one on the host, for what moves whole blocks; only the
        latest is kept."""
        pool, host = self._deep, self._hosts
        if pool is None or host is None or pool.format != format or host.blocks < blocks:
            self._deep = self._hosts = pool = host = None
            pool = self._filled(format, layers=self.shape.layers, blocks=_DEEP_BLOCKS * blocks)
            host = pool.on_host(blocks)
            self._deep, self._hosts = pool, host
        return pool, host

    def _filled(self, format: str, *, layers: int, blocks: int) -> KVPool:
        """Of numbers like a model's: what memory held may be NaN, or slow to compute with."""
        pool = KVPool.empty(
            format,
            layers=layers,
            blocks=blocks,
            block_size=self.pools.block_size,
            kv_heads=self.shape.kv_heads,
            head_size=self.shape.head_size,
            device=self.device,
        )
        for tensor in pool.tensors:
            for layer in tensor:
                if tensor.dtype == torch.float32 and format == INT8:
                    layer.fill_(0.01)
                elif tensor.dtype == torch.int8:
                    layer.random_(-100, 101, generator=self._random)
                else:
                    _fill(layer, self._random)
        return pool


def spans_of(point: Point) -> list[tuple[int, int]]:
    """The rows of an attention call: decodes first, then the chunk."""
    place = point.place
    batch, context = place.get("batch", 0), place.get("context", 0)
    if point.operator == SKEW:
        steps = [round(2 * context * (row + 0.5) / batch) for row in range(batch)]
        return [(max(1, length) - 1, 1) for length in steps]
    spans = [(context - 1, 1)] * batch
    if "chunk" in place:
        spans.append((place["chunk_context"], place["chunk"]))
    return spans


def _fill(tensor: Tensor, random: torch.Generator) -> None:
    """With a normal distribution, some blocks at a time: it is drawn in 32 bits."""
    for part in torch.split(tensor, 4096):
        part.copy_(torch.randn(part.shape, device=part.device, generator=random))


def _pairs(sources: NDArray[np.int64], targets: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.stack([sources, targets], axis=1))


def _bind(function: Callable[..., object], *args: object) -> Call:
    return lambda: function(*args)
