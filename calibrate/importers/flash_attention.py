"""What FlashAttention-2 does that a table of its times does not say (Dao-AILab/flash-attention 2.x,
csrc/flash_attn; vLLM's attention on GPUs other than Hopper and data-centre Blackwell)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

from calibrate.curves import Line
from calibrate.device import DeviceError, load_device
from calibrate.skew import SPLIT_BELOW

QUERY_BLOCK = 64
"""Queries of one head that its kernel for a paged cache computes at a time (kBlockM in
flash_api.cpp). In a call with chunks a decode's single query takes a whole block, for every head;
by themselves decodes take the queries of a KV head's group together."""

_KEY_BLOCK = 128
"""Keys that a block of queries goes through at a time, for a head size of 128."""
_EMPTY_NS = 350.0
"""What a block without queries keeps a multiprocessor: as every sequence of a call gets as many
blocks as its longest chunk, a decode's are empty but for one. Not fitted to any run: LLMServingSim
measured 1.8 to 1.9 ns for each on the 188 multiprocessors of an RTX PRO 6000, 32 to 128 decodes of
16 tokens beside chunks of 512 to 2,048 with 32 heads; 1.6 to 1.8 with 16."""

_OTHER_KERNELS = ("H100", "H200", "B200")


def find_at_once(gpu: str, kv_heads: int) -> float | None:
    """How many sequences it has room for at once: two blocks on each multiprocessor, one for each
    KV head of a sequence (as its `num_splits_heuristic` counts). None for an unknown GPU, and for
    those on which vLLM takes other kernels."""
    try:
        device = load_device(gpu)
    except DeviceError:
        return None
    return None if device.name in _OTHER_KERNELS else 2 * device.multiprocessors / kv_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Its blocks on one GPU, each on a multiprocessor of its own: queries, keys and values of one
    take 80 KB of shared memory (74 to 98 for other head sizes than 128), of 100 KB on GPUs of
    compute capability 8.6, 8.9 and 12.0."""

    room: int
    """Multiprocessors."""
    heads: int
    kv_heads: int
    cached_tokens: float
    """Whose keys and values of one KV head fill L2."""
    token_ns: float
    """One block's time for each key, as in prompts: its keys are in L2."""
    least_ns: float
    """A call of one block."""
    begin: Line
    """What so many sequences of one block each take beyond that."""

    def chunk_ns(self, chunk: int, before: int, *, prompt_ns: float) -> float:
        """A chunk behind a context, if as much without one takes `prompt_ns`: each of its blocks
        attends to the context as well, as many at a time as there is room for."""
        waves = ceil(ceil(chunk / QUERY_BLOCK) * self.heads / self.room)
        return prompt_ns + waves * self.token_ns * before

    def mixed_ns(
        self, chunk: int, decodes: int, context: int, *, chunk_ns: float, read_ns: float
    ) -> float:
        """One call for a chunk and decodes of equal context.

        `chunk_ns`: the chunk by itself; `read_ns`: the decodes' keys and values, once from memory.
        The heads of a group attend to the same keys one after another, as far as there is no room
        for all: those that come first wait for memory, the others find them in L2, unless other
        sequences' have passed through it since, as half have where all just fill it. Either only
        the former wait, or blocks of both share the multiprocessors so well that memory is read
        all the while: the geometric mean of the two is taken. The last blocks leave others idle
        for half of their time.
        """
        group, blocks = self.heads / self.kv_heads, decodes * self.heads
        chunk_blocks = ceil(chunk / QUERY_BLOCK)
        empty_ns = blocks * (chunk_blocks - 1) * _EMPTY_NS / self.room
        further = max(0.0, context - _KEY_BLOCK / 2)  # on average, behind the first block of keys
        attend_ns = self.token_ns * blocks / self.room * further
        lost = min(max(decodes * context / self.cached_tokens - 0.5, 0.0), 1.0)
        read_ns *= 1 + (group - 1) * min(1.0, decodes / self.room) * lost
        first = min(max(self.room / (decodes * group), 1 / group), 1.0)
        shared_ns = max(attend_ns, read_ns)
        apart_ns = max(first * attend_ns, read_ns) + (1 - first) * attend_ns
        own_ns = self.token_ns * context
        last_ns = own_ns / 2 if blocks + chunk_blocks * self.heads > self.room else 0.0
        whole_ns = chunk_ns + self.begin.at(decodes) + empty_ns + sqrt(shared_ns * apart_ns)
        return max(whole_ns + last_ns, self.least_ns + own_ns)

    @property
    def skew(self) -> dict[str, tuple[tuple[int, float], ...]]:
        """A table's: in calls with chunks the longest runs on alone, a block for each head."""
        return {"mixed": ((1, self.token_ns),)}

    @property
    def tail(self) -> dict[str, float]:
        """A table's, of decodes alone, which take a block for each KV head. Whether to split them
        is decided as if there were room for two on each multiprocessor."""
        at_once = self.room / self.kv_heads
        return {
            "at_once": at_once,
            "token_ns": self.token_ns,
            "whole_from": SPLIT_BELOW * 2 * at_once,
        }
