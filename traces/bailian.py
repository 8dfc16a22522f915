"""Alibaba's traces of Qwen on Bailian: like Mooncake's, with 16-token blocks and chats.

Wang et al., "KVCache Cache in the Wild", ATC 2025;
github.com/alibaba-edu/qwen-bailian-usagetraces-anon.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Unpack

from traces.arrange import Row
from traces.blocks import block_row, check_block_tokens, composing_blocks
from traces.clock import Clock
from traces.file import Head
from traces.filetrace import Compose, FileTrace, Options
from traces.jsonl import Record, first_keys, read_records
from traces.streams import Streams

_REQUIRED = (
    *("chat_id", "parent_chat_id", "timestamp"),
    *("input_length", "output_length", "hash_ids"),
)
_ROOT = -1


class BailianTrace(FileTrace):
    """JSON lines: chat_id, parent_chat_id, timestamp in s, input_length, output_length, hash_ids.

    Also type and turn. A parent_chat_id of -1 is none. A hash id names the content of a block
    of `block_tokens`, wherever it stands; a cache compares whole prefixes, so that only equal
    beginnings are shared. A request's session is its first chat. `type` keeps only requests
    of that type (text, search, image, file).
    """

    kind: ClassVar[str] = "bailian"
    looks: ClassVar[str] = "JSON lines: chat_id, parent_chat_id, timestamp, ..., hash_ids"

    def __init__(
        self,
        path: str | Path,
        *,
        block_tokens: int = 16,
        type: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(path, **options)
        self.block_tokens = check_block_tokens(block_tokens)
        self._type = type

    @staticmethod
    def recognises(head: Head) -> bool:
        return first_keys(head) >= {"chat_id", "timestamp", "hash_ids"}

    def rows(self) -> Iterator[Row | None]:
        clock = Clock("s", self.notes)
        roots: dict[str, str] = {}
        for record in read_records(self._file):
            record.check_fields(required=_REQUIRED, optional=("type", "turn"))
            session = self._session(record, roots)
            if self._type is not None and record.optional_text("type") != self._type:
                self.notes[f"requests that are not of type {self._type} left out"] += 1
                yield None
                continue
            yield block_row(record, clock, block_tokens=self.block_tokens, session=session)

    def composing(self, streams: Streams) -> Compose:
        return composing_blocks(streams, block_tokens=self.block_tokens)

    def parameters(self) -> dict[str, object]:
        chosen = {} if self._type is None else {"type": self._type}
        return {"block_tokens": self.block_tokens} | chosen | super().parameters()

    def _session(self, record: Record, roots: dict[str, str]) -> str:
        """The first chat of this one's line of parents."""
        chat, parent = record.name("chat_id"), record.name("parent_chat_id")
        if chat is None or parent is None:
            found = "an empty chat_id or parent_chat_id"
            raise record.error(found=found, allowed="a number or a text")
        root = chat
        if parent != str(_ROOT):
            if parent not in roots:
                self.notes["turns whose parent is not in the file"] += 1
            root = roots.get(parent, parent)
        roots[chat] = root
        return root
