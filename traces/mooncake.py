"""Mooncake's traces: arrivals, lengths, and which blocks of prompts are the same.

Qin et al., FAST 2025; github.com/kvcache-ai/Mooncake, FAST25-release/traces, Apache-2.0.
The dialect with sessions is that of NVIDIA AIPerf (github.com/ai-dynamo/aiperf, Apache-2.0,
src/aiperf/dataset/loader/models.py, class MooncakeTrace).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple, Unpack

from sim.request import Run
from traces.arrange import Row
from traces.blocks import block_runs, check_block_tokens, read_hash_ids
from traces.clock import Clock
from traces.file import Head
from traces.filetrace import Compose, FileTrace, Options
from traces.jsonl import Record, first_keys, read_records
from traces.prefixes import Prefixes
from traces.ranges import TOKENS, check_least
from traces.sessions import ANSWER_NS_PER_TOKEN, Conversation, Turn
from traces.streams import Streams
from traces.text import CHARACTERS_PER_TOKEN, Estimate
from traces.timeless import TIMELESS, GivenArrivals

_OPTIONAL = ("timestamp", "input_length", "hash_ids", "text_input", "session_id", "delay", "extra")


class _Content(NamedTuple):
    """What is known of a prompt."""

    hash_ids: list[int] | None
    text: str | None
    said: Conversation | None
    """What the prompt is to be put behind."""


class MooncakeTrace(FileTrace):
    """JSON lines (also .gz): timestamp in ms, input_length, output_length, hash_ids.

    A hash id names a block of `block_tokens` prompt tokens together with all before it; the
    last block of a prompt may be partial. Answers are private: no later prompt is known to
    quote them.

    AIPerf's dialect may leave out hash_ids (the prompt is its own then) or give text_input
    instead of input_length, whose tokens are estimated. Of a session_id the first turn has
    a timestamp; a later one without comes `delay` ms after the answer before it, which is
    taken to need `answer_ns_per_token`. `session_input` says whether a later turn's row is
    only what is "new", as AIPerf replays it, or the "whole" prompt. Where no first turn has
    a timestamp, the config gives arrivals.
    """

    kind: ClassVar[str] = "mooncake"
    looks: ClassVar[str] = "JSON lines: timestamp, input_length, output_length, hash_ids"
    takes: ClassVar[tuple[str, ...]] = (*FileTrace.takes, *TIMELESS)

    def __init__(
        self,
        path: str | Path,
        *,
        block_tokens: int = 512,
        session_input: str | None = None,
        answer_ns_per_token: int = ANSWER_NS_PER_TOKEN,
        characters_per_token: float = CHARACTERS_PER_TOKEN,
        arrivals_per_second: float | None = None,
        at_once: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(path, **options)
        check_least(0, answer_ns_per_token=answer_ns_per_token)
        if session_input not in (None, "new", "whole"):
            raise ValueError(f"session_input = {session_input!r}: allowed new, whole or None")
        self.block_tokens = check_block_tokens(block_tokens)
        self._session_input = session_input
        self._answer_ns_per_token = answer_ns_per_token
        self._characters_per_token = characters_per_token
        self._arrivals = GivenArrivals(
            self._file,
            arrivals_per_second=arrivals_per_second,
            at_once=at_once,
            seed=self._seed,
        )

    @staticmethod
    def recognises(head: Head) -> bool:
        keys = first_keys(head)
        lengths = {"input_length", "output_length"} <= keys or {"text_input"} <= keys
        return lengths and "chat_id" not in keys

    def rows(self) -> Iterator[Row]:
        clock = Clock("ms", self.notes)
        estimate = Estimate(self._characters_per_token, self.notes)
        times_ns = self._arrivals.times_ns()
        turns: dict[str, Turn] = {}
        said: dict[str, Conversation] = {}
        for record in read_records(self._file):
            record.check_fields(required=("output_length",), optional=_OPTIONAL)
            if "extra" in record:
                self.notes["fields 'extra' ignored"] += 1
            session = record.name("session_id")
            earlier = None if session is None else turns.get(session)
            arrival_ns, shown = self._arrival(record, earlier, clock, times_ns)
            prompt_tokens, hash_ids, text = self._input(record, estimate)
            output_tokens = record.whole("output_length", TOKENS)
            if session is not None:
                turns[session] = Turn(arrival_ns, output_tokens)
                if self._accumulates(record):
                    said.setdefault(session, Conversation())
            yield Row(
                record.line,
                arrival_ns,
                shown,
                prompt_tokens,
                output_tokens,
                _Content(hash_ids, text, said.get(session or "")),
                session,
                floating=earlier is not None and "timestamp" not in record,
            )

    def composing(self, streams: Streams) -> Compose:
        prefixes = Prefixes(streams)
        # Its pieces are numbered per pass, as the prompts they become are.
        estimate = Estimate(self._characters_per_token, self.notes)

        def compose(row: Row) -> tuple[tuple[Run, ...], int]:
            content: _Content = row.content
            if content.hash_ids is not None:
                prompt = block_runs(
                    content.hash_ids,
                    row.prompt_tokens,
                    block_tokens=self.block_tokens,
                    streams=streams,
                )
            elif content.text is not None:
                prompt, _ = prefixes.runs(estimate.tokens(content.text))
            else:
                prompt = ((streams.private(), 0, row.prompt_tokens),)
            if content.said is None:
                return prompt, streams.private()
            return content.said.say(prompt, output_tokens=row.output_tokens, streams=streams)

        return compose

    def parameters(self) -> dict[str, object]:
        given = {"block_tokens": self.block_tokens} | super().parameters()
        given |= self._arrivals.parameters()
        if self._session_input is not None:
            given["session_input"] = self._session_input
        if self._answer_ns_per_token != ANSWER_NS_PER_TOKEN:
            given["answer_ns_per_token"] = self._answer_ns_per_token
        if self._characters_per_token != CHARACTERS_PER_TOKEN:
            given["characters_per_token"] = float(self._characters_per_token)
        return given

    def _arrival(
        self, record: Record, earlier: Turn | None, clock: Clock, times_ns: Iterator[int]
    ) -> tuple[int, str]:
        if "timestamp" in record:
            if "delay" in record or self._arrivals.given:
                beside = "delay" if "delay" in record else "arrivals given by the config"
                found = f"timestamp beside {beside}"
                raise record.error(found=found, allowed="one of them")
            return record.time_ns("timestamp", clock), record.show("timestamp")
        if earlier is None:
            if not self._arrivals.given:
                found = "a request without timestamp, and no earlier turn in its session"
                allowed = "a timestamp in ms, or for all such requests the options"
                raise record.error(
                    found=found, allowed=f"{allowed} arrivals_per_second: N or at_once: true"
                )
            self._arrivals.check(line=record.line, found="requests")
            return next(times_ns), self._arrivals.shown
        pause_ns = record.time_ns("delay", clock) if "delay" in record else 0
        if pause_ns < 0:
            raise record.error(found=record.show("delay"), allowed="0 or more milliseconds")
        self.notes["later turns placed after a nominal answer time"] += 1
        arrival_ns = earlier.next_ns(
            answer_ns_per_token=self._answer_ns_per_token, pause_ns=pause_ns
        )
        return arrival_ns, f"a later turn at {arrival_ns / 10**6:.6f} ms"

    def _input(
        self, record: Record, estimate: Estimate
    ) -> tuple[int, list[int] | None, str | None]:
        """(prompt tokens, hash ids, text)."""
        if ("text_input" in record) == ("input_length" in record):
            count = "both" if "text_input" in record else "neither"
            found = f"{count} of input_length and text_input"
            raise record.error(found=found, allowed="one of them")
        if "text_input" in record:
            text = record.text("text_input")
            return estimate.count(text), None, text
        prompt_tokens = record.whole("input_length", TOKENS)
        if "hash_ids" not in record:
            self.notes["prompts without hash_ids, each taken to be its own"] += 1
            return prompt_tokens, None, None
        hash_ids = read_hash_ids(record, prompt_tokens, block_tokens=self.block_tokens)
        return prompt_tokens, hash_ids, None

    def _accumulates(self, record: Record) -> bool:
        if self._session_input is None:
            allowed = (
                "with the option session_input: new (a later turn's row is put behind the turns"
                " before it, as AIPerf replays it) or whole (it is the whole prompt)"
            )
            raise record.error(found=record.show("session_id"), allowed=allowed)
        return self._session_input == "new"
