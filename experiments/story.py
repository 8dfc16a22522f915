"""What happened to one request, line by line, and how that reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from sim.kv.books import list_names
from sim.kv.paged import Paged
from sim.kv.pool import FreeOrder, Pool
from sim.plan import Departure

_SHOWN_BLOCKS = 12


class Line(NamedTuple):
    """Something that began at `at_ns`, and the steps that it lasted, if it was in any."""

    at_ns: int
    steps: tuple[int, int] | None
    texts: tuple[str, ...]
    style: str


@dataclass(slots=True)
class Story:
    """Lines in order of time; shown relative to the arrival."""

    arrival_ns: int = 0
    lines: list[Line] = field(default_factory=list)
    complete: bool = False
    """The request is answered or refused: nothing more will happen to it."""

    def tell(
        self, *texts: str, at_ns: int, steps: tuple[int, int] | None = None, style: str = ""
    ) -> None:
        self.lines.append(Line(at_ns, steps, texts, style))

    def written(self) -> list[tuple[str, str]]:
        """Every line on the screen with its style, below the names of the columns."""
        width = max(4, *(len(_span_of(line.steps)) for line in self.lines))
        written = [(f"{'ms':>9}  {'step':>{width}}", "dim")]
        indent, before = " " * (9 + 2 + width + 2), ""
        for at_ns, steps, (first, *rest), style in self.lines:
            margin = f"{(at_ns - self.arrival_ns) / 1e6:9.3f}  {_span_of(steps):>{width}}  "
            # What happens in one step is said once to do so.
            written.append((f"{indent if margin == before else margin}{first}", style))
            written += [(f"{indent}{text}", "dim") for text in rest]
            before = margin
        return written


def _span_of(steps: tuple[int, int] | None) -> str:
    if steps is None:
        return ""
    first, last = steps
    return f"{first}" if first == last else f"{first}-{last}"


def count(n: int, what: str) -> str:
    """1 block, 2,000 blocks."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def span(what: str, first: int, n: int) -> str:
    """token 7, or tokens 7-9."""
    return f"{what} {first}" if n == 1 else f"{what}s {first}-{first + n - 1}"


def blocks_in_words(blocks: Sequence[int]) -> str:
    """block 7, or blocks 7 9 12; a long list without its middle."""
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    shown = [*map(str, blocks)]
    if len(blocks) > _SHOWN_BLOCKS:
        shown[_SHOWN_BLOCKS - 3 : -2] = ["..."]
        return f"{len(blocks):,} blocks: {' '.join(shown)}"
    return f"blocks {' '.join(shown)}"


def draw_table(blocks: Sequence[int], *, hits: int, computed: int, kv: Paged) -> list[str]:
    """A block table: what each logical block holds, and which physical block that is."""
    columns = []
    for index, block in enumerate(blocks):
        first, end = index * kv.block_size, min(computed, (index + 1) * kv.block_size)
        shared = ", shared" if kv.pool.is_shared(block) else ""
        origin = ("hit" if index < hits else "new") + shared
        tokens = f"{first}" if first == end - 1 else f"{first}-{end - 1}"
        columns.append((str(index), tokens, str(block), origin))
    if len(columns) > _SHOWN_BLOCKS:
        columns[_SHOWN_BLOCKS - 4 : -3] = [("...",) * 4]
    lines = []
    for row, name in enumerate(("logical", "tokens", "physical", "")):
        cells = (f"{column[row]:^{max(map(len, column))}}" for column in columns)
        lines.append(f"{name:8}  | {' | '.join(cells)} |")
    return lines


def queue_in_words(pool: Pool) -> str:
    """The free queue, head first; a star marks content that a look-up would find."""
    named = list_names(pool.cached)
    shown = [
        f"{block}*" if block in named else f"{block}"
        for block in islice(pool.queue(), _SHOWN_BLOCKS)
    ]
    if pool.free > len(shown):
        shown.append(f"... ({pool.free:,} in all)")
    starred = "  (* can be found)" if any(block.endswith("*") for block in shown) else ""
    return f"free queue, head first: {' '.join(shown) or 'empty'}{starred}"


def say_return(
    departure: Departure, *, later: set[int], pool: Pool, block_size: int, free_order: FreeOrder
) -> list[str]:
    """Where the blocks of a sequence went when it let go of them, and the queue afterwards.

    `later` are blocks that others let go of after it, at the same moment.
    """
    sequence, computed, blocks, _ = departure
    names = [] if sequence.names is None else [*map(sequence.names.name, range(len(blocks)))]
    named = list_names(pool.cached)
    keyed = computed // block_size if names else 0
    # A victim may have been given keys in this very step for what it did not compute.
    while keyed < len(names) and named.get(blocks[keyed]) == names[keyed]:
        keyed += 1
    queued = set(pool.queue())
    held = [
        block
        for block, name in zip(blocks[:keyed], names, strict=False)
        if block in later or (block not in queued and named.get(block) == name)
    ]
    head = blocks[keyed:][::-1]
    tail = [block for block in blocks[:keyed][::-1] if block not in held]
    if free_order == "all_last":
        head, tail = [], head + tail
    lines = [f"gives back {blocks_in_words(blocks)}"]
    for where, which in (
        ("still held by others", held),
        ("to the head of the free queue", head),
        ("to its tail" if head else "to the tail of the free queue", tail),
    ):
        if which:
            lines.append(f"  {where}: {blocks_in_words(which)}")
    return [*lines, queue_in_words(pool)]
