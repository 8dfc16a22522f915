"""What a trace is like: how bursty, how long, how much of it repeats. One pass.

Kept are four numbers per request (percentiles are exact), the names of sessions and tenants,
and the tree of `traces.sharing`; never the requests themselves.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.request import Request
from traces.ranges import check_least
from traces.schema import Trace
from traces.sharing import SeenPrefixes, whole_blocks

Int64 = NDArray[np.int64]

NS_PER_S = 10**9
BINS_S = (1, 10, 60)
"""Widths of the bins whose counts are compared, in seconds."""

_LEAST_GAPS = 20
"""Fewer distinct gaps tell nothing of a grid."""
_GRID_TOLERANCE = 0.02
_GRID_SHARE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What one pass over a trace keeps: arrays of one entry per request, in their order."""

    arrival_ns: Int64
    prompt_tokens: Int64
    output_tokens: Int64
    seen_tokens: Int64
    """Leading tokens of the prompt that came before, in a cache without end."""
    turns: Counter[str]
    """Requests by session; those without one are left out."""
    tenants: Counter[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A quantity over the requests, in tokens. Percentiles interpolate linearly."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """When requests come. None: there are too few arrivals to say, or all are at one instant."""

    span_s: float
    requests_per_s: float | None
    """Requests over the span from the first to the last."""
    cv_of_gaps: float | None
    """Standard deviation over mean of the gaps; 1 for a Poisson process."""
    dispersion: dict[int, float | None]
    """Variance over mean of the counts in whole bins, by bin width in s; 1 for Poisson."""
    distinct: int
    """Different arrival times,"""
    most_at_once: int
    """and how many requests share the most frequent one."""
    resolution_ns: int | None
    """The largest unit of which all gaps are multiples."""
    grid_ns: int | None
    """The step of a coarse grid on which nearly all arrival times lie, where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Prompt tokens that an endless cache, filled on arrival, would not have to compute."""

    seen_share: float
    """Tokens in the leading run of tokens seen before, of all prompt tokens."""
    block_size: int
    whole_blocks_share: float
    """The same in whole blocks, and leaving one token of each prompt to compute."""
    fully_seen: int
    """Requests all of whose prompt was seen before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Conversations of several requests."""

    sessions: int
    requests: int
    turns_mean: float
    turns_max: int
    of_one_turn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A trace in numbers; `dataclasses.asdict` of it is its JSON."""

    name: str
    requests: int
    shifted_by: str | None
    notes: dict[str, int]
    arrivals: Arrivals
    prompt_tokens: Spread
    output_tokens: Spread
    sharing: Sharing | None
    """None where no prompt repeats a token: nothing is shared, or the content is not told."""
    sessions: Sessions | None
    tenants: dict[str, int]
    """Requests by tenant, the busiest first."""


def read_columns(trace: Iterable[Request]) -> Columns:
    """Read a trace once. Raises what iterating it raises."""
    arrival_ns, prompt_tokens, output_tokens, seen_tokens = (array("q") for _ in range(4))
    turns: Counter[str] = Counter()
    tenants: Counter[str] = Counter()
    seen = SeenPrefixes()
    for request in trace:
        arrival_ns.append(request.arrival_ns)
        prompt_tokens.append(request.prompt_tokens)
        output_tokens.append(request.output_tokens)
        seen_tokens.append(seen.arrive(request))
        if request.session is not None:
            turns[request.session] += 1
        if request.tenant is not None:
            tenants[request.tenant] += 1
    return Columns(
        arrival_ns=_as_numpy(arrival_ns),
        prompt_tokens=_as_numpy(prompt_tokens),
        output_tokens=_as_numpy(output_tokens),
        seen_tokens=_as_numpy(seen_tokens),
        turns=turns,
        tenants=tenants,
    )


def describe(trace: Trace, columns: Columns, *, block_size: int = 16) -> Statistics:
    """The statistics of a trace whose columns were just read; a trace has a request.

    Raises ValueError for a block_size below 1.
    """
    check_least(1, block_size=block_size)
    return Statistics(
        name=trace.name,
        requests=len(columns.arrival_ns),
        shifted_by=trace.shifted_by,
        notes=dict(trace.notes),
        arrivals=describe_arrivals(columns.arrival_ns),
        prompt_tokens=describe_lengths(columns.prompt_tokens),
        output_tokens=describe_lengths(columns.output_tokens),
        sharing=_describe_sharing(columns, block_size),
        sessions=_describe_sessions(columns.turns),
        tenants=dict(columns.tenants.most_common()),
    )


def describe_lengths(tokens: Int64) -> Spread:
    p50, p90, p99 = np.percentile(tokens, (50, 90, 99)).tolist()
    total = int(tokens.sum())
    return Spread(
        mean=total / len(tokens), p50=p50, p90=p90, p99=p99, max=int(tokens.max()), total=total
    )


def describe_arrivals(arrival_ns: Int64) -> Arrivals:
    """Of arrival times that never fall, in nanoseconds."""
    span_ns = int(arrival_ns[-1] - arrival_ns[0])
    gaps = np.diff(arrival_ns)
    stamps, together = np.unique(arrival_ns, return_counts=True)
    steps = np.diff(stamps)
    return Arrivals(
        span_s=span_ns / NS_PER_S,
        requests_per_s=len(arrival_ns) * NS_PER_S / span_ns if span_ns else None,
        cv_of_gaps=float(gaps.std() / gaps.mean()) if len(gaps) > 1 and span_ns else None,
        dispersion={width: dispersion(arrival_ns, width * NS_PER_S) for width in BINS_S},
        distinct=len(stamps),
        most_at_once=int(together.max()),
        resolution_ns=int(np.gcd.reduce(steps)) if len(steps) else None,
        grid_ns=_find_grid(steps),
    )


def dispersion(arrival_ns: Int64, bin_ns: int) -> float | None:
    """Variance over mean of the counts in the whole bins from the first arrival on.

    None where there are not two whole bins. The bin in which the last arrival lies is not
    whole. Empty bins count but take no memory.
    """
    since_ns = arrival_ns - arrival_ns[0]
    bins = int(since_ns[-1]) // bin_ns
    if bins < 2:
        return None
    numbers = since_ns // bin_ns
    _, counts = np.unique(numbers[numbers < bins], return_counts=True)
    mean = int(counts.sum()) / bins
    return (int((counts**2).sum()) / bins - mean**2) / mean


def _find_grid(steps: Int64) -> int | None:
    """The usual step between distinct times, if nearly all are multiples of it.

    The multiples of a median step, give or take 2 % of it, are 4 % of all lengths: steps
    without a grid do not come near the 95 % that are asked for.
    """
    if len(steps) < _LEAST_GAPS:
        return None
    step = float(np.median(steps))
    multiples = np.maximum(np.rint(steps / step), 1)
    on_grid = np.abs(steps - multiples * step) <= _GRID_TOLERANCE * step
    return round(step) if on_grid.mean() >= _GRID_SHARE else None


def _describe_sharing(columns: Columns, block_size: int) -> Sharing | None:
    if not columns.seen_tokens.any():
        return None
    total = int(columns.prompt_tokens.sum())
    pairs = zip(columns.seen_tokens.tolist(), columns.prompt_tokens.tolist(), strict=True)
    in_blocks = sum(whole_blocks(seen, prompt, block_size=block_size) for seen, prompt in pairs)
    return Sharing(
        seen_share=int(columns.seen_tokens.sum()) / total,
        block_size=block_size,
        whole_blocks_share=in_blocks / total,
        fully_seen=int((columns.seen_tokens == columns.prompt_tokens).sum()),
    )


def _describe_sessions(turns: Counter[str]) -> Sessions | None:
    if not turns:
        return None
    return Sessions(
        sessions=len(turns),
        requests=turns.total(),
        turns_mean=turns.total() / len(turns),
        turns_max=max(turns.values()),
        of_one_turn=sum(count == 1 for count in turns.values()),
    )


def _as_numpy(column: array[int]) -> Int64:
    return np.frombuffer(column, dtype=np.int64) if column else np.empty(0, np.int64)
