"""Conversations: a later turn's prompt quotes all before it, and comes after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sim.request import Run
from traces.streams import Streams

ANSWER_NS_PER_TOKEN = 25_000_000
"""Nominal answer time: TPOT of 25.4 ms in vLLM's multi-turn benchmark
(vllm-project/vllm, benchmarks/multi_turn/README.md)."""
THINK_S = 100.0
"""Between an answer and the next message: about what ServeGen (Xiang et al., arXiv:2505.09999)
is quoted for; not read in the paper."""


@dataclass(slots=True, eq=False)
class Conversation:
    """What was said so far::

    [system][message 1][answer 1][message 2][answer 2][message 3]
     |<--------------- history --------------------->| new
    """

    history: tuple[Run, ...] = ()

    def say(
        self, message: tuple[Run, ...], *, output_tokens: int, streams: Streams
    ) -> tuple[tuple[Run, ...], int]:
        """(prompt, stream of the answer) of the next turn, both part of the history then."""
        prompt = (*self.history, *message)
        answer = streams.private()
        self.history = (*prompt, (answer, 0, output_tokens))
        return prompt, answer


class Turn(NamedTuple):
    """When a turn arrived, and how long its answer is: what the next one waits for."""

    arrival_ns: int
    output_tokens: int

    def next_ns(self, *, answer_ns_per_token: int, pause_ns: int) -> int:
        """Open loop: after the nominal answer time and a pause, however long serving took."""
        return self.arrival_ns + answer_ns_per_token * self.output_tokens + pause_ns
