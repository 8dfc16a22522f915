"""Conversations: turns that quote all before them, in open loop."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from sim.request import Request, Run
from traces.ranges import check_least
from traces.synthetic.draws import Draws, Whole, choose_key, endless
from traces.synthetic.traffic import Clip, Drawn, Traffic


@dataclass(frozen=True, kw_only=True)
class SessionTraffic(Traffic):
    """Sessions of several turns; arrivals are those of sessions, lengths those of turns.

    Turn j + 1 arrives `answer_ns_per_token` times the length of answer j, plus an exponential
    think time, after turn j, however long the server really took. Its prompt quotes all
    before it::

        [around: shared][question 1][answer 1][question 2][answer 2][question 3]

    The number of turns is geometric. All turns of a session are drawn as it begins, and have
    its tenant and priority; n is drawn for each. A session ends, noted, before a prompt of
    more than `max_prompt_tokens`; first prompts are as long as they are.
    """

    turns_mean: float = 2.0
    think_mean_s: float = 100.0
    answer_ns_per_token: int = 25_000_000
    max_prompt_tokens: int = 32_768

    def __post_init__(self) -> None:
        check_least(1, turns_mean=self.turns_mean, max_prompt_tokens=self.max_prompt_tokens)
        check_least(0, think_mean_s=self.think_mean_s, answer_ns_per_token=self.answer_ns_per_token)

    def requests(self, draws: Draws, *, tenant: str | None = None) -> Iterator[Drawn]:
        sessions = self._sessions(draws, tenant)
        upcoming = next(sessions, None)
        waiting: list[tuple[int, int, _Session]] = []
        clip, stream = Clip(self.lengths.longest), self.sharing.streams
        while upcoming or waiting:
            if upcoming and (not waiting or upcoming.arrival_ns <= waiting[0][0]):
                session, upcoming = upcoming, next(sessions, None)
            else:
                _, _, session = heapq.heappop(waiting)
            first = session.turn == 0
            request, oddities = session.take_turn(clip, stream)
            stream += 2
            goes_on = session.turn < len(session.turns)
            if goes_on and session.next_prompt_tokens(clip) > self.max_prompt_tokens:
                oddities += (
                    f"sessions ended before a prompt over {self.max_prompt_tokens} tokens",
                )
                goes_on = False
            if goes_on:
                session.arrival_ns += request.output_tokens * self.answer_ns_per_token
                # The index breaks ties, so that sessions themselves are never compared.
                heapq.heappush(waiting, (session.arrival_ns, session.index, session))
            yield Drawn(request, oddities, (first and goes_on) - (not first and not goes_on))

    def _sessions(self, draws: Draws, tenant: str | None) -> Iterator[_Session]:
        turns, thinking = draws.generator("turns"), draws.generator("thinking")
        counts = endless(lambda size: turns.geometric(1 / self.turns_mean, size))
        thinks_ns = endless(lambda size: self._think_ns(thinking, size))
        pairs = self.lengths.pairs(draws)
        ns = choose_key(self.n, draws.generator("n"), default=1)
        tenants = choose_key(self.tenants, draws.generator("tenants"), default=tenant)
        each_turn = zip(pairs, thinks_ns, ns, strict=True)
        columns = zip(
            self.arrivals.arrivals_ns(draws),
            counts,
            self.sharing.surroundings(draws),
            tenants,
            choose_key(self.priorities, draws.generator("priorities"), default=0),
            strict=False,  # arrivals may end
        )
        for index, (arrival_ns, count, around, whose, priority) in enumerate(columns):
            yield _Session(
                index=index,
                arrival_ns=arrival_ns,
                history=around[0],
                behind=around[1],
                tenant=whose,
                priority=priority,
                turns=[_Turn(pair, think_ns, n) for pair, think_ns, n in islice(each_turn, count)],
            )

    def _think_ns(self, random: np.random.Generator, size: int) -> Whole:
        return np.rint(random.standard_exponential(size) * self.think_mean_s * 1e9).astype(np.int64)


class _Turn(NamedTuple):
    lengths: tuple[int, int]
    think_ns: int
    """From the end of the answer to the next turn."""
    n: int


@dataclass(slots=True, eq=False)
class _Session:
    """A conversation: what it will say, and how far it has come."""

    index: int
    arrival_ns: int
    """Of its next turn."""
    history: tuple[Run, ...]
    """All that its next prompt quotes."""
    behind: tuple[Run, ...]
    """What stands behind the first question."""
    tenant: str | None
    priority: int
    turns: list[_Turn]
    turn: int = 0

    def take_turn(self, clip: Clip, stream: int) -> tuple[Request, tuple[str, ...]]:
        """The next turn's request, its own content in `stream` and the one after it."""
        lengths, think_ns, n = self.turns[self.turn]
        (question, output), oddities = clip(lengths)
        request = Request(
            f"s{self.index:05d}-t{self.turn}",
            self.arrival_ns,
            (*self.history, (stream, 0, question), *self.behind),
            output,
            stream + 1,
            None,
            self.priority,
            self.tenant,
            f"s{self.index:05d}",
            n,
        )
        self.history, self.behind = (*request.prompt, (stream + 1, 0, output)), ()
        self.arrival_ns += think_ns
        self.turn += 1
        return request, oddities

    def next_prompt_tokens(self, clip: Clip) -> int:
        (question, _), _ = clip(self.turns[self.turn].lengths)
        return sum(length for _, _, length in self.history) + question
