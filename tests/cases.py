"""Tiny cases of both forms, as a recorder would write them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STEP_ENGINE: dict[str, Any] = {
    "max_model_len": 256,
    "block_size": 16,
    "max_num_batched_tokens": 64,
    "max_num_seqs": 4,
    "num_gpu_blocks_override": 33,
}
REQUESTS = (
    "id,arrival_s,engine_queued_s,engine_first_token_s,prompt_tokens,output_tokens,ttft_s,tpot_s,"
    "e2e_s,preemptions"
)
KERNEL_ENGINE: dict[str, Any] = {
    "case": "tiny",
    "gpu": "RTX4090",
    "model": "meta-llama/Llama-3.1-8B",
    "vllm_version": "0.19.0",
    "dtype": "bfloat16",
    "kv_cache_dtype": "auto(bf16)",
    "tensor_parallel_size": 1,
    "data_parallel_size": 1,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
    "max_model_len": None,
    "block_size": 16,
    "num_gpu_blocks": 2588,
    "gpu_memory_utilization": 0.9,
    "async_scheduling": False,
    "cudagraph_capture_sizes": "1,2,4,8..24 step 8",
    "policy": "fcfs",
    "workload": "workloads/tiny.jsonl",
}
TRUTH = (
    "request_id,input_tokens,output_tokens,arrival_s,first_token_s,last_token_s,ttft_ms,"
    "ttft_from_queued_ms,tpot_ms,e2e_ms"
)


def write_csv(path: Path, header: str, *rows: Iterable[object]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def write_step_case(folder: Path, **options: Any) -> Path:
    """Two requests in three steps: 20.5, 30 and 19.5 ms from one begin to the next."""
    folder.mkdir(parents=True)
    about = {"engine": STEP_ENGINE, "trace": "two"} | options
    (folder / "options.json").write_text(json.dumps(about))
    write_csv(
        folder / "requests.csv",
        REQUESTS,
        ["first", 0.0005, 0.001, 0.0215, 40, 3, 0.022, 0.02475, 0.0715, 0],
        ["second", 0.0115, 0.012, 0.071, 90, 1, 0.06, "", 0.06, 0],
    )
    write_csv(
        folder / "steps.csv",
        "sched_begin_s,update_end_s,reqs,preempted,free_blocks",
        ["0.001000", "0.021000", "first:0:40:N", "", 29],
        ["0.021500", "0.051000", "second:0:63:N|first:40:1:C", "", 25],
        ["0.051500", "0.071000", "second:63:27:C|first:41:1:C", "", 23],
    )
    return folder


def write_kernel_case(folder: Path, **options: Any) -> Path:
    """Three requests, of which the last two begin with the same two blocks."""
    folder.mkdir(parents=True)
    (folder / "engine.json").write_text(json.dumps(KERNEL_ENGINE | options))
    write_csv(
        folder / "truth_requests.csv",
        TRUTH,
        [0, 20, 3, -0.001, 0.029, 0.049, 30, 29, 10, 50],
        [2, 40, 1, 0.014, 0.054, 0.054, 40, 35, "", 40],
        [1, 33, 5, 0.009, 0.034, 0.074, 25, 20, 10, 65],
    )
    rows = [
        {"request_id": n, "input_tokens": tokens, "block_size": 16, "hash_ids": ids}
        for n, tokens, ids in ((0, 20, [7, 8]), (1, 33, [1, 2, 3]), (2, 40, [1, 2, 4]))
    ]
    workloads = folder.parent / "workloads"
    workloads.mkdir(exist_ok=True)
    (workloads / "tiny.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
