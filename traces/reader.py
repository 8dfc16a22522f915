"""Which reader a trace file needs, told by its first line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from traces.azure import AzureTrace
from traces.file import TraceFile
from traces.mooncake import MooncakeTrace
from traces.native import NativeTrace
from traces.schema import Trace

_SHOWN_CHARACTERS = 120


class Format(NamedTuple):
    """A format of trace files: how it looks, how to tell it, how to read it."""

    looks: str
    recognises: Callable[[str], bool]
    """Whether a file with this first line (never blank) is of the format."""
    read: Callable[..., Trace]


FORMATS = {
    "azure": Format(
        "CSV: TIMESTAMP,ContextTokens,GeneratedTokens", AzureTrace.recognises, AzureTrace
    ),
    "mooncake": Format(
        "JSON lines: timestamp, input_length, output_length, hash_ids",
        MooncakeTrace.recognises,
        MooncakeTrace,
    ),
    "native": Format(
        "JSON lines: request_id, prompt, output_tokens, out_stream, ...",
        NativeTrace.recognises,
        NativeTrace,
    ),
}


def open_trace(path: str | Path, *, kind: str = "auto", **options: object) -> Trace:
    """The trace in a file, of the kind named, or of the one its first line shows.

    Options go to the reader (TypeError for one it does not have). Raises TraceError when
    the file cannot be read or fits no format, ValueError for a kind that does not exist.
    """
    if kind == "auto":
        kind = _recognise(TraceFile(path))
    if kind not in FORMATS:
        raise ValueError(f"trace kind {kind!r}: allowed auto, {', '.join(FORMATS)}")
    return FORMATS[kind].read(path, **options)


def _recognise(file: TraceFile) -> str:
    first_line = file.first_line()
    for kind, form in FORMATS.items():
        if form.recognises(first_line):
            return kind
    found = f"the first line {first_line[:_SHOWN_CHARACTERS]!r}" if first_line else "an empty file"
    formats = "; ".join(f"{kind} ({form.looks})" for kind, form in FORMATS.items())
    raise file.error(1 if first_line else None, found=found, allowed=formats)
