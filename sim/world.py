"""What the world knows and a server does not: how long each answer will be."""

from __future__ import annotations

import heapq

from sim.plan import Plan
from sim.request import Request, Sequence


class World:
    """Ends answers. An answer is as long as the trace says, unless the client's max_tokens
    or the model's context (prompt + answer <= max_model_len) cuts it short."""

    def __init__(self, *, max_model_len: int) -> None:
        self.max_model_len = max_model_len
        self._answer_tokens: dict[Sequence, int] = {}
        self._born: list[Sequence] = []
        """Forked with the tokens that are being given."""

    def refusal(self, request: Request) -> str | None:
        """Why no server of this configuration takes the request; None if it does."""
        prompt_tokens = request.prompt_tokens
        if prompt_tokens >= self.max_model_len:
            return (
                f"prompt of {prompt_tokens} tokens leaves no room for an answer"
                f" within max_model_len {self.max_model_len}"
            )
        return None

    def expect(self, sequence: Sequence, output_tokens: int) -> int:
        """Remember how long the answer will be, and return it: the trace's length, cut.

        Raises ValueError for an answer without tokens, which no step could end.
        """
        answer_tokens = min(output_tokens, self.max_model_len - sequence.prompt_tokens)
        if sequence.max_tokens is not None:
            answer_tokens = min(answer_tokens, sequence.max_tokens)
        if answer_tokens < 1:
            raise ValueError(f"request {sequence.id}: an answer needs at least one token")
        self._answer_tokens[sequence] = answer_tokens
        return answer_tokens

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """The child's answer will be as long as its parent's."""
        self._answer_tokens[child] = self._answer_tokens[parent]
        self._born.append(child)

    def forget(self, sequences: list[Sequence]) -> None:
        """These answers are given up."""
        for sequence in sequences:
            del self._answer_tokens[sequence]

    def answer_tokens(self, sequence: Sequence) -> int:
        """How long the answer will be: for policies whose name says that they are oracles."""
        return self._answer_tokens[sequence]

    def steps_left(self, plan: Plan) -> int:
        """How often the plan can run until the first of its decodes ends."""
        answer_tokens = self._answer_tokens
        return min(answer_tokens[sequence] - sequence.generated for sequence in plan.decodes)

    def ended(self, plan: Plan, k: int) -> list[Sequence]:
        """Sequences whose answer ends with the last of the k times that the plan ran, in row
        order, those just forked last."""
        answer_tokens = self._answer_tokens
        ended = [
            sequence
            for sequence in (*plan.completing, *plan.decodes)
            # Of a batch in flight, somebody's answer may have ended meanwhile.
            if sequence.generated + 1 == answer_tokens.get(sequence)
        ]
        ended += [child for child in self._born if child.generated == answer_tokens[child]]
        self._born.clear()
        ended.sort(key=lambda sequence: sequence.admission)
        for sequence in ended:
            del answer_tokens[sequence]
        return ended


class CalendarWorld(World):
    """The same world for schedulers whose decodes compute in every step and which never fork:
    it notes in which step an answer will end when it begins (or resumes), and never lists the
    decodes."""

    def __init__(self, *, max_model_len: int) -> None:
        super().__init__(max_model_len=max_model_len)
        self._calendar: list[tuple[int, int, int, Sequence]] = []
        """(last step, admission, preemptions so far, sequence)"""

    def steps_left(self, plan: Plan) -> int:
        calendar = self._calendar
        while calendar[0][2] != calendar[0][3].preemptions:  # it was preempted meanwhile
            heapq.heappop(calendar)
        return calendar[0][0] - plan.step + 1

    def ended(self, plan: Plan, k: int) -> list[Sequence]:
        calendar = self._calendar
        for sequence in plan.completing:
            last = plan.step + self._answer_tokens[sequence] - sequence.generated - 1
            entry = (last, sequence.admission, sequence.preemptions, sequence)
            heapq.heappush(calendar, entry)
        last_step = plan.step + k - 1
        ended = []
        while calendar and calendar[0][0] <= last_step:
            _, _, preemptions, sequence = heapq.heappop(calendar)
            if preemptions == sequence.preemptions:
                ended.append(sequence)
                del self._answer_tokens[sequence]
        return ended
