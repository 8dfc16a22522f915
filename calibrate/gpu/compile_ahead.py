"""`python -m calibrate.gpu.compile_ahead --model config.json`: fill Triton's cache on this machine.

So that the seconds it takes to compile are no part of a measurement's budget.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from calibrate.hf_config import ModelError, read_config
from calibrate.kernels.errors import KernelError
from calibrate.kernels.pool import FORMATS, KVPool
from calibrate.kernels.providers import load_kernels
from calibrate.llama_shape import LlamaShape
from calibrate.measure.refusals import kernel_errors

_KEYS_OF_ALL_SPLITS = 1 << 16
"""A sequence so long has its keys split among as many programs as any."""


def main(arguments: list[str] | None = None) -> int:
    """0; 1 where a format does not compile, 2 where the kernels or the model are not there."""
    parser = argparse.ArgumentParser(
        prog="python -m calibrate.gpu.compile_ahead", description=__doc__
    )
    parser.add_argument("--model", required=True, type=Path, help="a config.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", help="of weights and activations")
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--format", action="append", choices=list(FORMATS), help="of the KV cache")
    asked = parser.parse_args(arguments)
    device, failed = torch.device(asked.device), 0
    try:
        shape, kernels = read_config(asked.model, LlamaShape.from_config), load_kernels("triton")
    except (ModelError, KernelError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    assert kernels.compile is not None
    for format in asked.format or FORMATS:
        start_s = time.monotonic()
        pool = KVPool.empty(
            format,
            layers=1,
            blocks=-(-_KEYS_OF_ALL_SPLITS // asked.block_size),
            block_size=asked.block_size,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
            device=device,
        )
        try:
            with kernel_errors(device), torch.inference_mode():
                kernels.compile(pool, shape.heads, getattr(torch, asked.dtype))
        except (KernelError, MemoryError) as error:
            failed += 1
            print(f"{format}: {error}", flush=True)
        else:
            print(f"{format}: compiled in {time.monotonic() - start_s:.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
