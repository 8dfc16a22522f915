"""What the steps between two recorded instants took, and how many of them would fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, takewhile
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.case import Case
from experiments.case_events import Instant
from experiments.step_count import Count
from sim.latency import LatencyModel
from sim.plan import Chunk, Plan
from sim.request import Sequence

_DOUBT = 0.1
"""How far off a clock is taken to be, as a share; and what a chunk adds to that, in steps."""
_WIDTHS = (*(1 << power for power in range(2, 13)), 1 << 62)


class Step(NamedTuple):
    """One simulated step, and its price."""

    priced_ns: int
    chunks: int
    decodes: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """Decodes of which nothing is known but their contexts."""

    size: int
    context_sum: int
    context_max: int

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Sequence]:
        raise AssertionError("a clock asks for sums alone")


def guess_from_clock(instants: list[Instant], case: Case, clock: LatencyModel) -> list[float]:
    """Steps in each gap before anything was served: by the price of decoding all who run, and of
    one step with the prompts of those who get their first tokens at its end."""
    prompts, answers = case.real["prompt_tokens"], case.real["output_tokens"]
    sequences = {each.id: Sequence.of(each, index=0) for each in case.requests}
    spans: dict[str, list[int]] = defaultdict(list)
    for instant in instants:
        for name in (*instant.who["step_end_first"], *instant.who["step_end_last"]):
            spans[name].append(instant.at_ns)
    guesses = []
    for instant, following in pairwise(instants):
        first = following.who["step_end_first"]
        contexts = []
        for name in instant.running - first:
            begin_ns, end_ns = spans[name]
            share = (instant.at_ns - begin_ns) / max(1, end_ns - begin_ns)
            contexts.append(int(prompts[name] + max(0, share) * answers[name]))
        gap_ns, steps = following.at_ns - instant.at_ns, 0.0
        decodes = _Batch(len(contexts), sum(contexts), max(contexts, default=0))
        if contexts:
            price_ns = clock.durations(Plan(decodes=decodes), 1)[0]
            steps = gap_ns / price_ns
        if first:
            chunks = [Chunk(sequences[name], 0, int(prompts[name])) for name in first]
            chunk_ns = clock.durations(Plan(decodes=decodes, chunks=chunks), 1)[0]
            steps = 1 + (max(0, gap_ns - chunk_ns) / price_ns if contexts else 0)
        guesses.append(max(1.0, steps) if steps else 0.0)
    return guesses


def guess_from_steps(
    instants: list[Instant], count: Count, steps: list[Step], guesses: list[float], met: list[bool]
) -> list[float]:
    """The same once steps were served: so many more or fewer of a gap's shortest step as it is
    longer or shorter than its steps, at prices that are right in the median of alike gaps whose
    ends were `met`."""
    ratios: dict[tuple[bool, int], list[float]] = defaultdict(list)
    for gap in _list_alike(instants, count, steps, met):
        ratios[gap.chunked, gap.width].append(gap.real_ns / gap.priced_ns)
    factors = {alike: median(found) for alike, found in ratios.items()}
    better = []
    for at, (gap_ns, found) in enumerate(_list_gaps(instants, count, steps)):
        guess = guesses[at]
        if found and not found[0].decodes:  # until somebody has a token, all steps have chunks
            later = steps[count.ended[at] :]
            guess = float(sum(1 for _ in takewhile(lambda step: not step.decodes, later)))
        elif found:
            prices = [
                step.priced_ns * factors.get((step.chunks > 0, _width(step.decodes)), 1.0)
                for step in found
            ]
            guess = max(1.0, len(found) + (gap_ns - sum(prices)) / min(prices))
        better.append(guess)
    return better


def list_doubts(instants: list[Instant], guesses: list[float]) -> list[float]:
    """How unsure the guesses are, in steps: far from a whole number, many, or with a chunk."""
    return [
        abs(guess - round(guess)) + _DOUBT * (guess + bool(following.who["step_end_first"]))
        for guess, following in zip(guesses, instants[1:], strict=True)
    ]


def _width(decodes: int) -> int:
    return next(width for width in _WIDTHS if decodes <= width)


def _list_gaps(
    instants: list[Instant], count: Count, steps: list[Step]
) -> Iterator[tuple[int, list[Step]]]:
    """Nanoseconds and steps of each gap."""
    for at, (instant, following) in enumerate(pairwise(instants)):
        yield following.at_ns - instant.at_ns, steps[count.ended[at] : count.ended[at + 1]]


class _Gap(NamedTuple):
    """Of the steps with chunks, where there are any."""

    chunked: bool
    width: int
    steps: int
    real_ns: int
    priced_ns: int


def _list_alike(
    instants: list[Instant], count: Count, steps: list[Step], met: list[bool]
) -> Iterator[_Gap]:
    """Gaps whose ends were met; decodes alone beside chunks are taken at their price."""
    for at, (gap_ns, found) in enumerate(_list_gaps(instants, count, steps)):
        if found and met[at] and met[at + 1]:
            chunked = [step for step in found if step.chunks]
            counted = chunked or found
            others_ns = sum(step.priced_ns for step in found if chunked and not step.chunks)
            width = _width(max(step.decodes for step in found))
            priced_ns = sum(step.priced_ns for step in counted)
            yield _Gap(bool(chunked), width, len(counted), gap_ns - others_ns, priced_ns)


def compare_gaps(
    instants: list[Instant], count: Count, steps: list[Step], met: list[bool]
) -> list[dict[str, Any]]:
    """By the most decodes in a gap's steps, and whether one of them has a chunk: mean time of a
    step, real and priced, over gaps whose ends were met. Where there are chunks, decodes alone
    are taken at their price."""
    sums: dict[tuple[bool, int], NDArray[np.int64]] = {}
    for gap in _list_alike(instants, count, steps, met):
        cell = sums.setdefault((gap.chunked, gap.width), np.zeros(3, dtype=np.int64))
        cell += (gap.steps, gap.real_ns, gap.priced_ns)
    return [
        {
            "chunks": chunked,
            "most_decodes": width,
            "steps": int(number),
            "real_ms": float(real_ns / number / 1e6),
            "priced_ms": float(priced_ns / number / 1e6),
            "error_pct": float(100 * (priced_ns / real_ns - 1)),
        }
        for (chunked, width), (number, real_ns, priced_ns) in sorted(sums.items())
    ]
