"""Steps of a model on real kernels, timed: plain data in, tokens and nanoseconds out.

Needs the standard library, numpy and torch only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from calibrate.collector import uncollected
from calibrate.kernels.face import Kernels
from calibrate.kernels.pool import KVPool
from calibrate.kernels.rows import Rows
from calibrate.llama import Llama
from calibrate.llama_step import cache_of, dense_of, prepare

Pair = tuple[int, int]


class Row(NamedTuple):
    """Tokens of one sequence that a step computes, behind those it has computed before."""

    ids: Sequence[int]
    before: int
    blocks: Sequence[int]
    """Its block table, the new tokens' blocks included."""
    gives: bool
    """Does it give a token: are these the last tokens that the sequence has?"""


class HostCopy(NamedTuple):
    """Blocks to copy to the host, or back."""

    out: bool
    pairs: Sequence[Pair]
    """(from, to)."""


class Step(NamedTuple):
    rows: Sequence[Row]
    copies: Sequence[Pair] = ()
    """(from, to) of blocks, to be copied before anything is computed, in this order, and after"""
    swaps: Sequence[HostCopy] = ()
    """these, in this order."""


class Ran(NamedTuple):
    """What became of a step."""

    duration_ns: int
    tokens: list[int]
    """Of the rows that give one, in their order; so are"""
    logits: Tensor
    """[rows, vocabulary]."""


class Runner:
    """A model, its KV pool, and the clock beside them.

    A step's time begins with plain lists and ends with its tokens in plain lists again: swaps,
    copies, the tensors that describe its rows, the model, the sampler. On CUDA it is wall time
    between two synchronisations. On a CPU it is the CPU time of this thread, which neighbours
    disturb less, and a progress bar in another thread not at all; torch is held to one thread (in
    the whole process), so that it is all there is.
    """

    def __init__(
        self,
        model: Llama,
        pool: KVPool,
        kernels: Kernels,
        *,
        host: KVPool | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        """`host` is a pool to swap to, made by `pool.on_host`; `temperature` 0 is greedy. Raises
        KernelError where the kernels cannot do it."""
        self.model = model
        self.pool = pool
        self.host = host
        self.kernels = kernels
        self.temperature = temperature
        self._random = torch.Generator(model.device).manual_seed(seed)
        self._read_ns = make_clock(model.device)
        for each in (pool, host):
            if each is not None:
                _touch(each)
        self._warm_up()

    @uncollected()
    @torch.inference_mode()
    def run(self, step: Step) -> Ran:
        """Run a step, or the swaps of one without rows; every row has at least one token."""
        device = self.model.device
        start_ns = self._read_ns()
        for swap in step.swaps:
            self._swap(swap)
        if not step.rows:
            no_logits = torch.empty(0, self.model.shape.vocab_size, device=device)
            return Ran(self._read_ns() - start_ns, [], no_logits)
        for pairs in at_once(step.copies):
            cache_of(self.kernels).copy(self.pool, torch.tensor(pairs, device=device))
        rows = Rows.of(
            [(row.before, len(row.ids)) for row in step.rows],
            [row.blocks for row in step.rows],
            block_size=self.pool.block_size,
            device=device,
        )
        ids = [token for row in step.rows for token in row.ids]
        ends = accumulate(len(row.ids) for row in step.rows)
        wanted = [end - 1 for row, end in zip(step.rows, ends, strict=True) if row.gives]
        logits = prepare(
            self.model,
            rows,
            ids=torch.tensor(ids, device=device),
            wanted=torch.tensor(wanted, dtype=torch.int64, device=device),
            pool=self.pool,
            kernels=self.kernels,
        )()
        tokens = self.sample(logits).tolist()
        return Ran(self._read_ns() - start_ns, tokens, logits)

    def _swap(self, swap: HostCopy) -> None:
        assert self.host is not None, "there is no host pool to swap to"
        cache, pairs = cache_of(self.kernels), torch.tensor(swap.pairs)
        if swap.out:
            cache.swap_out(self.pool, self.host, pairs)
        else:
            cache.swap_in(self.host, self.pool, pairs)

    @torch.inference_mode()
    def sample(self, logits: Tensor) -> Tensor:
        """int64 [rows]: a token for each row of logits."""
        tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
        dense = dense_of(self.kernels)
        if not len(logits):
            return tokens
        if self.temperature:
            dense.sample(logits, self.temperature, self._random, tokens)
        else:
            dense.greedy(logits, tokens)
        return tokens

    def _warm_up(self) -> None:
        """A chunk and decodes in block 0, which holds nothing yet: what is loaded or compiled at
        first use is no part of any step, and what cannot be run at all is known at once."""
        if self.kernels.compile is not None:
            self.kernels.compile(self.pool, self.model.shape.heads, self.model.dtype)
        chunk = [0] * min(self.pool.block_size, len(self.model.angles))
        for ids, before in ((chunk, 0), (chunk[:1], 0), (chunk[:1], len(chunk) - 1)):
            self.run(Step([Row(ids, before, [0], gives=True)]))


def make_clock(device: torch.device) -> Callable[[], int]:
    """Nanoseconds, once everything that was asked of the device is done."""
    if device.type != "cuda":
        torch.set_num_threads(1)
        return time.thread_time_ns

    def read_ns() -> int:
        torch.cuda.synchronize(device)
        return time.perf_counter_ns()

    return read_ns


def at_once(copies: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Copies in their order, in groups that may be made at once: in none of them is a block
    both read and written, or written twice."""
    group: list[Pair] = []
    read: set[int] = set()
    written: set[int] = set()
    for source, target in copies:
        if source in written or target in written or target in read:
            yield group
            group, read, written = [], set(), set()
        group.append((source, target))
        read.add(source)
        written.add(target)
    if group:
        yield group


def _touch(pool: KVPool) -> None:
    """Write the pool once, so that no step pays for pages that memory gets when first written,
    and so that what nobody computed is 0."""
    for tensor in pool.tensors:
        tensor.view(torch.uint8).zero_()
