"""What goes on for several steps and is told in one line: waiting, and steady decoding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from experiments.story import blocks_in_words, count, span
from sim.kv.paged import Paged
from sim.plan import Limit, Plan
from sim.request import Sequence


class Folded(Protocol):
    at_ns: int
    first_step: int
    last_step: int

    def absorbs(self, later: Folded) -> bool:
        """Take what follows into the same line; False, and unchanged, if it is another thing."""
        ...

    def words(self) -> str: ...


@dataclass(slots=True)
class Waiting:
    """It is there, and computes nothing."""

    at_ns: int
    first_step: int
    what: str
    """Waiting for the same thing goes on."""
    text: str
    last_step: int = -1

    def __post_init__(self) -> None:
        self.last_step = self.first_step

    def absorbs(self, later: Folded) -> bool:
        if not isinstance(later, Waiting) or later.what != self.what:
            return False
        self.last_step = later.last_step
        return True

    def words(self) -> str:
        return f"waits: {self.text}"


@dataclass(slots=True)
class Decoding:
    """One token a step is computed, and gives the next; block by block, if detailed."""

    at_ns: int
    first_step: int
    position: int
    """Of the first token computed."""
    block: int
    taken: bool
    """The block is new."""
    detailed: bool
    fills: bool
    """The last token computed fills its block, which is published then, if ever."""
    publishes: bool
    last_step: int = -1
    tokens: int = 1
    gained: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.last_step = self.first_step
        if self.taken:
            self.gained.append(self.block)

    def absorbs(self, later: Folded) -> bool:
        if not isinstance(later, Decoding) or later.first_step != self.last_step + 1:
            return False
        if later.detailed != self.detailed or (self.detailed and later.block != self.block):
            return False
        self.last_step = later.last_step
        self.tokens += later.tokens
        self.gained += later.gained
        self.fills = later.fills
        return True

    def words(self) -> str:
        text = f"decodes {span('token', self.position, self.tokens)}"
        if self.detailed:
            text += f" into block {self.block}" + (", just taken" if self.taken else "")
            if self.fills:
                text += "; it is full" + (", so published" if self.publishes else "")
            return text
        if self.tokens > 1:
            text += ", one a step"
        if self.gained:
            text += f"; takes {blocks_in_words(self.gained)}"
        return text


def wait(plan: Plan, sequence: Sequence, kv: Paged, *, at_ns: int, step: int) -> Waiting:
    """Why a step leaves out a sequence that is queued."""
    limit, head = plan.limit, plan.refused
    if head is None:
        text = {
            Limit.SEATS: "all seats (max_num_seqs) are taken",
            Limit.TOKENS: "the step's tokens (max_num_batched_tokens) are spent",
            Limit.BLOCKS: "a step that preempts admits nobody",
        }[limit]
        return Waiting(at_ns, step, limit.name, text)
    if head is not sequence:
        text = f"behind {head.id}, which does not fit ({limit.name.lower()})"
        return Waiting(at_ns, step, f"behind {head.id} {limit.name}", text)
    if limit == Limit.TOKENS:
        text = "refused: its prompt is longer than the step's tokens left (chunked prefill is off)"
    elif limit == Limit.BLOCKS:
        text = f"refused: its first chunk needs more blocks than are free ({kv.free_blocks})"
    else:
        hit = kv.match(sequence)
        new = kv.blocks_for(sequence.num_tokens) - len(hit.blocks)
        needed = count(new + hit.idle, "free block")
        text = f"refused: its {sequence.num_tokens} tokens need {needed}, there are"
        text += f" {kv.free_blocks} (gate)"
        if hit.blocks:
            found = count(hit.tokens - hit.host_tokens, "token")
            text += f"; {found} would be hits, {blocks_in_words(hit.blocks)}"
        if hit.host_tokens:
            text += f"; {count(hit.host_tokens, 'token')} wait in host memory"
    return Waiting(at_ns, step, f"head {limit.name}", text)
