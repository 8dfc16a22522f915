"""ShareGPT: conversations as users published them; no times, no tokens, but every word.

The file most benchmarks use is ShareGPT_V3_unfiltered_cleaned_split.json (about 640 MB) of
huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered; its content has no licence
of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import ClassVar, NamedTuple, Unpack

from sim.request import Run
from traces.arrange import Row
from traces.file import Head
from traces.filetrace import Compose, FileTrace
from traces.json_list import read_json_list
from traces.jsonl import Record, shorten
from traces.ranges import check_least
from traces.sessions import ANSWER_NS_PER_TOKEN, THINK_S, Conversation, Turn
from traces.streams import Streams
from traces.text import CHARACTERS_PER_TOKEN, Estimate
from traces.timeless import TIMELESS, ArrivalOptions, GivenArrivals

_ASKING = ("human", "user")
_ANSWERING = ("gpt", "chatgpt", "assistant", "bing", "bard")
_SYSTEM = "system"


class _Turn(NamedTuple):
    """Tokens of a message and its answer."""

    message: int
    answer: int


class ShareGptTrace(FileTrace):
    """A JSON list of {"conversations": [{"from": "human" | "gpt", "value": text}, ...]}.

    A conversation is a session: the prompt of a turn is all earlier messages and answers,
    and a new message. Conversations begin when the config says; a later turn comes `think_s`
    after the answer before it, which is taken to need `answer_ns_per_token`. Tokens are
    estimated from `characters_per_token`. What is said before the first message, and a
    message nobody answered, is dropped and counted; messages without an answer between them
    are one. Streamed: the file may be larger than memory.
    """

    kind: ClassVar[str] = "sharegpt"
    looks: ClassVar[str] = 'a JSON list of {"conversations": [{"from": ..., "value": ...}]}'
    takes: ClassVar[tuple[str, ...]] = TIMELESS
    shifted: ClassVar[bool] = False

    def __init__(
        self,
        path: str | Path,
        *,
        characters_per_token: float = CHARACTERS_PER_TOKEN,
        think_s: float = THINK_S,
        answer_ns_per_token: int = ANSWER_NS_PER_TOKEN,
        **arrivals: Unpack[ArrivalOptions],
    ) -> None:
        super().__init__(path)
        check_least(0, think_s=think_s, answer_ns_per_token=answer_ns_per_token)
        self._characters_per_token = characters_per_token
        self._think_s = think_s
        self._answer_ns_per_token = answer_ns_per_token
        self._arrivals = GivenArrivals(self._file, **arrivals)

    @staticmethod
    def recognises(head: Head) -> bool:
        return head.first_line.lstrip().startswith("[")

    def rows(self) -> Iterator[Row]:
        estimate = Estimate(self._characters_per_token, self.notes)
        times_ns = self._arrivals.times_ns()
        sessions = count()
        pause_ns = round(self._think_s * 1e9)
        for record in read_json_list(self._file):
            self._arrivals.check(line=record.line, found="conversations")
            turns = self._turns(record, estimate)
            if not turns:
                self.notes["conversations without a question and its answer dropped"] += 1
                continue
            session = f"s{next(sessions):05d}"
            said = Conversation()
            now: Turn | None = None
            for number, turn in enumerate(turns):
                if now is None:
                    arrival_ns = next(times_ns)
                else:
                    self.notes["later turns placed after a nominal answer time"] += 1
                    arrival_ns = now.next_ns(
                        answer_ns_per_token=self._answer_ns_per_token, pause_ns=pause_ns
                    )
                now = Turn(arrival_ns, turn.answer)
                yield Row(
                    record.line,
                    arrival_ns,
                    f"turn {number} of {session} at {arrival_ns} ns",
                    turn.message,
                    turn.answer,
                    said,
                    session,
                    id=f"{session}-t{number}",
                    floating=number > 0,
                )

    def composing(self, streams: Streams) -> Compose:
        def compose(row: Row) -> tuple[tuple[Run, ...], int]:
            said: Conversation = row.content
            message = ((streams.private(), 0, row.prompt_tokens),)
            return said.say(message, output_tokens=row.output_tokens, streams=streams)

        return compose

    def parameters(self) -> dict[str, object]:
        return {
            "characters_per_token": float(self._characters_per_token),
            "think_s": float(self._think_s),
            "answer_ns_per_token": self._answer_ns_per_token,
            **self._arrivals.parameters(),
        }

    def _turns(self, record: Record, estimate: Estimate) -> list[_Turn]:
        record.require("conversations")
        turns: list[_Turn] = []
        message = answer = 0
        asked = False
        for said in record.items("conversations"):
            role, text = self._said(record, said)
            if role in _ANSWERING:
                if asked:
                    answer += estimate.count(text)
                else:
                    self.notes["answers before the first message dropped"] += 1
                continue
            if answer:
                turns.append(_Turn(message, answer))
                message = answer = 0
                asked = False
            if role in _ASKING:
                if asked:
                    self.notes["messages without an answer joined with the next"] += 1
                asked = True
            message += estimate.count(text)
        if answer:
            turns.append(_Turn(message, answer))
        elif asked:
            self.notes["last messages without an answer dropped"] += 1
        return turns

    def _said(self, record: Record, said: object) -> tuple[str, str]:
        """(role, text) of one entry of a conversation."""
        if isinstance(said, dict):
            role, text = said.get("from"), said.get("value")
            if role in (*_ASKING, *_ANSWERING, _SYSTEM) and isinstance(text, str):
                return role, text
        raise record.error(
            found=f"{shorten(said)} among conversations",
            allowed='{"from": "human" or "gpt" (also '
            f'{", ".join((*_ASKING[1:], *_ANSWERING[1:], _SYSTEM))}), "value": a text}}',
        )
