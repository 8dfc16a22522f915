"""LLMServingSim's traces: lengths, arrivals in ns, and the token ids themselves.

Cho et al., IISWC 2024; github.com/casys-kaist/LLMServingSim, MIT.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import ClassVar

from sim.request import Run
from traces.arrange import Row
from traces.clock import Clock
from traces.file import Head
from traces.filetrace import Compose, FileTrace
from traces.jsonl import Record, first_keys, read_records, shorten
from traces.prefixes import Prefixes
from traces.ranges import TOKENS
from traces.streams import Streams

_REQUIRED = ("input_toks", "output_toks", "arrival_time_ns")
_OPTIONAL = ("input_tok_ids", "output_tok_ids", "request_id", "session_id", "tenant")


class LlmServingSimTrace(FileTrace):
    """JSON lines: input_toks, output_toks, arrival_time_ns; input_tok_ids, output_tok_ids.

    Prompts share exactly the tokens by which they begin alike, answers quoted by later
    prompts included. Without ids a prompt, or an answer, is its own.
    """

    kind: ClassVar[str] = "llmservingsim"
    looks: ClassVar[str] = "JSON lines: input_toks, output_toks, arrival_time_ns, ..."

    @staticmethod
    def recognises(head: Head) -> bool:
        return first_keys(head).issuperset(_REQUIRED)

    def rows(self) -> Iterator[Row]:
        clock = Clock("ns", self.notes)
        for record in read_records(self._file):
            record.check_fields(required=_REQUIRED, optional=_OPTIONAL)
            yield Row(
                record.line,
                record.time_ns("arrival_time_ns", clock),
                record.show("arrival_time_ns"),
                record.whole("input_toks", TOKENS),
                record.whole("output_toks", TOKENS),
                (_ids(record, "input"), _ids(record, "output")),
                record.name("session_id"),
                record.name("tenant"),
            )

    def composing(self, streams: Streams) -> Compose:
        prefixes = Prefixes(streams)

        def compose(row: Row) -> tuple[tuple[Run, ...], int]:
            asked, answered = row.content
            if asked is None:
                return ((streams.private(), 0, row.prompt_tokens),), streams.private()
            prompt, end = prefixes.runs(asked)
            if answered is None:
                return prompt, streams.private()
            return prompt, prefixes.answer(end, answered)

        return compose


def _ids(record: Record, side: str) -> array[int] | None:
    key, length = f"{side}_tok_ids", record.fields[f"{side}_toks"]
    if key not in record:
        return None
    ids = record.items(key)
    if len(ids) != length:
        found = f"{len(ids)} {key} for {side}_toks = {length}"
        raise record.error(found=found, allowed="one for each token")
    try:
        return array("q", ids)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        wrong = next(each for each in ids if type(each) is not int or abs(each) >= 2**63)
        found = f"{shorten(wrong)} among {key}"
        raise record.error(found=found, allowed="whole numbers of 64 bits") from None
