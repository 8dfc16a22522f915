"""A synthetic chat service: sessions of several turns, each quoting all before it.

The defaults are fitted to published figures. A lognormal with median m and shape s has the
mean m * exp(s**2 / 2), so a published mean and median give s = sqrt(2 * ln(mean / median)).

======================== ========= =========================================================
parameter                default   source
======================== ========= =========================================================
sessions_per_second      2.75      Azure LLM inference 2023, conversation: 5.53 requests/s
                                   [1], over 2.0 turns
turns_mean               2.0       LMSYS-Chat-1M, table 1: 2.0 turns per conversation [2];
                                   WildChat: over 2.5 [3]. Geometric: half the sessions have
                                   one turn; BurstGPT: over 35 % one, median 2 [4]
system_prompts, _tokens  8, 512    assumption: eight applications on one server, with
                                   instructions of a page
system_prompt_skew       1.0       assumption: Zipf, weight 1 / rank; the k-th most popular
                                   of 8 gets 1 / (2.72 k) of the sessions
first_message_median     32        ShareGPT, first messages of the 55,857 conversations with
first_message_sigma      1.775     prompt + answer <= 2,048 tokens [5]: median 32, mean
                                   154.6; sqrt(2 ln(154.6 / 32)) = 1.775
later_message_median     14.4      LMSYS-Chat-1M, table 1: mean prompt 69.5 tokens [2],
later_message_sigma      1.775     without a median; the shape of the first messages is
                                   assumed: 69.5 / exp(1.775**2 / 2) = 14.4
answer_median            129       Azure conversation [1]: median 129, mean 211.1;
answer_sigma             0.992     sqrt(2 ln(211.1 / 129)) = 0.992. LMSYS-Chat-1M: mean
                                   214.5 [2]
answer_max_tokens        2048      assumption: clips 0.3 % of the answers, and 1 % of the
                                   mean (Azure's longest answer has 1,000)
think_mean_s             100       ServeGen: about 100 s between turns in production [6];
                                   exponential by assumption
answer_ns_per_token      25000000  TPOT of 25.4 ms in vLLM's multi-turn benchmark [7]
max_prompt_tokens        8192      assumption; ends 1 session in 700, most of them by a first
                                   message from the far tail (9 % of the mean of these)
======================== ========= =========================================================

[1] github.com/Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv.csv; a test recomputes
    the figures. [2] Zheng et al., ICLR 2024, arXiv:2309.11998; Llama-2 tokens.
[3] Zhao et al., ICLR 2024, arXiv:2405.01470, abstract: 1 M conversations, over 2.5 M turns.
[4] Wang et al., KDD 2025, arXiv:2401.17644. [5] Lengths published by NanoFlow,
    github.com/efeslab/Nanoflow, datasets/traces/sharegpt.csv; a test recomputes the figures.
[6] Xiang et al., arXiv:2505.09999. [7] vllm-project/vllm, benchmarks/multi_turn/README.md.
    The figures of [2], [4] and [6] are as others quote them, not read in the papers.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from sim.request import Request, Run
from traces.streams import Streams

_VERSION = 1
"""Part of the fingerprint; to be raised whenever equal parameters give other requests."""

_ALLOWED: dict[str, tuple[int, int] | tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "requests": (1, 10**9),
    "sessions_per_second": (1e-6, 1e6),
    "turns_mean": (1.0, 1e4),
    "system_prompts": (0, 10**6),
    "system_prompt_tokens": (1, 10**9),
    "system_prompt_skew": (0.0, 10.0),
    "first_message_median": (1.0, 1e6),
    "first_message_sigma": (0.0, 5.0),
    "later_message_median": (1.0, 1e6),
    "later_message_sigma": (0.0, 5.0),
    "answer_median": (1.0, 1e6),
    "answer_sigma": (0.0, 5.0),
    "answer_max_tokens": (1, 10**9),
    "think_mean_s": (0.0, 1e6),
    "answer_ns_per_token": (0, 10**12),
    "max_prompt_tokens": (1, 10**9),
}
"""Bounds of each parameter; whole numbers where the bounds are."""


@dataclass(kw_only=True, frozen=True, eq=False)
class ChatWorkload:
    """Requests of chat sessions, the first `requests` of them in order of arrival.

    Sessions start as a Poisson process and have a geometric number of turns. The prompt of a
    turn is the session's system prompt, all earlier messages and answers, and a new message::

        [system 0..511][message 1][answer 1][message 2][answer 2][message 3]
         shared         |<---- the session's prefix so far ---->| new

    Open loop: a turn arrives `answer_ns_per_token` times the length of the answer before it,
    plus a think time, after the turn before it, however long the server really took. Message
    and answer lengths are lognormal, rounded up to whole tokens; think times exponential.
    Equal seeds give equal requests, a larger `requests` continues a smaller one, and every
    quantity has a random generator of its own. Raises ValueError for parameters out of range.
    """

    seed: int = 0
    requests: int = 2000
    sessions_per_second: float = 2.75
    turns_mean: float = 2.0
    system_prompts: int = 8
    system_prompt_tokens: int = 512
    system_prompt_skew: float = 1.0
    """System prompt k (from 1) is chosen with a weight of 1 / k**skew; 0: all alike."""
    first_message_median: float = 32
    first_message_sigma: float = 1.775
    later_message_median: float = 14.4
    later_message_sigma: float = 1.775
    answer_median: float = 129
    answer_sigma: float = 0.992
    answer_max_tokens: int = 2048
    think_mean_s: float = 100
    answer_ns_per_token: int = 25_000_000
    max_prompt_tokens: int = 8192
    """A session ends, counted, before the prompt that would be longer."""
    name: str = field(default="chat", init=False)
    notes: Counter[str] = field(default_factory=Counter, init=False, repr=False)
    shifted_by: None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for parameter, (least, most) in _ALLOWED.items():
            value = getattr(self, parameter)
            whole = isinstance(least, int)
            if type(value) not in ((int,) if whole else (int, float)) or not least <= value <= most:
                kind = "a whole number" if whole else "a number"
                allowed = f"{kind} from {least:,} to {most:,}"
                raise ValueError(f"{parameter} = {value!r}: allowed {allowed}")
        # Sessions that cannot start yield no requests: without this, iterating might never end.
        shared_tokens = self.system_prompt_tokens if self.system_prompts else 0
        least_prompt = math.ceil(shared_tokens + self.first_message_median)
        if self.max_prompt_tokens < least_prompt:
            raise ValueError(
                f"max_prompt_tokens = {self.max_prompt_tokens}: allowed {least_prompt:,} or more,"
                " room for a system prompt and the median first message"
            )

    def __iter__(self) -> Iterator[Request]:
        self.notes.clear()
        streams = Streams()
        sessions = self._draw_sessions(streams)
        upcoming = next(sessions)
        waiting: list[tuple[int, int, _Session]] = []
        for _ in range(self.requests):
            while not waiting or upcoming.arrival_ns <= waiting[0][0]:
                self._queue(waiting, upcoming)
                upcoming = next(sessions)
            _, _, session = heapq.heappop(waiting)
            yield self._take_turn(session, streams)
            self._queue(waiting, session)
        cut = sum(session.turn > 0 for _, _, session in waiting)
        if cut:
            self.notes["sessions cut by the end of the workload"] = cut

    def fingerprint(self) -> str:
        """Of the parameters: numpy is taken to draw what it draws today (a test pins it)."""
        bounds = _ALLOWED.items()
        # By type, so that 32 and 32.0, which give equal requests, give equal fingerprints.
        values = {name: type(least)(getattr(self, name)) for name, (least, _) in bounds}
        return hashlib.sha256(json.dumps(["chat", _VERSION, values]).encode()).hexdigest()

    def _draw_sessions(self, streams: Streams) -> Iterator[_Session]:
        """Sessions by arrival, without end."""
        starts, choices, lengths, firsts, laters, answers, thinking = (
            np.random.default_rng(seed) for seed in np.random.SeedSequence(self.seed).spawn(7)
        )
        shared: list[tuple[Run, ...]] = [
            ((streams.private(), 0, self.system_prompt_tokens),) for _ in range(self.system_prompts)
        ] or [()]
        weights = np.arange(1, len(shared) + 1) ** -float(self.system_prompt_skew)
        weights /= weights.sum()
        arrival_ns = 0
        for index in count():
            arrival_ns += _nanoseconds(starts.exponential(1 / self.sessions_per_second))
            turns = int(lengths.geometric(1 / self.turns_mean))
            # All turns are drawn at once: a session that ends early shifts no other session.
            yield _Session(
                index=index,
                arrival_ns=arrival_ns,
                history=shared[choices.choice(len(shared), p=weights)],
                messages=[
                    *_lengths(firsts, 1, self.first_message_median, self.first_message_sigma),
                    *_lengths(
                        laters, turns - 1, self.later_message_median, self.later_message_sigma
                    ),
                ],
                answers=_lengths(answers, turns, self.answer_median, self.answer_sigma),
                thinks_s=thinking.exponential(self.think_mean_s, turns).tolist(),
            )

    def _queue(self, waiting: list[tuple[int, int, _Session]], session: _Session) -> None:
        """Have the session wait for its next turn, if it comes to one."""
        if session.turn == len(session.messages):
            return
        if session.prompt_tokens > self.max_prompt_tokens:
            self.notes[f"sessions ended before a prompt over {self.max_prompt_tokens} tokens"] += 1
            return
        # The index breaks ties, so that sessions themselves are never compared.
        heapq.heappush(waiting, (session.arrival_ns, session.index, session))

    def _take_turn(self, session: _Session, streams: Streams) -> Request:
        turn = session.turn
        answer_tokens = min(session.answers[turn], self.answer_max_tokens)
        if answer_tokens < session.answers[turn]:
            self.notes[f"answers clipped to {self.answer_max_tokens} tokens"] += 1
        message = (streams.private(), 0, session.messages[turn])
        answer = (streams.private(), 0, answer_tokens)
        request = Request(
            id=f"s{session.index:05d}-t{turn}",
            arrival_ns=session.arrival_ns,
            prompt=(*session.history, message),
            output_tokens=answer_tokens,
            output_stream=answer[0],
            session=f"s{session.index:05d}",
        )
        session.history = (*request.prompt, answer)
        session.arrival_ns += self.answer_ns_per_token * answer_tokens
        session.arrival_ns += _nanoseconds(session.thinks_s[turn])
        session.turn += 1
        return request


@dataclass(slots=True, eq=False)
class _Session:
    """A conversation: what it will say, and how far it has come."""

    index: int
    arrival_ns: int
    """Of its next turn."""
    history: tuple[Run, ...]
    """All that its next prompt quotes."""
    messages: list[int]
    answers: list[int]
    thinks_s: list[float]
    turn: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Of its next turn."""
        return sum(length for _, _, length in self.history) + self.messages[self.turn]


def _lengths(random: np.random.Generator, n: int, median: float, sigma: float) -> list[int]:
    """Lognormal lengths in tokens; rounded up, because nobody sends none."""
    return [math.ceil(x) for x in random.lognormal(math.log(median), sigma, n).tolist()]


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
