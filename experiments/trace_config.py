"""Trace files as a config names them: where, in which format, and how to read it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments.engine_config import Count
from experiments.section import Section, refuse
from traces.sessions import ANSWER_NS_PER_TOKEN, THINK_S
from traces.text import CHARACTERS_PER_TOKEN

FilePath = Annotated[str, Field(min_length=1)]
Rows = Annotated[int, Field(ge=0, le=10**7)]
Grid = Annotated[float, Field(ge=0.000001, le=3.6e6)]
"""Milliseconds, from a nanosecond to an hour."""
Rate = Annotated[float, Field(ge=1e-6, le=1e6)]
Ratio = Annotated[float, Field(ge=1, le=1000)]
Duration = Annotated[int, Field(ge=0, le=10**12)]
TimeUnit = Literal["s", "ms", "us", "ns", "datetime"]
Name = Annotated[str, Field(min_length=1)]


class TimedFile(Section):
    """What every file with arrival times has."""

    reorder_rows: Rows = 0
    """How many rows may be held back to bring them into order of arrival; later ones are refused"""
    jitter_grid_ms: Grid | None = None
    """Spread requests that share an arrival uniformly over so many milliseconds, with the seed;
    for files whose clock is coarse"""


class TimelessFile(Section):
    """What every file without arrival times needs: one of both."""

    arrivals_per_second: Rate | None = None
    """Rate of the Poisson process, drawn with the seed, by which requests arrive; of files with
    conversations: by which these begin"""
    at_once: bool = False
    """Everything arrives at 0"""

    @model_validator(mode="after")
    def _check_arrivals(self) -> TimelessFile:
        if self.at_once and self.arrivals_per_second is not None:
            refuse("contradicts arrivals_per_second; allowed: one of both", at="at_once")
        return self


class AzureTrace(TimedFile):
    """Azure's LLM inference traces of 2023 and 2024."""

    kind: Literal["azure"]
    path: FilePath = Field(
        description="a CSV file with the header TIMESTAMP,ContextTokens,GeneratedTokens, named"
        " with --set trace.path=FILE; `pagesim trace fetch azure-2023-conv` fetches one"
    )


class LengthsTrace(TimelessFile):
    """Lengths in Azure's layout, without arrivals, as of ShareGPT."""

    kind: Literal["lengths"]
    path: FilePath = Field(
        description="a CSV file with the header TIMESTAMP,ContextTokens,GeneratedTokens and the"
        " stamp XXX; `pagesim trace fetch sharegpt-lengths` fetches one"
    )


class MooncakeTrace(TimedFile, TimelessFile):
    """Mooncake's traces, whose hash ids name blocks of the prompts; also AIPerf's dialect."""

    kind: Literal["mooncake"]
    path: FilePath = Field(
        description="a JSON lines file (also .gz) with timestamp, input_length, output_length"
        " and hash_ids, named with --set trace.path=FILE;"
        " `pagesim trace fetch mooncake-conversation` fetches one"
    )
    block_tokens: Count = 512
    """Prompt tokens per hash id."""
    session_input: Literal["new", "whole"] | None = None
    """What a row with a session_id holds: only what is new, to be put behind the session's
    earlier turns, or the whole prompt; must be said for files with sessions"""
    answer_ns_per_token: Duration = ANSWER_NS_PER_TOKEN
    """Nominal answer time after which, and after its delay, a turn without timestamp arrives"""
    characters_per_token: Ratio = CHARACTERS_PER_TOKEN
    """By which the tokens of a text_input are estimated"""


class BailianTrace(TimedFile):
    """Alibaba's traces of Qwen, with hash ids of 16-token blocks, and chats."""

    kind: Literal["bailian"]
    path: FilePath = Field(
        description="a JSON lines file with chat_id, parent_chat_id, timestamp, input_length,"
        " output_length and hash_ids; `pagesim trace fetch qwen-bailian-a` fetches one"
    )
    block_tokens: Count = 16
    """Prompt tokens per hash id."""
    type: Name | None = None
    """Only requests of this type (text, search, image, file); null: all"""


class BurstGptTrace(TimedFile):
    """BurstGPT's traces, 1 to 3."""

    kind: Literal["burstgpt"]
    path: FilePath = Field(
        description="a CSV file with Timestamp, Model, Request tokens, Response tokens and"
        " Log Type; `pagesim trace fetch burstgpt-1` fetches one"
    )
    model: Name | None = None
    """Only requests to this model (ChatGPT or GPT-4); null: all"""
    log_type: Name | None = None
    """Only this type (Conversation log or API log); null: all"""


class ShareGptTrace(TimelessFile):
    """ShareGPT's conversations, word by word; a conversation is a session."""

    kind: Literal["sharegpt"]
    path: FilePath = Field(
        description="a JSON file, a list of objects with conversations;"
        " ShareGPT_V3_unfiltered_cleaned_split.json is at"
        " https://huggingface.co/datasets/anon8231489123/ShareGPT_Vicuna_unfiltered"
    )
    characters_per_token: Ratio = CHARACTERS_PER_TOKEN
    """By which tokens are estimated"""
    think_s: Annotated[float, Field(ge=0, le=1e6)] = THINK_S
    """From an answer's end to the next message"""
    answer_ns_per_token: Duration = ANSWER_NS_PER_TOKEN
    """Nominal answer time before that"""


class VidurTrace(TimedFile):
    """Vidur's traces."""

    kind: Literal["vidur"]
    path: FilePath = Field(
        description="a CSV file with arrived_at, num_prefill_tokens and num_decode_tokens"
    )


class SplitwiseTrace(TimedFile):
    """splitwise-sim's traces."""

    kind: Literal["splitwise"]
    path: FilePath = Field(
        description="a CSV file with request_id,request_type,application_id,arrival_timestamp,"
        "batch_size,prompt_size,token_size"
    )


class LlmServingSimTrace(TimedFile):
    """LLMServingSim's traces; token ids tell what prompts share."""

    kind: Literal["llmservingsim"]
    path: FilePath = Field(
        description="a JSON lines file with input_toks, output_toks and arrival_time_ns, and"
        " optionally input_tok_ids and output_tok_ids"
    )


class VllmCustomTrace(TimelessFile):
    """Data sets `custom` of `vllm bench serve`: prompts as texts."""

    kind: Literal["vllm_custom"]
    path: FilePath = Field(
        description="a JSON lines file with prompt, and optionally output_tokens"
    )
    output_tokens: Count | None = None
    """Of rows that do not say, like vLLM's --custom-output-len"""
    characters_per_token: Ratio = CHARACTERS_PER_TOKEN
    """By which the tokens of prompts are estimated"""


class TimedTrace(TimedFile):
    """Data sets `timed_trace` of `vllm bench serve`, under vLLM's option names."""

    kind: Literal["timed_trace"]
    path: FilePath = Field(
        description="a JSON lines file with timestamp, input_length, output_length and hash_ids"
    )
    chunk_hash_size: Count = Field(
        description="the number of prompt tokens per hash id, which the file does not say:"
        " 512 for Mooncake's, 16 for Bailian's"
    )
    sec_multiplier: Annotated[float, Field(ge=1e-9, le=1e6)] = Field(
        description="the seconds of one unit of timestamp, which the file does not say:"
        " 0.001 for Mooncake's, 1 for Bailian's"
    )


class Columns(Section):
    """Which column holds what."""

    arrival: Name = Field(description="the column with the time of arrival")
    prompt_tokens: Name = Field(description="the column with the prompt's length in tokens")
    output_tokens: Name = Field(description="the column with the answer's length in tokens")
    session: Name | None = None
    tenant: Name | None = None
    priority: Name | None = None
    """Lower is more urgent, as in vLLM"""
    max_tokens: Name | None = None
    id: Name | None = None
    """Null: a request is called after its row"""


class ColumnsTrace(TimedFile):
    """What every log of one's own needs."""

    columns: Columns = Field(
        description="a section {arrival: COLUMN, prompt_tokens: COLUMN, output_tokens: COLUMN}"
    )
    time_unit: TimeUnit = Field(description="s, ms, us, ns or datetime")


class CsvTrace(ColumnsTrace):
    """Any CSV file."""

    kind: Literal["csv"]
    path: FilePath = Field(description="a CSV file with a header")


class JsonLinesTrace(ColumnsTrace):
    """Any JSON lines file; usage.prompt_tokens names a field within an object."""

    kind: Literal["jsonl"]
    path: FilePath = Field(description="a JSON lines file (also .gz)")


class ParquetTrace(ColumnsTrace):
    """Any parquet file; a column of timestamps needs time_unit datetime."""

    kind: Literal["parquet"]
    path: FilePath = Field(description="a parquet file")


class NativeTrace(TimedFile):
    """pagesim's own trace format."""

    kind: Literal["native"]
    path: FilePath = Field(description="a JSON lines file (also .gz) in pagesim's own format")


class AutoTrace(TimedFile, TimelessFile):
    """A trace file of the format that its first lines show."""

    kind: Literal["auto"]
    path: FilePath = Field(
        description="a trace file in a format that shows what it is, all others have a kind of"
        " their own"
    )


TraceFile = (
    AzureTrace
    | LengthsTrace
    | MooncakeTrace
    | BailianTrace
    | BurstGptTrace
    | ShareGptTrace
    | VidurTrace
    | SplitwiseTrace
    | LlmServingSimTrace
    | VllmCustomTrace
    | TimedTrace
    | CsvTrace
    | JsonLinesTrace
    | ParquetTrace
    | NativeTrace
    | AutoTrace
)
