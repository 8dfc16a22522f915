"""Contiguous KV cache: one piece of memory for each sequence, set aside when it is admitted.

What serving systems did before PagedAttention, and what its paper compares with (Kwon et al.,
SOSP 2023, section 6.1: Orca's Max, Pow2 and Oracle).
"""

from __future__ import annotations

from collections.abc import Callable

from sim.kv.cache import Hit, KVCache
from sim.kv.space import Space
from sim.plan import Departure
from sim.request import Sequence

Reserve = Callable[[Sequence], int]
"""Slots to set aside for a sequence that is being admitted."""


def reserve_max(max_model_len: int) -> Reserve:
    """Whatever the sequence may become."""
    return lambda _: max_model_len


def reserve_now(sequence: Sequence) -> int:
    """Only the tokens there are: the answer has to grow in place, or not at all."""
    return sequence.num_tokens


def oracle_exact(answer_tokens: Callable[[Sequence], int]) -> Reserve:
    """Prompt and answer; knows how long the answer will be."""
    return lambda sequence: sequence.prompt_tokens + answer_tokens(sequence)


def oracle_pow2(answer_tokens: Callable[[Sequence], int], max_model_len: int) -> Reserve:
    """Prompt and the power of two that holds the answer, up to max_model_len; knows how long
    the answer will be."""

    def reserve(sequence: Sequence) -> int:
        room = 1 << (answer_tokens(sequence) - 1).bit_length()
        return min(sequence.prompt_tokens + room, max_model_len)

    return reserve


class Contiguous(KVCache):
    """A slot is a block of one token here, and a block table an unbroken range::

    address space    |<--- a: 8 slots ---->|<-- hole -->|<----- b: 12 slots ------>|
    a                [ computed ][ reserved ][ internal ]
    """

    block_size = 1
    null_blocks = 0
    reserves = True

    def __init__(self, space: Space, *, reserve: Reserve) -> None:
        self.num_blocks = space.free
        self._space = space
        self._reserve = reserve
        self._pieces: dict[Sequence, range] = {}

    @property
    def free_blocks(self) -> int:
        return self._space.free

    def has_room(self, sequence: Sequence, tokens: int, *, hit: Hit, spare_blocks: int = 0) -> bool:
        wanted = max(tokens, self._reserve(sequence))
        return wanted + spare_blocks <= self._space.free and self._space.fits(wanted)

    def is_scattered(self, sequence: Sequence) -> bool:
        wanted = max(sequence.num_tokens, self._reserve(sequence))
        return wanted <= self._space.free and not self._space.fits(wanted)

    def admit(self, sequence: Sequence, hit: Hit) -> int:
        self._pieces[sequence] = range(0)
        return 0

    def grow(self, sequence: Sequence, n: int) -> bool:
        piece, tokens = self._pieces[sequence], sequence.computed + n
        if tokens <= len(piece):
            return True
        if piece:
            grown = self._space.extend(piece, tokens - len(piece))
        else:
            grown = self._space.take(max(tokens, self._reserve(sequence)))
        if grown is None:
            return False
        self._pieces[sequence] = grown
        sequence.blocks = list(grown)
        return True

    def inside(self, sequence: Sequence) -> int:
        """Slots of its piece that wait for further tokens of it."""
        return len(self._pieces[sequence]) - sequence.computed

    def above(self, sequence: Sequence) -> int:
        """Free slots that its piece can grow into; no other piece can."""
        return self._space.above(self._pieces[sequence])

    def release(self, sequence: Sequence) -> Departure:
        piece = self._pieces.pop(sequence)
        if piece:
            self._space.give_back(piece)
        blocks, sequence.blocks = sequence.blocks, []
        return Departure(sequence, sequence.computed, blocks, 0)

    def translate(self, sequence: Sequence, position: int) -> tuple[int, int]:
        return self._pieces[sequence][position], 0

    def check(self) -> None:
        self._space.check([piece for piece in self._pieces.values() if piece])
        for sequence, piece in self._pieces.items():
            assert sequence.blocks == list(piece), sequence.id
            assert sequence.computed <= len(piece), sequence.id
