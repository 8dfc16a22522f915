"""What the steps between two recorded instants took, and how many of them would fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.case_events import Instant
from experiments.step_count import Count
from sim.latency import LatencyModel
from sim.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from sim.request import Sequence

_DOUBT = 0.1
"""How far off a clock is taken to be, as a share; and what a chunk adds to that, in steps."""
_WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024, 1 << 62)


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


def guess_from_clock(
    instants: list[Instant], real: pd.DataFrame, clock: LatencyModel, *, depth: int
) -> tuple[list[float], list[float]]:
    """Steps in each gap, and doubts, before anything was served: by the price of decoding all who
    run; a gap that ends with a first token, whose chunks are not known yet, has no more steps
    than batches may be in flight."""
    prompts, answers = real["prompt_tokens"].to_dict(), real["output_tokens"].to_dict()
    guesses, doubts = [], []
    for instant, following in zip(instants, instants[1:], strict=False):
        steps = 0.0
        if instant.running:
            # Half of an answer is there, on average.
            contexts = [prompts[name] + answers[name] // 2 for name in instant.running]
            batch = _Batch(len(contexts), sum(contexts), max(contexts))
            price_ns = clock.durations(Plan(decodes=batch), 1)[0]
            steps = (following.at_ns - instant.at_ns) / price_ns
        chunked = bool(following.who["step_end_first"])
        if chunked:
            steps = min(steps, depth)
        guesses.append(steps)
        doubts.append(_doubt(steps, chunked=chunked))
    return guesses, doubts


def guess_from_steps(
    instants: list[Instant], count: Count, steps: list[Step]
) -> tuple[list[float], list[float]]:
    """The same once steps were served: so many more or fewer of a gap's shortest step as it is
    longer or shorter than the price of its steps."""
    guesses, doubts = [], []
    for gap_ns, found, busy in _list_gaps(instants, count, steps):
        guess = float(len(found))
        if found:
            over_ns = gap_ns - sum(step.priced_ns for step in found)
            guess = max(1.0, guess + over_ns / min(step.priced_ns for step in found))
        elif busy:
            guess = 1.0
        guesses.append(guess)
        doubts.append(_doubt(guess, chunked=any(step.chunks for step in found)))
    return guesses, doubts


def _doubt(guess: float, *, chunked: bool) -> float:
    return abs(guess - round(guess)) + _DOUBT * (guess + chunked)


def _list_gaps(
    instants: list[Instant], count: Count, steps: list[Step]
) -> Iterator[tuple[int, list[Step], bool]]:
    """Nanoseconds, steps, and whether anybody ran, of each gap."""
    for at, (instant, following) in enumerate(zip(instants, instants[1:], strict=False)):
        found = steps[count.ended[at] : count.ended[at + 1]]
        yield following.at_ns - instant.at_ns, found, bool(instant.running)


def compare_gaps(
    instants: list[Instant], count: Count, steps: list[Step]
) -> list[dict[str, Any]]:
    """By the most decodes in a gap's steps, and whether one of them has a chunk: mean time of a
    step, real and priced. Where there are chunks, decodes alone are taken at their price."""
    sums: dict[tuple[bool, int], list[float]] = {}
    for gap_ns, found, _ in _list_gaps(instants, count, steps):
        if not found:
            continue
        chunked = [step for step in found if step.chunks]
        counted = chunked or found
        others_ns = sum(step.priced_ns for step in found if chunked and not step.chunks)
        most = max(step.decodes for step in found)
        width = next(width for width in _WIDTHS if most <= width)
        cell = sums.setdefault((bool(chunked), width), [0, 0, 0])
        cell[0] += len(counted)
        cell[1] += gap_ns - others_ns
        cell[2] += sum(step.priced_ns for step in counted)
    return [
        {
            "chunks": chunked,
            "most_decodes": width,
            "steps": int(number),
            "real_ms": real_ns / number / 1e6,
            "priced_ms": priced_ns / number / 1e6,
            "error_pct": 100 * (priced_ns / real_ns - 1),
        }
        for (chunked, width), (number, real_ns, priced_ns) in sorted(sums.items())
    ]
