"""Mooncake's traces: arrivals, lengths, and which blocks of prompts are the same.

Qin et al., FAST 2025; github.com/kvcache-ai/Mooncake, FAST25-release/traces, Apache-2.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sim.request import Request, Run
from traces.file import TraceFile
from traces.intake import ARRIVALS, INT64, TOKENS, Intake, whole_number
from traces.jsonl import Record, first_keys, read_records, shorten
from traces.streams import Streams

_FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")
_MILLISECONDS = range(ARRIVALS.stop // 10**6)


class MooncakeTrace:
    """JSON lines (also .gz): timestamp in ms, input_length, output_length, hash_ids.

    A hash id names a block of `block_tokens` prompt tokens together with all before it; the
    last block of a prompt may be partial. Offset o in block h is the token (stream of h, o),
    so any block size of a cache finds the shared prefixes. Answers are private: no later
    prompt is known to quote them. The first request kept arrives at 0, equal timestamps
    keep their order, rows with a zero length are dropped and counted. A request is called
    after its row, counted from 0. Iterating raises TraceError for missing or unknown fields,
    values that are no counts, rows out of order, and a number of hash ids that is not
    input_length / block_tokens rounded up; ValueError for block_tokens below 1.
    """

    def __init__(self, path: str | Path, *, block_tokens: int = 512) -> None:
        if block_tokens < 1:
            raise ValueError(f"block_tokens = {block_tokens}: allowed 1 or more")
        self._file = TraceFile(path)
        self.name = self._file.path.name
        self.notes: Counter[str] = Counter()
        self.shifted_by: str | None = None
        self.block_tokens = block_tokens

    @staticmethod
    def recognises(first_line: str) -> bool:
        return first_keys(first_line).issuperset(_FIELDS)

    def __iter__(self) -> Iterator[Request]:
        intake = Intake(self._file, notes=self.notes, shifted=True)
        streams = Streams()
        for row, record in enumerate(read_records(self._file)):
            record.check_fields(required=_FIELDS)
            prompt_tokens = record.whole("input_length", TOKENS)
            output_tokens = record.whole("output_length", TOKENS)
            timestamp_ms = record.whole("timestamp", _MILLISECONDS)
            if not intake.has_tokens(prompt_tokens=prompt_tokens, output_tokens=output_tokens):
                continue
            shown = f"timestamp = {timestamp_ms}"
            arrival_ns = intake.place(timestamp_ms * 10**6, line=record.line, shown=shown)
            self.shifted_by = intake.shifted_by
            yield Request(
                id=f"r{row:05d}",
                arrival_ns=arrival_ns,
                prompt=self._prompt(record, prompt_tokens, streams),
                output_tokens=output_tokens,
                output_stream=streams.private(),
            )
        intake.finish()

    def fingerprint(self) -> str:
        return self._file.fingerprint("mooncake", block_tokens=self.block_tokens)

    def _prompt(self, record: Record, prompt_tokens: int, streams: Streams) -> tuple[Run, ...]:
        hash_ids = record.items("hash_ids")
        full, rest = divmod(prompt_tokens, self.block_tokens)
        lengths = [self.block_tokens] * full + [rest] * (rest > 0)
        if len(hash_ids) != len(lengths):
            raise record.error(
                found=f"{len(hash_ids)} hash_ids for input_length = {prompt_tokens}",
                allowed=f"{len(lengths)} (a block has {self.block_tokens} tokens)",
            )
        for block in hash_ids:
            if type(block) is not int or block not in INT64:
                found = f"{shorten(block)} among hash_ids"
                raise record.error(found=found, allowed=whole_number(INT64))
        return tuple(
            (streams.of(block), 0, length) for block, length in zip(hash_ids, lengths, strict=True)
        )
