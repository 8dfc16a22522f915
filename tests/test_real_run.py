"""A real run, predicted from kernels that were measured on its GPU."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from experiments.config import parse_config
from experiments.simulate import simulate
from tests.shared import SHARED, needs_shared

RUN = SHARED / "truth" / "rtxpro6000-llama31-8b"
WORKLOAD = SHARED / "truth" / "workloads" / "sharegpt-llama-3.1-8b-300-sps10.jsonl"
BLOCK = 16
HOST_NS = 400_000


def write_trace(path: Path, arrivals_s: dict[int, float]) -> Path:
    """The workload in our own format, arriving as it did; blocks are called by their chain."""
    first = min(arrivals_s.values())
    rows = []
    for line in WORKLOAD.read_text(encoding="utf-8").splitlines():
        request = json.loads(line)
        index, left = request["request_id"], request["input_tokens"]
        whole = left // BLOCK
        prompt = [[block, 0, BLOCK] for block in request["hash_ids"][:whole]]
        if left % BLOCK:
            prompt.append([10**8 + index, 0, left % BLOCK])
        rows.append(
            {
                "request_id": str(index),
                "arrival_ns": round((arrivals_s[index] - first) * 1e9),
                "prompt": prompt,
                "output_tokens": request["output_tokens"],
                "out_stream": 10**9 + index,
            }
        )
    rows.sort(key=lambda row: row["arrival_ns"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def off(predicted: NDArray[np.float64], real: NDArray[np.float64]) -> dict[str, float]:
    """Percent."""
    told = {"mean": np.mean, "p50": np.median, "p99": lambda x: np.quantile(x, 0.99)}
    return {name: float(100 * (of(predicted) / of(real) - 1)) for name, of in told.items()}


@needs_shared
def test_kernels_of_llmservingsim_predict_vllm_on_their_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])
    with (RUN / "truth_requests.csv").open(newline="") as file:
        real = {int(row["request_id"]): row for row in csv.DictReader(file)}
    arrivals_s = {index: float(row["arrival_s"]) for index, row in real.items()}
    config = {
        "model": "Llama-3.1-8B",
        "device": "RTX PRO 6000",
        "engine": {
            "max_num_seqs": 128,
            "max_num_batched_tokens": 2048,
            "scheduler": {"version": "0.19"},
        },
        "latency": {
            "kind": "imported",
            "source": "llmservingsim",
            "path": str(RUN / "profile"),
            "host_ns": HOST_NS,
        },
        "trace": {"kind": "native", "path": str(write_trace(tmp_path / "t.jsonl", arrivals_s))},
    }
    result = simulate(parse_config(config), out=tmp_path / "results").result
    rows = result.requests.set_index("id").loc[[str(index) for index in real]]
    e2e = rows["finish_ns"] - rows["arrival_ns"]
    tpot = (rows["finish_ns"] - rows["first_token_ns"]) / (rows["output_tokens"] - 1).clip(lower=1)
    several = (rows["output_tokens"] > 1).to_numpy()
    for name, predicted_ns, limits in (
        # The engine schedules asynchronously, which moves the first tokens by a step.
        ("ttft_ms", rows["ttft_ns"], {"mean": 3, "p50": 6, "p99": 2}),
        ("tpot_ms", tpot, {"mean": 2, "p50": 2, "p99": 2}),
        ("e2e_ms", e2e, {"mean": 1, "p50": 1, "p99": 1}),
    ):
        measured = np.array([float(row[name] or "nan") for row in real.values()])
        found = off(predicted_ns.to_numpy()[several] / 1e6, measured[several])
        assert all(abs(found[at]) <= limit for at, limit in limits.items()), (name, found)
