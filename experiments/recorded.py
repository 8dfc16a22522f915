"""Recorded runs of a real engine: its options, its requests, and every decision it made."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.config import Config, parse_config
from experiments.errors import ConfigError
from sim.flight import EMPTY_STEP_SLEEP_NS
from sim.request import Request

Row = tuple[str, int, int]
"""(request id, tokens scheduled, computed before)."""


class RecordingError(ConfigError):
    """A folder that is no recorded run, or one that cannot be replayed; says which and why."""


@dataclass(slots=True)
class RecordedStep:
    """What was written down of one decision, also of an empty one; None where the recording is
    silent."""

    rows: list[Row]
    """In admission order."""
    preempted: list[str]
    free: int
    """Free blocks after scheduling."""
    start_ns: int | None = None
    admitted: list[tuple[str, bool, int]] | None = None
    """(request id, resumed after a preemption, tokens found in the prefix cache)."""
    finished: list[str] | None = None
    free_end: int | None = None
    """Free blocks after the finished ones left; likewise"""
    running: int | None = None
    waiting: int | None = None
    blocks: dict[str, list[int]] | None = None
    """Physical blocks that each request gained."""
    end_ns: int | None = None
    """When its tokens were there."""


@dataclass(slots=True)
class RecordedRun:
    """A run to replay: `config` is what an engine like the recorded one is built from."""

    name: str
    config: Config
    requests: list[Request]
    steps: list[RecordedStep]
    durations_ns: list[int] | None = None
    """Recorded step times, where the clock is to replay them."""
    ordered: bool = True
    """Whether the order of a step's rows was recorded."""
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    """Per request: columns of our `requests` table with their recorded values."""


def read_run(folder: Path) -> RecordedRun:
    """Read a recorded run of either form: decisions as JSON lines, or an engine's step log.

    Raises RecordingError for a folder that is neither, and for step logs with several batches
    in flight, which say of a step when it was decided but not when it ran.
    """
    if not (folder / "options.json").is_file():
        raise RecordingError(f"{folder}: no recorded run here: options.json is missing")
    options = json.loads((folder / "options.json").read_text())
    engine = dict(options["engine"])
    if (folder / "steps.jsonl.gz").is_file():
        return _read_decisions(folder, engine, options["latency"])
    if (folder / "steps.csv").is_file():
        if engine.get("async_scheduling") or engine.get("pipeline_parallel_size", 1) > 1:
            raise RecordingError(
                f"{folder}: a step log with several batches in flight (asynchronous scheduling or"
                " pipeline stages); allowed: decisions as JSON lines, or a synchronous engine"
            )
        return _read_step_log(folder, engine)
    raise RecordingError(f"{folder}: neither steps.jsonl.gz nor steps.csv is there")


def _read_decisions(folder: Path, engine: dict[str, Any], clock: dict[str, int]) -> RecordedRun:
    """Decisions of vLLM 0.33's scheduler under a linear clock, physical block ids included."""
    engine["scheduling_policy"] = engine.pop("policy")
    engine["num_gpu_blocks_override"] = engine.pop("num_gpu_blocks")
    # The recorder had no start-up check. No answer can outgrow the pool, so this changes none.
    fits = (engine["num_gpu_blocks_override"] - 1) * engine["block_size"]
    engine["max_model_len"] = min(engine["max_model_len"], fits)
    depth = engine.pop("batch_queue_depth", 1)
    in_flight = engine.get("pipeline_parallel_size", 1) + engine.get("async_scheduling", False)
    if depth != in_flight:
        raise RecordingError(
            f"{folder}: batch_queue_depth: found {depth}; allowed with these options: {in_flight}"
        )
    requests = [
        Request(
            id=line["request_id"],
            arrival_ns=line["arrival_us"] * 1000,
            prompt=tuple((stream, start, length) for stream, start, length in line["prompt"]),
            output_tokens=line["output_tokens"],
            output_stream=line["out_stream"],
            max_tokens=line.get("max_tokens", line["output_tokens"]),
            priority=line.get("priority", 0),
        )
        for line in _lines(folder / "trace.jsonl")
    ]
    steps = [
        RecordedStep(
            start_ns=line["t"],
            rows=[(id_, n, before) for id_, n, before in line["sch"]],
            admitted=[(id_, kind == "r", hit) for id_, kind, hit in line["adm"]],
            preempted=line["pre"],
            finished=line["fin"],
            free=line["free"],
            free_end=line["free_end"],
            end_ns=line.get("u", line["t"] + line["d"]),
            running=line["run"],
            waiting=line["wait"],
            blocks=blocks,
        )
        for line, blocks in zip(
            _lines(folder / "steps.jsonl.gz"), _lines(folder / "blocks.jsonl.gz"), strict=True
        )
    ]
    outcomes = {
        line["request_id"]: {
            "arrival_ns": line["arrival_ns"],
            # Of several batches in flight, the recording has when they were decided.
            **({"admit_ns": line["admit_ns"]} if depth == 1 else {}),
            "first_token_ns": line["first_token_ns"],
            "finish_ns": line["finish_ns"],
            "preemptions": line["preemptions"],
            "hit_tokens": line["cached_tokens_first"],
        }
        for line in _lines(folder / "requests.jsonl")
    }
    latency = {
        "kind": "linear",
        "base_ns": clock["base_ns"],
        "per_token_ns": clock["per_token_ns"],
        "per_context_token_ns": clock["per_ctx_token_ns"],
        "empty_step_sleep_ns": clock.get("empty_step_sleep_ns", EMPTY_STEP_SLEEP_NS),
    }
    return RecordedRun(
        name=folder.name,
        config=_config(folder, engine, version="0.33", latency=latency),
        requests=requests,
        steps=steps,
        outcomes=outcomes,
    )


def _read_step_log(folder: Path, engine: dict[str, Any]) -> RecordedRun:
    """A step log of vLLM 0.32: steps.csv, a row a step, and requests.csv.

    A request is visible to the first step that begins after it was queued, so that is taken
    as its arrival; a step lasts until the next one begins. Prompts share nothing. The log
    lists a step's new requests first, so its order of rows says nothing.
    """
    for name in ("load_format", "skip_tokenizer_init", "dtype", "enforce_eager", "seed"):
        engine.pop(name, None)
    log = read_rows(folder / "steps.csv")
    begins = [to_ns(row["sched_begin_s"]) for row in log]
    ends = [*begins[1:], to_ns(log[-1]["update_end_s"])]
    requests = []
    for i, row in enumerate(read_rows(folder / "requests.csv")):
        queued_ns = to_ns(row["engine_queued_s"])
        seen_ns = next((begin for begin in begins if begin >= queued_ns), None)
        if seen_ns is None:
            raise RecordingError(f"{folder}: request {row['id']} was queued after the last step")
        prompt = ((2 * i, 0, int(row["prompt_tokens"])),)
        output_tokens = int(row["output_tokens"])
        requests.append(
            Request(row["id"], seen_ns, prompt, output_tokens, 2 * i + 1, output_tokens)
        )
    requests.sort(key=lambda request: request.arrival_ns)
    steps = []
    for row, begin in zip(log, begins, strict=True):
        entries = [entry.split(":") for entry in row["reqs"].split("|")]
        steps.append(
            RecordedStep(
                start_ns=begin,
                rows=[(id_, int(n), int(before)) for id_, before, n, _ in entries],
                preempted=row["preempted"].split("|") if row["preempted"] else [],
                free=int(row["free_blocks"]),
            )
        )
    return RecordedRun(
        name=folder.name,
        config=_config(
            folder, engine, version="0.32", latency={"kind": "replay", "path": "steps.csv"}
        ),
        requests=requests,
        steps=steps,
        durations_ns=[end - begin for begin, end in zip(begins, ends, strict=True)],
        ordered=False,
    )


def _config(
    folder: Path, engine: dict[str, Any], *, version: str, latency: dict[str, Any]
) -> Config:
    scheduler = {"kind": "vllm", "version": version}
    return parse_config(
        {
            "name": folder.name,
            "engine": {**engine, "scheduler": scheduler},
            "latency": latency,
            "trace": {"kind": "auto", "path": str(folder / "trace.jsonl")},
        }
    )


def _lines(path: Path) -> list[Any]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [json.loads(line) for line in lines]


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV file with a header."""
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def to_ns(seconds: str) -> int:
    """Nanoseconds, exact for up to 9 decimal places."""
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 1_000_000_000 + int(fraction.ljust(9, "0")[:9] or 0)
