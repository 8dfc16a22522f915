"""Trace files as a config names them: where, in which format, and how to read it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from experiments.engine_config import Count
from experiments.section import Section


class AzureTrace(Section):
    """Azure's LLM inference traces of 2023."""

    kind: Literal["azure"]
    path: str = Field(
        description="a CSV file with the header TIMESTAMP,ContextTokens,GeneratedTokens, named"
        " with --set trace.path=FILE; AzureLLMInferenceTrace_conv.csv is at"
        " https://github.com/Azure/AzurePublicDataset/tree/master/data"
    )


class MooncakeTrace(Section):
    """Mooncake's traces, whose hash ids name blocks of the prompts."""

    kind: Literal["mooncake"]
    path: str = Field(
        description="a JSON lines file (also .gz) with timestamp, input_length, output_length"
        " and hash_ids, named with --set trace.path=FILE; conversation_trace.jsonl is at"
        " https://github.com/kvcache-ai/Mooncake/tree/main/FAST25-release/traces"
    )
    block_tokens: Count = 512
    """Prompt tokens per hash id."""


class NativeTrace(Section):
    """pagesim's own trace format."""

    kind: Literal["native"]
    path: str = Field(description="a JSON lines file (also .gz) in pagesim's own format")


class AutoTrace(Section):
    """A trace file of the format that its first line shows."""

    kind: Literal["auto"]
    path: str = Field(description="a trace file in the format azure, mooncake or native")


TraceFile = AzureTrace | MooncakeTrace | NativeTrace | AutoTrace
