"""`pagesim follow`: the story of one request, word for word, in a world of eleven blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from experiments.cli import main as pagesim
from sim.request import Request
from traces.native import write_trace

CONFIG = """\
engine: {max_num_seqs: 2, max_num_batched_tokens: 8, max_model_len: 20, block_size: 2,
         num_gpu_blocks_override: 12}
latency: {kind: linear, base_ns: 1000000, per_token_ns: 0, per_context_token_ns: 0}
trace: {kind: native, path: PATH}
"""

REQUESTS = [
    Request("a", 0, ((0, 0, 4), (1, 0, 2)), 9, 101),
    Request("b", 0, ((0, 0, 4), (2, 0, 3)), 7, 102),
    Request("c", 500_000, ((0, 0, 4), (3, 0, 1)), 3, 103),
    Request("long", 1_000_000, ((9, 0, 40),), 3, 104),
]

STORY_OF_B = """\
       ms  step
    0.000        arrives: a prompt of 7 tokens, to be answered with 7
                 0 run and 1 wait; 11 of 11 blocks are free
    0.000     0  admitted: 4 tokens found in the cache, blocks 1 2 (2 held by others, 0 idle)
                 computes tokens 4-5 of 7; takes block 4; publishes block 4
    1.000     1  computes token 6 of 7; takes block 6
    2.000        token 1 of the answer
                 logical   |      0      |      1      |  2  |  3  |
                 tokens    |     0-1     |     2-3     | 4-5 |  6  |
                 physical  |      1      |      2      |  4  |  6  |
                           | hit, shared | hit, shared | new | new |
    2.000     2  decodes token 7 into block 6; it is full, so published
    3.000     3  decodes token 8 into block 8, just taken
    4.000   4-6  decodes tokens 9-11, one a step; takes block 10
    7.000     7  preempted: 12 computed tokens lost; the 6 tokens of the answer stay
                 gives back blocks 1 2 4 6 8 10
                   still held by others: blocks 1 2
                   to the tail of the free queue: blocks 10 8 6 4
                 free queue, head first: 10* 8* 6* 4*  (* can be found)
                 waits: a step that preempts admits nobody
    8.000     8  waits: refused: its 13 tokens need 5 free blocks, there are 4 (gate); 12 tokens \
would be hits, blocks 1 2 4 6 8 10
    9.000     9  resumes: 12 tokens found in the cache, blocks 1 2 4 6 8 10 (0 held by others, \
6 idle)
                 computes token 12 of 13; takes block 11
   10.000        token 7 of the answer
                 logical   |      0      |      1      |  2  |  3  |  4  |   5   |  6  |
                 tokens    |     0-1     |     2-3     | 4-5 | 6-7 | 8-9 | 10-11 | 12  |
                 physical  |      1      |      2      |  4  |  6  |  8  |  10   | 11  |
                           | hit, shared | hit, shared | hit | hit | hit |  hit  | new |
                 token 7 of the answer, the last; it is never computed
                 gives back blocks 1 2 4 6 8 10 11
                   still held by others: blocks 1 2
                   to the head of the free queue: block 11
                   to its tail: blocks 10 8 6 4
                 free queue, head first: 11 7* 5* 3* 10* 8* 6* 4*  (* can be found)
TTFT 2.000 ms = own 2.000
beside the sum: its prefix hit, computed alone, would take 1.000 ms
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_trace(tmp_path / "t.jsonl", REQUESTS)
    path = tmp_path / "t.yaml"
    path.write_text(CONFIG.replace("PATH", str(tmp_path / "t.jsonl")), encoding="utf-8")
    return path


def follow(config: Path, request: str, *options: str) -> Result:
    return CliRunner().invoke(pagesim, ["follow", str(config), "--request", request, *options])


def story(config: Path, request: str, *options: str) -> str:
    result = follow(config, request, *options)
    assert result.exit_code == 0, result.output
    assert {path.name for path in config.parent.iterdir()} == {"t.jsonl", "t.yaml"}
    title, _, told = result.stdout.partition("\n")
    assert title.startswith(f"{request}: one request of t.jsonl, linear: 1000000 ns + 0 ns")
    return told


def test_a_preempted_request_word_for_word(config: Path) -> None:
    assert story(config, "b", "--steps", "2") == STORY_OF_B


def test_both_loops_tell_the_same(config: Path) -> None:
    for request in "abc":
        for options in ((), ("--set", "engine.enable_prefix_caching=false")):
            plain = story(config, request, "--set", "engine.loop=plain", *options)
            assert story(config, request, "--set", "engine.loop=fast", *options) == plain


@pytest.mark.parametrize("option", ["async_scheduling=true", "pipeline_parallel_size=2"])
def test_batches_in_flight_are_refused(config: Path, option: str) -> None:
    result = follow(config, "c", "--set", f"engine.{option}")
    assert result.exit_code == 2
    assert "found 2 batches in flight; allowed: one" in result.stderr
    result = CliRunner().invoke(
        pagesim, ["blocks", str(config), "--at", "1ms", "--set", f"engine.{option}"]
    )
    assert result.exit_code == 2
    assert "found 2 batches in flight; allowed: one" in result.stderr


def test_a_swapped_request(config: Path) -> None:
    """With a block less than in the others, the last of b's six has gone to another when it
    resumes; those before it are found where they were."""
    fewer = ("--set", "engine.num_gpu_blocks_override=11")
    swap = ("--set", "engine.preemption={kind: swap, num_cpu_blocks_override: 6}")
    told = story(config, "b", *fewer, *swap)
    for line in (
        "preempted: 12 computed tokens copied to host memory, from blocks 1 2 4 6 8 10; the 6"
        " tokens of the answer stay\n",
        "; 10 tokens would be hits, blocks 1 2 4 6 8; 2 tokens wait in host memory\n",
        "resumes: 10 tokens found in the cache, blocks 1 2 4 6 8 (0 held by others, 5 idle); 2"
        " tokens copied back from the host, to block 10; publishes block 10\n",
        "computes token 12 of 13; takes block 9\n",
    ):
        assert line in told
    shown = CliRunner().invoke(pagesim, ["blocks", str(config), "--step", "7", *fewer, *swap])
    assert "in host memory 6 of 6 blocks are used" in " ".join(shown.output.split())


def test_why_a_request_waits(config: Path) -> None:
    told = story(config, "c")
    for line in (
        "    0.000     0  waits: the step under way has to end\n",
        "    0.500   1-6  waits: all seats (max_num_seqs) are taken\n",
        "    6.500     7  waits: a step that preempts admits nobody\n",
        "    7.500     8  waits: behind b, which does not fit (gate)\n",
        "    8.500     9  admitted: 4 tokens found in the cache",
        "TTFT 9.500 ms = queue_flight 0.500 + queue_seats 6.000 + queue_memory 1.000"
        " + queue_behind 1.000 + own 1.000\n",
    ):
        assert line in told


def test_a_prompt_too_long_for_the_tokens_left(config: Path) -> None:
    options = ("engine.enable_chunked_prefill=false", "engine.max_num_batched_tokens=20")
    told = story(config, "c", *(part for option in options for part in ("--set", option)))
    assert "waits: all seats" in told
    tokens = ("engine.max_model_len=12", "engine.max_num_batched_tokens=12")
    options = ("engine.enable_chunked_prefill=false", "engine.enable_prefix_caching=false", *tokens)
    told = story(config, "b", *(part for option in options for part in ("--set", option)))
    assert "waits: refused: its prompt is longer than the step's tokens left" in told


def test_old_versions_queue_every_block_last(config: Path) -> None:
    told = story(config, "c", "--set", "engine.scheduler.version=0.19")
    assert "to the tail of the free queue: blocks 7 9 2 1\n" in told
    assert "free queue, head first: 5* 3* 11 10* 8* 6* 4* 7 9* 2* 1*  (* can be found)\n" in told


def test_each_replica_has_its_own_story(config: Path) -> None:
    told = story(config, "b", "--set", "cluster.replicas=2")
    assert "0 run and 0 wait" in told
    assert told.endswith("served by replica 1 of 2\n")


def test_a_request_that_is_turned_away(config: Path) -> None:
    assert "    0.000        turned away: prompt of 40 tokens" in story(config, "long")


def test_an_unknown_id_is_a_users_mistake(config: Path) -> None:
    result = follow(config, "cc")
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: --request cc: did you mean c? the trace has 4 requests, a to long\n"
    )
