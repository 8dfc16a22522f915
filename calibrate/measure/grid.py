"""The points to measure: operators at places on their axes, the most needed first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from calibrate.measure.limits import Limits

TOKENS = (
    *(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 65, 96, 128, 129, 160, 192, 256, 257),
    *(320, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192),
)
"""A kernel's tile ends at 64, 128, 256: the neighbour behind shows the step."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CONTEXTS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
CHUNKS = (16, 32, 64, 128, 256, 512, 1024, 1536, 2048, 4096, 8192)
BEFORE = (0, 128, 512, 2048, 8192, 32_768)
MIXED = ((64, 512, 2048), (0, 2048), (4, 32, 128), (256, 2048))
"""Tokens of a chunk, its context, decodes, the context of each."""
BLOCKS = (1, 4, 16, 64, 256, 1024)
HOST_OPERATORS = ("swap_out", "swap_in")
"""To and from the host's memory: launched copy by copy, as engines do."""
BLOCK_OPERATORS = ("block_copy", *HOST_OPERATORS)
SKEWED = (8, 32, 128)
SKEW = "skew"
"""Decodes of contexts spread evenly from 0 to twice the mean: no operator of a table, but what
its `skew` is made of."""
DEQUANTISE = "dequantise"
"""Blocks of a quantised cache as numbers again, one layer: recorded, not part of tables."""

ALL_OPERATORS = (
    *("linear", "head", "sampling"),
    *("attention_decode", "attention_prefill", "attention_mixed", SKEW, "kv_write"),
    *(*BLOCK_OPERATORS, DEQUANTISE),
)


class Point(NamedTuple):
    """Something to measure."""

    operator: str
    variant: str
    axes: tuple[tuple[str, int], ...]
    format: str | None = None
    """Of the KV cache, where the operator touches it."""

    @property
    def key(self) -> str:
        places = ",".join(f"{axis}={value}" for axis, value in self.axes)
        variant = None if self.variant == self.operator else self.variant
        return "/".join(filter(None, (self.operator, variant, self.format, places)))

    @property
    def place(self) -> dict[str, int]:
        return dict(self.axes)

    def covers(self, other: Point) -> bool:
        """Is it of the other's kind, and at least as large along every axis?"""
        return self._replace(axes=()) == other._replace(axes=()) and all(
            more >= less for (_, more), (_, less) in zip(self.axes, other.axes, strict=True)
        )


class Group(NamedTuple):
    """Points that are measured together or not at all: a line whose far end is missing would
    be drawn wrongly."""

    tier: int
    """0: always measured; then 1 and 2, as time allows."""
    points: tuple[Point, ...]


def make_grid(formats: Sequence[str], limits: Limits, *, dtype: str) -> list[Group]:
    """All groups, each operator's by itself; none is beyond the limits."""
    groups = [*_by_tokens(limits), *_by_rows(limits)]
    for format in formats:
        pool = limits.pool_tokens[format]
        groups += _decodes(format, limits, pool)
        groups += _chunks(format, limits, pool)
        groups += _mixed(format, limits, pool)
        groups += _skews(format, limits, pool)
        groups += _moves(format, limits, pool, quantised=format != dtype)
    return [group for group in groups if group.points]


def _by_tokens(limits: Limits) -> Iterator[Group]:
    for tokens in _up_to(TOKENS, limits.tokens):
        tier = _tier(tokens, limits.tokens)
        yield _single(tier, "linear", "layer", tokens=tokens)
        if tier < 2:
            yield _single(tier, "linear", "ends", tokens=tokens)


def _by_rows(limits: Limits) -> Iterator[Group]:
    for rows in _up_to(ROWS, limits.batch):
        tier = _tier(rows, limits.batch)
        yield _single(tier, "head", "head", rows=rows)
        yield _single(tier, "sampling", "greedy", rows=rows)


def _decodes(format: str, limits: Limits, pool: int) -> Iterator[Group]:
    for batch in _up_to(BATCHES, limits.batch):
        contexts = _up_to(CONTEXTS, min(limits.context, pool // batch))
        places = [{"batch": batch, "context": context} for context in contexts]
        yield _group(_tier(batch, limits.batch), "attention_decode", format, places)


def _chunks(format: str, limits: Limits, pool: int) -> Iterator[Group]:
    """Also behind contexts with which a chunk is longer than a sequence may be: what lies
    between it and a shorter one is drawn from both."""
    longest = min(limits.tokens, limits.context, pool)
    for chunk in _up_to(CHUNKS, longest):
        befores = [0, *_up_to(BEFORE[1:], min(limits.context, pool - chunk))]
        places = [{"chunk": chunk, "chunk_context": before} for before in befores]
        yield _group(_tier(chunk, longest), "attention_prefill", format, places)


def _mixed(format: str, limits: Limits, pool: int) -> Iterator[Group]:
    """One whole grid, whose ends are drawn in where the limits are narrow."""
    half = min(limits.context, pool) // 2
    chunks = _up_to(MIXED[0], min(half, limits.tokens // 2))
    befores = sorted({min(before, half) for before in MIXED[1]})
    batches = _up_to(MIXED[2], limits.batch)
    contexts = sorted({min(context, limits.context) for context in MIXED[3]})
    places = [
        {"chunk": chunk, "chunk_context": before, "batch": batch, "context": context}
        for chunk in chunks
        for before in befores
        for batch in batches
        for context in contexts
        if chunk + before + batch * context <= pool and chunk + batch <= limits.tokens
    ]
    yield _group(1, "attention_mixed", format, places)


def _skews(format: str, limits: Limits, pool: int) -> Iterator[Group]:
    means = [mean for mean in CONTEXTS if 2 * mean in CONTEXTS and 2 * mean <= limits.context]
    for batch in _up_to(SKEWED, limits.batch):
        fitting = [mean for mean in means if 2 * mean * batch <= pool][-2:]
        places = [{"batch": batch, "context": mean} for mean in fitting]
        yield _group(1, SKEW, format, places)


def _moves(format: str, limits: Limits, pool: int, *, quantised: bool) -> Iterator[Group]:
    most = min(limits.tokens, pool)
    for tokens in _up_to(TOKENS, most):
        if _tier(tokens, most) == 0:
            yield _group(0, "kv_write", format, [{"tokens": tokens}])
    operators = (*BLOCK_OPERATORS, *([DEQUANTISE] if quantised else ()))
    for operator in operators:
        for blocks in _up_to(BLOCKS, most_blocks(pool)):
            yield _group(1, operator, format, [{"blocks": blocks}])


def most_blocks(pool: int) -> int:
    """How many blocks are moved at once, of a pool of so many tokens."""
    return min(BLOCKS[-1], pool // 32)


def _up_to(nodes: Sequence[int], most: int) -> list[int]:
    """The nodes below a limit, and the limit itself where it lies among them."""
    below = [node for node in nodes if node < most]
    return [*below, most] if 0 < most <= nodes[-1] else below


def _tier(n: int, most: int) -> int:
    """0 for powers of 4 and the end, 1 for other powers of 2, 2 for the rest."""
    if n == most:
        return 0
    if n & (n - 1):
        return 2
    return (n.bit_length() - 1) % 2


def _single(tier: int, operator: str, variant: str, **axes: int) -> Group:
    return Group(tier, (Point(operator, variant, tuple(axes.items())),))


def _group(tier: int, operator: str, format: str, places: Sequence[dict[str, int]]) -> Group:
    points = (Point(operator, operator, tuple(place.items()), format) for place in places)
    return Group(tier, tuple(points))
