"""Which reader a trace file needs, told by how it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from traces.azure import AzureTrace, LengthsTrace
from traces.bailian import BailianTrace
from traces.burstgpt import BurstGptTrace
from traces.columns import CsvTrace, JsonLinesTrace
from traces.file import TraceFile
from traces.filetrace import FileTrace
from traces.llmservingsim import LlmServingSimTrace
from traces.mooncake import MooncakeTrace
from traces.native import NativeTrace
from traces.parquet import ParquetTrace
from traces.sharegpt import ShareGptTrace
from traces.simulators import SplitwiseTrace, VidurTrace
from traces.timeless import TIMELESS
from traces.vllm_bench import TimedTrace, VllmCustomTrace

_SHOWN_CHARACTERS = 120

COMMON = (*FileTrace.takes, *TIMELESS)
"""The options of kind auto; which of them fit shows when the format does."""

FORMATS: dict[str, type[FileTrace]] = {
    reader.kind: reader
    for reader in (
        AzureTrace,
        LengthsTrace,
        MooncakeTrace,
        BailianTrace,
        BurstGptTrace,
        ShareGptTrace,
        VidurTrace,
        SplitwiseTrace,
        LlmServingSimTrace,
        NativeTrace,
        VllmCustomTrace,
        TimedTrace,
        CsvTrace,
        JsonLinesTrace,
        ParquetTrace,
    )
}
"""Every format of trace files, by kind; where two would take a file, the first one does."""


def open_trace(path: str | Path, *, kind: str = "auto", seed: int = 0, **options: Any) -> FileTrace:
    """The trace in a file, of the kind named, or of the one that its first lines show.

    Options go to the reader (TypeError for one it does not have); with kind auto, only
    those that say something. Raises TraceError when the file cannot be read, fits no
    format, or cannot be read with an option given; ValueError for a kind that does not exist.
    """
    if kind == "auto":
        file = TraceFile(path)
        kind = recognise(file)
        options = {name: value for name, value in options.items() if value}
        takes = FORMATS[kind].takes
        for name in options:
            if name in COMMON and name not in takes:
                found = f"{name} for a file of kind {kind}"
                raise file.error(None, found=found, allowed=", ".join(takes))
    if kind not in FORMATS:
        raise ValueError(f"trace kind {kind!r}: allowed auto, {', '.join(FORMATS)}")
    return FORMATS[kind](path, seed=seed, **options)


def open_timeless(path: str | Path) -> FileTrace:
    """As open_trace, for whoever does not ask when: a file without times comes all at once."""
    kind = recognise(TraceFile(path))
    return open_trace(path, kind=kind, **({"at_once": True} if lacks_times(kind) else {}))


def lacks_times(kind: str) -> bool:
    """Whether no file of this kind has arrival times."""
    return FORMATS[kind].takes == TIMELESS


def recognise(file: TraceFile) -> str:
    """The kind of a file, by its first lines. Raises TraceError where they fit no format."""
    head = file.head()
    formats = "; ".join(f"{kind} ({reader.looks})" for kind, reader in FORMATS.items())
    if head.parquet:
        allowed = "kind: parquet, with columns and time_unit in the config"
        raise file.error(None, found="a parquet file", allowed=allowed)
    if not head.lines:
        raise file.error(None, found="an empty file", allowed=formats)
    for kind, reader in FORMATS.items():
        if reader.recognises(head):
            return kind
    found = f"the first line {head.first_line[:_SHOWN_CHARACTERS]!r}"
    own = "for a log of your own kind: csv or jsonl, with columns and time_unit; else one of"
    raise file.error(1, found=found, allowed=f"{own} {formats}")
