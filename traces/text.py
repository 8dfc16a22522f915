"""Token counts of texts, estimated: a tokenizer is not at hand."""

from __future__ import annotations

import math
from array import array
from collections import Counter

from traces.ranges import check_least

CHARACTERS_PER_TOKEN = 4.0
"""Of English under current tokenizers, as OpenAI's and Google's documentation put it."""


class Estimate:
    """Texts cut into pieces of `characters_per_token`, the last one shorter; counted in `notes`."""

    def __init__(self, characters_per_token: float, notes: Counter[str]) -> None:
        check_least(1, characters_per_token=characters_per_token)
        self._ratio = characters_per_token
        self._notes = notes
        self._pieces: dict[str, int] = {}

    def count(self, text: str) -> int:
        self._notes[f"texts whose tokens are estimated, {self._ratio:g} characters each"] += 1
        return math.ceil(len(text) / self._ratio)

    def tokens(self, text: str) -> array[int]:
        """The pieces by number, equal ones by the same: texts that begin alike share tokens."""
        pieces, ratio = self._pieces, self._ratio
        ends = [int(index * ratio) for index in range(1, math.ceil(len(text) / ratio))]
        return array(
            "q",
            [
                pieces.setdefault(text[start:end], len(pieces))
                for start, end in zip([0, *ends], [*ends, len(text)], strict=True)
            ],
        )
