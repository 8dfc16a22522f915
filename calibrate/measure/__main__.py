"""`python -m calibrate.measure --model config.json --out FILE.jsonl`: the measurement alone.

For machines that have the standard library, torch, triton and numpy only; elsewhere
`python -m calibrate.run` does the same with a progress bar, and makes the table.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from calibrate.hf_config import ModelError, read_config
from calibrate.kernels.face import KernelError
from calibrate.llama_shape import LlamaShape
from calibrate.measure.errors import MeasureError
from calibrate.measure.session import Options, measure

_EVERY_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 where nothing could be measured for a reason that is told."""
    asked = _parser().parse_args(arguments)
    options = Options(
        device=asked.device,
        provider=asked.provider,
        dtype=asked.dtype,
        kv_cache_dtypes=tuple(asked.kv_cache_dtype or ("auto",)),
        budget_s=asked.budget,
        block_size=asked.block_size,
        max_tokens=asked.max_tokens,
        max_batch=asked.max_batch,
        max_context=asked.max_context,
        pool_tokens=asked.pool_tokens,
        steps=asked.steps,
        seed=asked.seed,
        only=tuple(asked.only or ()),
    )
    try:
        shape = read_config(asked.model, LlamaShape.from_config)
        measure(shape, options, asked.out, watch=_Lines(), announce=_say)
    except (MeasureError, ModelError, KernelError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"Stopped; {asked.out} keeps what is measured.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    default = Options()
    parser = argparse.ArgumentParser(prog="python -m calibrate.measure", description=__doc__)
    parser.add_argument("--model", required=True, type=Path, help="a config.json")
    parser.add_argument(
        "--out", required=True, type=Path, help="JSON lines; gone on with, if there"
    )
    parser.add_argument("--device", default=default.device, help="cpu, cuda, cuda:1")
    parser.add_argument("--provider", help="of kernels; default: triton on CUDA, torch elsewhere")
    parser.add_argument("--dtype", default=default.dtype, help="of weights and activations")
    parser.add_argument("--kv-cache-dtype", action="append", help="auto, fp8, int8; several times")
    parser.add_argument(
        "--only", action="append", help="an operator, or steps; several times: measure only these"
    )
    parser.add_argument("--budget", type=float, default=default.budget_s, help="seconds")
    for name, what in (
        ("block_size", "tokens of a KV block"),
        ("max_tokens", "scheduled in one step"),
        ("max_batch", "decodes in one step"),
        ("max_context", "of one sequence"),
        ("pool_tokens", "that the KV cache of all layers holds; default: what memory does"),
        ("steps", "whole steps at random"),
        ("seed", "of the order, the steps, the numbers"),
    ):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=getattr(default, name), help=what)
    return parser


class _Lines:
    """A line of progress every few seconds."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def __call__(self, done: int, total: int, what: str) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s >= _EVERY_S:
            self._last_s = now_s
            _say(f"{done} of {total}: {what}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
