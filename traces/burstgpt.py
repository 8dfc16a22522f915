"""BurstGPT: ChatGPT and GPT-4 as one university used them on Azure.

Wang et al., KDD 2025, arXiv:2401.17644; github.com/HPMLL/BurstGPT, CC-BY 4.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Unpack

from traces.arrange import Row
from traces.clock import Clock
from traces.file import Head
from traces.filetrace import FileTrace, Options
from traces.ranges import TOKENS
from traces.table import TableRecord, first_columns, read_table

_COLUMNS = ("Timestamp", "Model", "Request tokens", "Response tokens", "Log Type")


class BurstGptTrace(FileTrace):
    """CSV: Timestamp in s, Model, Request tokens, Response tokens, Total tokens, Log Type.

    Read by column name: BurstGPT_3 puts Session ID and Elapsed time in between. Failures
    (zero tokens) are dropped and counted like all such rows. `model` and `log_type` keep
    only the rows that say so.
    """

    kind: ClassVar[str] = "burstgpt"
    looks: ClassVar[str] = "CSV: Timestamp,Model,Request tokens,Response tokens,...,Log Type"

    def __init__(
        self,
        path: str | Path,
        *,
        model: str | None = None,
        log_type: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(path, **options)
        self._kept = {"Model": model, "Log Type": log_type}

    @staticmethod
    def recognises(head: Head) -> bool:
        return first_columns(head).issuperset(_COLUMNS)

    def rows(self) -> Iterator[Row | None]:
        clock = Clock("s", self.notes)
        for record in read_table(self._file, required=_COLUMNS):
            if not self._keeps(record):
                yield None
                continue
            yield Row(
                record.line,
                record.time_ns("Timestamp", clock),
                record.show("Timestamp"),
                record.whole("Request tokens", TOKENS),
                record.whole("Response tokens", TOKENS),
                session=record.name("Session ID"),
            )

    def parameters(self) -> dict[str, object]:
        kept = {column: value for column, value in self._kept.items() if value is not None}
        return kept | super().parameters()

    def _keeps(self, record: TableRecord) -> bool:
        for column, wanted in self._kept.items():
            if wanted is not None and record.fields[column] != wanted:
                self.notes[f"requests whose {column} is not {wanted} left out"] += 1
                return False
        return True
