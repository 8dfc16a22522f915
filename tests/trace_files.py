"""Small trace files, and what the readers say of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from traces.azure import AzureTrace
from traces.mooncake import MooncakeTrace
from traces.native import NativeTrace
from traces.schema import Trace, TraceError

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
BLOCKS = {"timestamp": 7, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}
NATIVE = {
    "request_id": "a",
    "arrival_ns": 5,
    "prompt": [[0, 0, 3]],
    "output_tokens": 2,
    "out_stream": 1,
}


def azure(folder: Path, *rows: str, header: str = HEADER, end: str = "\r\n") -> AzureTrace:
    """A trace of these rows; as upstream, without a line end after the last."""
    path = folder / "azure.csv"
    path.write_bytes(end.join([header, *rows]).encode())
    return AzureTrace(path)


def json_lines(folder: Path, *records: object) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def mooncake(folder: Path, *changes: dict[str, object], block_tokens: int = 512) -> MooncakeTrace:
    path = json_lines(folder, *(BLOCKS | change for change in changes))
    return MooncakeTrace(path, block_tokens=block_tokens)


def native(folder: Path, *changes: dict[str, object]) -> NativeTrace:
    return NativeTrace(json_lines(folder, *(NATIVE | change for change in changes)))


def refusal(trace: Trace) -> str:
    with pytest.raises(TraceError) as refused:
        list(trace)
    return str(refused.value)
