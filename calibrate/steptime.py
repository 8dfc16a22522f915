"""Step times from a latency table: operators composed into whole steps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibrate.attention_curves import together
from calibrate.curves import Floats
from calibrate.host_link import PricesSwaps
from calibrate.skew import Skew
from calibrate.step_parts import Parts
from calibrate.table_schema import COLLECTIVES
from sim.latency import LONGEST_STRETCH, Counts, Nanoseconds

if TYPE_CHECKING:
    from calibrate.table import Table
    from sim.plan import Plan

_STEPS = np.arange(LONGEST_STRETCH, dtype=np.int64)
_EVERYWHERE = ("head", "sampling")


class StepTime(PricesSwaps):
    """A latency model: a table's operators, summed over what a step computes.

    Matrices by scheduled tokens (padded to a captured size where a step has nothing but
    decodes and sizes are given), output head and sampling by rows of logits (one per chunk
    and decode), attention of the decodes by their number, the sum of their contexts and how
    far the longest exceeds their mean, attention of the chunks as of one chunk of their tokens
    and area, both in one call by the table's mixed points (where it has none: apart), block copies
    by blocks. A chunk of one token is a decode.

    `front_end_ns` of a request is the config's. Raises TableError for a table that is not of
    one model, or lacks what a step needs.
    """

    modelled = False
    knows_alone = True

    def __init__(
        self,
        table: Table,
        *,
        host_ns: int = 0,
        launch_ns: int = 0,
        capture_sizes: Sequence[int] = (),
        skew: bool = True,
    ) -> None:
        """`host_ns`: of every step. `launch_ns`: what those take longer that no captured graph
        replays, as their kernels are launched one by one; part of what a chunk takes alone.
        `capture_sizes`: token counts of captured CUDA graphs; larger steps run as they are.
        `skew`: use what the table knows of decodes of mixed length."""
        self.host_ns = host_ns
        self.table = table
        self.parts = Parts.of(table)
        told = table.provenance
        self._launch_ns = launch_ns
        launched = f", {launch_ns} ns more where no graph is replayed" if launch_ns else ""
        self.source = f"{told.source}, on {told.device}; host {host_ns} ns a step{launched}"
        self.notes = (*told.notes, *_list_gaps(table, self.parts))
        self._captured = sorted(set(capture_sizes))
        (cache,) = {*table.points["kv_dtype"].unique().to_pylist()} - {None}
        skew = skew and (not told.query_blocks or cache in told.query_blocks)
        self._skewed = skew and bool(told.skew or told.tail)
        known = told.skew if skew else {}
        calls, tail = self.parts.decode_calls, told.tail if skew else None
        self._skew = Skew(known.get("decode", ()), calls=calls, tail=tail)
        self._mixed_skew = Skew(known.get("mixed", ()), calls=calls)

    def durations(self, plan: Plan, k: int) -> list[int]:
        """Durations of the plan's step and of the k - 1 that repeat it.

        In the j-th step every decode's context is j tokens longer. The plan is not empty.
        """
        decodes, parts = plan.decodes, self.parts
        n = growing = len(decodes)
        context, longest = decodes.context_sum, 0
        prefills: list[tuple[int, int]] = []
        for _, before, tokens in plan.chunks:
            if tokens > 1:
                prefills.append((tokens, before))
            else:
                n += 1
                context += before + 1
                longest = max(longest, before + 1)
        fixed = self._fixed_ns(n, prefills, copies=len(plan.copies))
        if not n:
            attention, *_ = together(parts.chunks, prefills, apart=parts.chunks_apart)
            return [self.host_ns + round(fixed + attention)] * k
        members, longer = (decodes.context_max if self._skewed else 0, 1) if growing else (0, 0)
        if prefills:
            price = self._price_mixed(prefills, n)
            return [
                self.host_ns
                + round(fixed + price(context + j * growing, max(longest, members + j * longer)))
                for j in range(k)
            ]
        row, launched = parts.decodes.row(n), self._graph(n)
        if k == 1:  # the same arithmetic, without an array of one
            step_ns = row.at(context)
            if self._skewed:
                most = max(longest, members)
                step_ns += self._skew.one(launched, n, context, most, step_ns)
            return [self.host_ns + round(fixed + step_ns)]
        steps = _STEPS[:k]
        contexts = context + growing * steps
        steps_ns = row.at_many(contexts)
        if self._skewed:
            longests = np.maximum(longest, members + longer * steps)
            steps_ns += self._skew.many(launched, n, contexts, longests, steps_ns)
        whole: list[int] = (self.host_ns + np.rint(fixed + steps_ns).astype(np.int64)).tolist()
        return whole

    def _fixed_ns(self, n: int, prefills: list[tuple[int, int]], *, copies: int) -> float:
        """All but attention."""
        parts, tokens = self.parts, n
        if prefills:
            tokens += sum(chunk for chunk, _ in prefills)
        else:
            tokens = self._graph(n)
        fixed = parts.tokens.at(tokens) + parts.rows.at(n + len(prefills))
        if prefills or not self._is_captured(n):
            fixed += self._launch_ns
        if copies and parts.copies is not None:
            fixed += parts.copies.at(copies)
        return fixed

    def _graph(self, n: int) -> int:
        """The captured size that n decodes run in, or n."""
        return self._captured[bisect_left(self._captured, n)] if self._is_captured(n) else n

    def _is_captured(self, n: int) -> bool:
        return bool(self._captured) and n <= self._captured[-1]

    def _price_mixed(self, prefills: list[tuple[int, int]], n: int) -> Callable[[int, int], float]:
        """Attention of these chunks and n decodes, over (sum, longest) of the contexts."""
        parts = self.parts
        alone, chunk, before = together(parts.chunks, prefills, apart=parts.chunks_apart)
        row, mixing, skew = parts.decodes.row(n), parts.mixing, self._mixed_skew

        def price(context: int, longest: int) -> float:
            alike = alone + row.at(context)
            if mixing is not None:
                alike *= mixing.at(chunk, before, n, context / n)
            return alike + skew.one(n, n, context, longest, alike) if self._skewed else alike

        return price

    def alone(self, computed_before: Counts, n: Counts) -> Nanoseconds:
        """Engine time of each chunk of n tokens with nothing beside it, int64, in the shape
        of the two. Without host time; 0 where n is 0.
        """
        before, tokens = np.broadcast_arrays(np.asarray(computed_before), np.asarray(n))
        parts = self.parts
        attention = self._attend_alone(before, tokens)
        fixed = parts.tokens.at_many(self._padded(tokens)) + parts.rows.at(1)
        launch = np.where((tokens > 1) | (not self._captured), self._launch_ns, 0)
        return np.where(tokens, np.rint(fixed + launch + attention), 0).astype(np.int64)

    def _attend_alone(self, before: NDArray[np.int64], tokens: NDArray[np.int64]) -> Floats:
        single = self.parts.decodes.row(1).at_many(before + tokens)
        chunk = np.maximum(tokens, 1)
        return np.where(tokens > 1, self.parts.chunks.many(chunk, before), single)

    def _padded(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Chunks of one token run as decodes do, in the smallest captured size."""
        return np.where(tokens == 1, self._captured[0], tokens) if self._captured else tokens

    def outside(
        self, steps: Mapping[str, NDArray[np.int64]], chunks: Mapping[str, NDArray[np.int64]]
    ) -> dict[str, int]:
        """How many steps (or chunks) a run priced beyond what was measured, by what it was.

        `steps` and `chunks` are columns of the tables of those names in `sim.record.records`.
        """
        from calibrate.table_range import count_outside

        most_swapped = None if self.swaps is None else self.swaps.most_blocks
        return count_outside(self.parts, steps, chunks, most_swapped=most_swapped)


def _list_gaps(table: Table, parts: Parts) -> Iterator[str]:
    """What steps have and the table does not, in words."""
    wanted = [*_EVERYWHERE]
    if max(table.points["tp"].to_pylist()) > 1:
        wanted += COLLECTIVES
    if lacking := [operator for operator in wanted if not table.of(operator)]:
        yield f"no points of {' and '.join(lacking)}, which take no time here"
    if parts.mixing is not None and parts.mixing.filled:
        yield f"mixed points missing from the grid, priced as apart: {parts.mixing.filled:,}"
