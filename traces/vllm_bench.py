"""The data sets `custom` and `timed_trace` of `vllm bench serve`.

github.com/vllm-project/vllm, vllm/benchmarks/datasets, Apache-2.0; timed_trace came with
pull request 39795.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Unpack

from sim.request import Run
from traces.arrange import Row
from traces.blocks import block_row, check_block_tokens, composing_blocks
from traces.clock import TickClock
from traces.file import Head
from traces.filetrace import Compose, FileTrace, Options
from traces.jsonl import Record, first_keys, read_records
from traces.prefixes import Prefixes
from traces.ranges import TOKENS
from traces.streams import Streams
from traces.text import CHARACTERS_PER_TOKEN, Estimate
from traces.timeless import TIMELESS, ArrivalOptions, GivenArrivals

_TIMED = ("timestamp", "input_length", "output_length", "hash_ids")


class VllmCustomTrace(FileTrace):
    """JSON lines: prompt (a text), and optionally output_tokens; other fields are ignored.

    Tokens of prompts are estimated; prompts share the pieces by which they begin alike.
    `output_tokens` holds for rows that say none, like vLLM's --custom-output-len. Rows
    arrive in the file's order, when the config says.
    """

    kind: ClassVar[str] = "vllm_custom"
    looks: ClassVar[str] = "JSON lines: prompt, output_tokens"
    takes: ClassVar[tuple[str, ...]] = TIMELESS
    shifted: ClassVar[bool] = False

    def __init__(
        self,
        path: str | Path,
        *,
        output_tokens: int | None = None,
        characters_per_token: float = CHARACTERS_PER_TOKEN,
        **arrivals: Unpack[ArrivalOptions],
    ) -> None:
        super().__init__(path)
        self._output_tokens = output_tokens
        self._characters_per_token = characters_per_token
        self._arrivals = GivenArrivals(self._file, **arrivals)

    @staticmethod
    def recognises(head: Head) -> bool:
        keys = first_keys(head)
        return "prompt" in keys and "out_stream" not in keys

    def rows(self) -> Iterator[Row]:
        estimate = Estimate(self._characters_per_token, self.notes)
        times_ns = self._arrivals.times_ns()
        for record in read_records(self._file):
            self._arrivals.check(line=record.line, found="prompts")
            record.require("prompt", optional=("output_tokens",))
            text = record.text("prompt")
            output_tokens = self._answer(record)
            yield Row(
                record.line,
                next(times_ns) if output_tokens else 0,
                self._arrivals.shown,
                estimate.count(text),
                output_tokens,
                text,
            )

    def composing(self, streams: Streams) -> Compose:
        prefixes = Prefixes(streams)
        estimate = Estimate(self._characters_per_token, self.notes)

        def compose(row: Row) -> tuple[tuple[Run, ...], int]:
            prompt, _ = prefixes.runs(estimate.tokens(row.content))
            return prompt, streams.private()

        return compose

    def parameters(self) -> dict[str, object]:
        return {
            "output_tokens": self._output_tokens,
            "characters_per_token": float(self._characters_per_token),
            **self._arrivals.parameters(),
        }

    def _answer(self, record: Record) -> int:
        if "output_tokens" in record:
            return record.whole("output_tokens", TOKENS)
        if self._output_tokens is None:
            allowed = "output_tokens in every row, or the option output_tokens: N for the others"
            raise record.error(found="no field 'output_tokens'", allowed=allowed)
        self.notes[f"answers taken to have {self._output_tokens} tokens"] += 1
        return self._output_tokens


class TimedTrace(FileTrace):
    """JSON lines: timestamp, input_length, output_length, hash_ids, in units of the caller's.

    `chunk_hash_size` is the number of tokens per hash id, `sec_multiplier` the seconds of
    one unit of timestamp: the files do not say, and vLLM's defaults fit few of them.
    """

    kind: ClassVar[str] = "timed_trace"
    looks: ClassVar[str] = "as mooncake; never told from it, so name this kind"

    def __init__(
        self,
        path: str | Path,
        *,
        chunk_hash_size: int,
        sec_multiplier: float,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(path, **options)
        self._block_tokens = check_block_tokens(chunk_hash_size)
        self._sec_multiplier = sec_multiplier

    def rows(self) -> Iterator[Row]:
        clock = TickClock(self._sec_multiplier, self.notes)
        for record in read_records(self._file):
            record.require(*_TIMED)
            yield block_row(record, clock, block_tokens=self._block_tokens)

    def composing(self, streams: Streams) -> Compose:
        return composing_blocks(streams, block_tokens=self._block_tokens)

    def parameters(self) -> dict[str, object]:
        return {
            "chunk_hash_size": self._block_tokens,
            "sec_multiplier": float(self._sec_multiplier),
            **super().parameters(),
        }
