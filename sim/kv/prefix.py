"""Prefix caching: full blocks stay findable by content, in use or idle.

Who comes first publishes what it fills; who begins alike finds it::

    first    [ 7 | 3 | 9 ]      7 and 3 are full
    second   [ 7 | 3 | 4 ]      shares 7 and 3, and computes what follows
"""

from __future__ import annotations

from sim.kv.cache import Hit
from sim.kv.names import Chain, Names
from sim.kv.node import Name, Part
from sim.kv.paged import Paged
from sim.kv.pool import FreeOrder
from sim.request import Sequence


class PrefixCached(Paged):
    """A paged cache whose full blocks are named after their whole prefix (vLLM V1).

    Blocks are published when they are *scheduled*, before they are computed, so a sequence
    admitted later in the same step already shares them. Answers are published like prompts.
    """

    publishes = True

    def __init__(
        self, num_blocks: int, *, block_size: int, free_order: FreeOrder = "unkeyed_first"
    ) -> None:
        super().__init__(num_blocks, block_size=block_size, free_order=free_order)
        self._names = Names(block_size)

    def match(self, sequence: Sequence) -> Hit:
        # The last token is always computed, since its logits give the next one: a prompt
        # of whole blocks misses its last block.
        most = (sequence.num_tokens - 1) // self.block_size
        blocks, idle = self.pool.cached.find(self._chain(sequence).leading(most))
        return Hit(blocks, len(blocks) * self.block_size, idle)

    def admit(self, sequence: Sequence, hit: Hit) -> int:
        super().admit(sequence, hit)
        if not hit.blocks:
            return 0
        sequence.blocks, sequence.published = list(hit.blocks), len(hit.blocks)
        return self.pool.wake(hit.blocks, self._named(sequence))

    def grow(self, sequence: Sequence, n: int) -> bool:
        if not super().grow(sequence, n):
            return False
        self.publish(sequence, min(sequence.computed + n, sequence.num_tokens))
        return True

    def publish(self, sequence: Sequence, tokens: int) -> None:
        full = tokens // self.block_size
        if full > sequence.published:
            start, sequence.published = sequence.published, full
            names = self._chain(sequence).between(start, full)
            self.pool.cached.publish(sequence.blocks[start:full], names)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        super().fork(parent, child)
        names, stream = self._chain(parent), child.output_stream
        child.names = self._names.branch(names, parent.computed, stream)

    def key_after(self, sequence: Sequence, hit: Hit) -> Name | None:
        index = len(hit.blocks)
        if index == (sequence.num_tokens - 1) // self.block_size:
            return None
        return self._chain(sequence).name(index)

    def extend(self, takers: list[Sequence], fillers: list[Sequence]) -> None:
        # Publishing after all takes is as good as in between: what is published is held, so
        # no take can evict it, and only the order among publications shows.
        super().extend(takers, fillers)
        for sequence in fillers:
            index, names = sequence.published, self._chain(sequence)
            sequence.published = index + 1
            block, node = sequence.blocks[index], names.answer
            if 0 < index - names.answer_start == len(node.blocks):  # neither first nor a copy
                node.blocks.append(block)
            else:
                self.pool.cached.publish([block], names.between(index, index + 1))

    def _named(self, sequence: Sequence) -> list[Part]:
        return self._chain(sequence).leading(sequence.published)

    def _chain(self, sequence: Sequence) -> Chain:
        if sequence.names is None:
            sequence.names = self._names.chain(sequence.prompt, sequence.output_stream)
        return sequence.names
