"""The CSV traces of Vidur and splitwise-sim.

Agrawal et al., MLSys 2024, github.com/microsoft/vidur, MIT; Patel et al., ISCA 2024,
github.com/Mutinifni/splitwise-sim, MIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from traces.arrange import Row
from traces.clock import Clock
from traces.file import Head
from traces.filetrace import FileTrace
from traces.ranges import TOKENS
from traces.table import first_columns, read_table

_VIDUR = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
_SPLITWISE = (
    *("request_id", "request_type", "application_id"),
    *("arrival_timestamp", "batch_size", "prompt_size", "token_size"),
)


class VidurTrace(FileTrace):
    """CSV: arrived_at in s, num_prefill_tokens, num_decode_tokens; other columns are ignored."""

    kind: ClassVar[str] = "vidur"
    looks: ClassVar[str] = f"CSV: {','.join(_VIDUR)}"

    @staticmethod
    def recognises(head: Head) -> bool:
        return first_columns(head).issuperset(_VIDUR)

    def rows(self) -> Iterator[Row]:
        clock = Clock("s", self.notes)
        for record in read_table(self._file, required=_VIDUR):
            yield Row(
                record.line,
                record.time_ns("arrived_at", clock),
                record.show("arrived_at"),
                record.whole("num_prefill_tokens", TOKENS),
                record.whole("num_decode_tokens", TOKENS),
            )


class SplitwiseTrace(FileTrace):
    """CSV: arrival_timestamp in s, prompt_size, token_size, and four columns more.

    An application is a tenant. batch_size must be 1: a row is one request.
    """

    kind: ClassVar[str] = "splitwise"
    looks: ClassVar[str] = f"CSV: {','.join(_SPLITWISE)}"

    @staticmethod
    def recognises(head: Head) -> bool:
        return first_columns(head).issuperset(_SPLITWISE)

    def rows(self) -> Iterator[Row]:
        clock = Clock("s", self.notes)
        for record in read_table(self._file, required=_SPLITWISE):
            record.whole("batch_size", range(1, 2))
            yield Row(
                record.line,
                record.time_ns("arrival_timestamp", clock),
                record.show("arrival_timestamp"),
                record.whole("prompt_size", TOKENS),
                record.whole("token_size", TOKENS),
                tenant=record.name("application_id"),
            )
