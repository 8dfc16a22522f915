"""What the world knows and a server does not: how long each answer will be."""

from __future__ import annotations

from sim.plan import Plan
from sim.request import Request, Sequence


class World:
    """Ends answers. An answer is as long as the trace says, unless the client's max_tokens
    or the model's context (prompt + answer <= max_model_len) cuts it short."""

    def __init__(self, *, max_model_len: int) -> None:
        self.max_model_len = max_model_len
        self._answer_tokens: dict[Sequence, int] = {}

    def refusal(self, request: Request) -> str | None:
        """Why no server of this configuration takes the request; None if it does."""
        if request.prompt_tokens >= self.max_model_len:
            return (
                f"prompt of {request.prompt_tokens} tokens leaves no room for an answer"
                f" within max_model_len {self.max_model_len}"
            )
        return None

    def answer_tokens(self, request: Request) -> int:
        """Tokens that the request will be answered with."""
        room = self.max_model_len - request.prompt_tokens
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        return min(request.output_tokens, limit)

    def expect(self, sequence: Sequence, answer_tokens: int) -> None:
        self._answer_tokens[sequence] = answer_tokens

    def ended(self, plan: Plan, k: int) -> list[Sequence]:
        """Sequences whose answer ends when the plan has run k times, in row order."""
        answer_tokens = self._answer_tokens
        ended = [
            sequence
            for sequence, _, _ in plan.chunks
            if sequence.computed == sequence.num_tokens
            and sequence.generated + 1 == answer_tokens[sequence]
        ]
        ended += [
            sequence
            for sequence in plan.decodes
            if sequence.generated + k == answer_tokens[sequence]
        ]
        ended.sort(key=lambda sequence: sequence.admission)
        for sequence in ended:
            del answer_tokens[sequence]
        return ended
