"""Prompts as lists of block ids: which blocks of prompts are the same."""

from __future__ import annotations

from sim.request import Run
from traces.arrange import Row
from traces.clock import Clock
from traces.filetrace import Compose
from traces.jsonl import Record, shorten
from traces.ranges import INT64, TOKENS, check_least, whole_number
from traces.streams import Streams


def read_hash_ids(record: Record, prompt_tokens: int, *, block_tokens: int) -> list[int]:
    """The field hash_ids: one id per started block. Raises TraceError for any other number."""
    hash_ids = record.items("hash_ids")
    blocks = -(-prompt_tokens // block_tokens)
    if len(hash_ids) != blocks:
        raise record.error(
            found=f"{len(hash_ids)} hash_ids for input_length = {prompt_tokens}",
            allowed=f"{blocks} (a block has {block_tokens} tokens)",
        )
    blocks_read = [each for each in hash_ids if type(each) is int]
    # In C where all is well, as it is in millions of ids.
    if len(blocks_read) < blocks or (blocks and not _all_in_range(blocks_read)):
        wrong = next(each for each in hash_ids if type(each) is not int or each not in INT64)
        found = f"{shorten(wrong)} among hash_ids"
        raise record.error(found=found, allowed=whole_number(INT64))
    return blocks_read


def _all_in_range(numbers: list[int]) -> bool:
    return min(numbers) >= 0 and max(numbers) < INT64.stop


def block_runs(
    hash_ids: list[int], prompt_tokens: int, *, block_tokens: int, streams: Streams
) -> tuple[Run, ...]:
    """Offset o in block h is the token (stream of h, o); the last block may be partial.

    So any block size of a cache finds the shared prefixes, whether an id names its block
    alone or together with all before it: a cache compares whole prefixes.
    """
    runs = [(stream, 0, block_tokens) for stream in streams.of_all(hash_ids)]
    if rest := prompt_tokens % block_tokens:
        runs[-1] = (runs[-1][0], 0, rest)
    return tuple(runs)


def block_row(
    record: Record, clock: Clock, *, block_tokens: int, session: str | None = None
) -> Row:
    """A row with the fields timestamp, input_length, output_length and hash_ids."""
    prompt_tokens = record.whole("input_length", TOKENS)
    return Row(
        record.line,
        record.time_ns("timestamp", clock),
        record.show("timestamp"),
        prompt_tokens,
        record.whole("output_length", TOKENS),
        read_hash_ids(record, prompt_tokens, block_tokens=block_tokens),
        session,
    )


def composing_blocks(streams: Streams, *, block_tokens: int) -> Compose:
    """For rows whose content is their hash ids; answers are private."""

    def compose(row: Row) -> tuple[tuple[Run, ...], int]:
        runs = block_runs(
            row.content, row.prompt_tokens, block_tokens=block_tokens, streams=streams
        )
        return runs, streams.private()

    return compose


def check_block_tokens(block_tokens: int) -> int:
    check_least(1, block_tokens=block_tokens)
    return block_tokens
