"""The summary on terminals of 100 and of 80 columns."""

from __future__ import annotations

import random
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.metrics import summarize
from experiments.screen import show
from tests.served import Server, ask, serve
from tests.worlds import small_world


def print_summary(summary: dict[str, Any], *, folder: Path | None = None, width: int = 100) -> str:
    screen = StringIO()
    show(summary, Console(file=screen, width=width), folder=folder)
    return screen.getvalue()


def test_what_is_modelled_lost_and_next_is_said() -> None:
    requests = [ask(0), ask(1, output=9, max_tokens=2), ask(2, prompt=99)]
    frames, context = serve(requests, Server(max_model_len=50))
    context["config"] |= {"name": "mine", "model": "Llama-3.1-8B", "device": "H200"}
    context["config"]["slo"] = {"ttft_ms": 250.0}
    context["trace"]["notes"] = {"zero lengths dropped": 7}
    context["deployment"]["memory"] = [{"term": "weights", "bytes": 2**30, "derivation": "given"}]
    text = print_summary(summarize(frames, context), folder=Path("results/mine"))
    for said in (
        "mine  Llama-3.1-8B on H200  <-  by hand",
        " MODELLED ",
        "3 requests arrived, 2 answered",
        "100 % keep TTFT <= 250 ms",
        "1 rejected: prompt of N tokens leaves no room",
        "1 answers clipped",
        "zero lengths dropped: 7",
        "own prefill",
        "Nobody left waiting 100 % of the busy time.",
        "weights 1.00",
        "results/mine",
    ):
        assert said in text


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("seed", range(8))
def test_it_fits(seed: int, width: int) -> None:
    world = small_world(random.Random(seed))
    summary = summarize(*serve(world.requests, Server.of(world)))
    text = print_summary(summary, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_80_columns_say_every_number() -> None:
    """The widest of all: minutes, every cause, and every part that a pool of blocks has."""
    summary = summarize(*serve([ask(0), ask(1)], Server()))
    latencies, parts = summary["latency_ms"], summary["ttft"]["parts"]
    latencies["ttft"] |= dict.fromkeys(latencies["ttft"], 151_234.0)
    for part in parts.values():
        part |= {"mean_ms": 151_234.0, "share_of_mean": 1.0, "share_of_variance": -0.0004}
    shares = summary["memory"]["share_of_pool"]
    shares |= dict.fromkeys(shares, 0.0004) | {"external": 0.0}
    text = print_summary(summary, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("2.52 min") == 7 + len(parts)
    assert text.count(" <0.1 %") + text.count("\n<0.1 %") == len(shares) - 1


def test_a_run_that_answers_nobody_is_shown() -> None:
    summary = summarize(*serve([ask(0, prompt=50)], Server(max_model_len=20)))
    assert "1 rejected" in print_summary(summary)


def test_what_hits_would_take_alone_stands_apart() -> None:
    summary = summarize(*serve([ask(0), ask(1)], Server()))
    assert "beside the sum" not in print_summary(summary)
    summary["ttft"]["saved_by_prefix_mean_ms"] = 13.1
    lines = print_summary(summary).splitlines()
    assert "beside the sum: prefix hits, computed alone, would take 13.1 ms" in lines
    summary["simulator"] |= {"steps": 7, "wall_s": 2.0, "cpu_s": 0.5, "requests_per_cpu_s": 4.0}
    said = "7 steps simulated in 2.00 s, 0.50 CPU-seconds (4 requests per CPU-second)"
    assert said in print_summary(summary)
