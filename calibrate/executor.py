"""Plans on real kernels: what the same scheduler decided, computed and timed."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from torch import Tensor

from calibrate.runner import HostCopy, Row, Runner, Step
from calibrate.token_ids import SlotIds, TokenIds
from sim.moves import Swap
from sim.observer import Observer
from sim.parting import Fork
from sim.plan import Departure, Plan
from sim.request import Sequence


@dataclass(slots=True)
class Text:
    """The ids of a sequence's tokens, prompt and answer so far."""

    ids: array[int]
    stream: int
    begins: int
    """Where the tokens of its own output stream begin."""


class KernelExecutor(Observer):
    """An executor that computes plans, and says how long it took; also an observer, since it
    has to know who forks and who ends.

    Tokens are sampled and go into the next step; when an answer ends is the world's to say. A
    child that forks begins with the next best token of its parent's logits (or with another
    draw, where tokens are drawn).

    Runs every plan once, whatever is asked: the blocks of later repetitions are taken when
    they have run.
    """

    def __init__(self, runner: Runner, ids: TokenIds) -> None:
        self.runner = runner
        self.ids = ids
        self.durations_ns: list[int] = []
        """Of every step so far."""
        self.texts: dict[Sequence, Text] = {}
        """Of everybody who has computed something and is not done."""
        self.logits: dict[Sequence, Tensor] = {}
        """[vocabulary] of everybody whom the latest step gave a token."""
        self.stale_tokens = 0
        """Tokens of prefix hits, or swapped in, in whose slots something else lies: what is
        computed from them is wrong. Under policy priority vLLM publishes blocks of a row that is
        then taken out of its step."""
        pool = runner.pool
        self._slots = SlotIds(
            pool.blocks,
            block_size=pool.block_size,
            host_blocks=0 if runner.host is None else runner.host.blocks,
        )
        self._children: dict[Sequence, int] = {}
        """How many have forked from whom with the tokens of the latest step."""

    def run(self, plan: Plan, k: int) -> list[int]:
        gives = {*plan.completing, *plan.decodes}
        chunks = plan.rows()
        givers = [chunk.sequence for chunk in chunks if chunk.sequence in gives]
        rows = [self._row(*chunk, gives=chunk.sequence in gives) for chunk in chunks]
        copies = [(copy.source, copy.target) for copy in plan.copies]
        ran = self.runner.run(Step(rows, copies, [_pair_up(swap) for swap in plan.swaps]))
        self.durations_ns.append(ran.duration_ns)
        self.logits = dict(zip(givers, ran.logits, strict=True))
        self._children = {}
        for sequence, token in zip(givers, ran.tokens, strict=True):
            self._append(self.texts[sequence], token)
        self._check_hits(plan, rows)
        return [ran.duration_ns]

    def _check_hits(self, plan: Plan, rows: list[Row]) -> None:
        size = self.runner.pool.block_size
        for swap in plan.swaps:
            for block, host in zip(swap.blocks, swap.host_blocks, strict=True):
                in_host = self.runner.pool.blocks + host
                self._slots.copy(*((block, in_host) if swap.out else (in_host, block)))
        for copy in plan.copies:
            self._slots.copy(copy.source, copy.target)
        for row in rows:
            self._slots.write(row.blocks, row.before, row.ids)
        for sequence, hit_tokens, _ in plan.admitted:
            if hit_tokens:
                ids = self.texts[sequence].ids[:hit_tokens]
                self.stale_tokens += self._slots.count_others(
                    sequence.blocks[: hit_tokens // size], ids
                )
        for swap in plan.swaps:
            if not swap.out:
                first = swap.sequence.blocks.index(swap.blocks[0]) * size
                ids = self.texts[swap.sequence].ids[first : first + swap.tokens]
                self.stale_tokens += self._slots.count_others(swap.blocks, ids)

    def _row(self, sequence: Sequence, before: int, n: int, *, gives: bool) -> Row:
        text = self.texts.get(sequence)
        if text is None:
            ids = self.ids.prompt(sequence.prompt)
            text = self.texts[sequence] = Text(ids, sequence.output_stream, len(ids))
        held = -(-(before + n) // self.runner.pool.block_size)
        return Row(text.ids[before : before + n], before, sequence.blocks[:held], gives)

    def _append(self, text: Text, token: int) -> None:
        text.ids.append(self.ids.settle(text.stream, len(text.ids) - text.begins, token))

    # --- what an observer is told

    def forked(self, forks: list[Fork], now_ns: int) -> None:
        for parent, child in forks:
            shared = self.texts[parent].ids[:-1]
            text = self.texts[child] = Text(shared, child.output_stream, len(shared))
            self._append(text, self._another(parent))

    def _another(self, parent: Sequence) -> int:
        """A first token for the next child of this parent."""
        logits = self.logits[parent]
        if self.runner.temperature:
            return int(self.runner.sample(logits[None])[0])
        rank = self._children[parent] = self._children.get(parent, 0) + 1
        return int(logits.argsort(descending=True)[rank % len(logits)])

    def ended(self, departures: list[Departure], now_ns: int) -> None:
        for departure in departures:
            self.texts.pop(departure.sequence, None)


def _pair_up(swap: Swap) -> HostCopy:
    ways = (swap.blocks, swap.host_blocks) if swap.out else (swap.host_blocks, swap.blocks)
    return HostCopy(swap.out, list(zip(*ways, strict=True)))
