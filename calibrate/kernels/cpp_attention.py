"""Paged attention on a CPU: decodes by paged_decode.cpp, on one core; chunks as torch does them."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from calibrate.kernels.face import Attend, MissingProvider, Unsupported
from calibrate.kernels.pool import INT8, KVPool
from calibrate.kernels.rows import Rows
from calibrate.kernels.torch_attention import attend_rows, check_heads

FORMATS = ("float32", "bfloat16", INT8)
_SOURCE = Path(__file__).with_name("paged_decode.cpp")
# Sums may be reordered, or no dot product becomes a vector instruction; infinities are meant.
_FLAGS = (
    *("-O3", "-march=native", "-std=c++17", "-fno-math-errno"),
    *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"),
)
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int8: "int8"}


class CppAttention:
    """face.Attention for pools in host memory; the constructor compiles, once per machine."""

    def __init__(self) -> None:
        """Build the library, where torch keeps its extensions (TORCH_EXTENSIONS_DIR).

        Raises MissingProvider where there is no compiler or no ninja, or it does not compile.
        """
        reason = missing()
        if reason:
            raise MissingProvider(f"provider cpp: {reason}")
        from torch.utils.cpp_extension import load

        try:
            built = load(
                name="pagesim_paged_decode",
                sources=[str(_SOURCE)],
                extra_cflags=list(_FLAGS),
                with_cuda=False,
                is_python_module=False,
            )
        except (RuntimeError, OSError) as error:
            raise MissingProvider(f"provider cpp: {_SOURCE.name} does not build: {error}") from None
        self._built = ctypes.CDLL(str(built))

    def __call__(self, rows: Rows, pool: KVPool, *, heads: int) -> Attend:
        check_heads(pool, heads)
        if pool.format not in FORMATS or pool.keys.device.type != "cpu":
            raise Unsupported(
                f"provider cpp attends to {', '.join(FORMATS)} in host memory,"
                f" not to {pool.format} on {pool.device}"
            )
        decodes = [row for row, (_, n) in enumerate(rows.spans) if n == 1]
        chunks = [row for row, (_, n) in enumerate(rows.spans) if n > 1]
        starts = [0, *accumulate(n for _, n in rows.spans)]
        chosen = torch.tensor(decodes, dtype=torch.int32)
        tokens = torch.tensor([starts[row] for row in decodes], dtype=torch.int32)
        attend_chunks = attend_rows(rows, pool, chunks)

        def attend(query: Tensor, layer: int, out: Tensor) -> None:
            kernel = self._kernel(query, pool)
            shape = (ctypes.c_int64 * 7)(
                *(len(decodes), heads, pool.kv_heads, pool.head_size, pool.block_size),
                *(rows.block_table.shape[1], query.stride(0)),
            )
            scales = (pool.key_scales, pool.value_scales)
            kernel(
                shape,
                *map(_pointer, (query, pool.keys[layer], pool.values[layer])),
                *(_pointer(None if scale is None else scale[layer]) for scale in scales),
                *map(_pointer, (chosen, tokens, rows.kv_lengths, rows.block_table, out)),
            )
            attend_chunks(query, layer, out)

        return attend

    def _kernel(self, query: Tensor, pool: KVPool) -> ctypes._NamedFuncPointer:
        if query.dtype not in (torch.float32, torch.bfloat16):
            raise Unsupported(f"provider cpp computes in float32 or bfloat16, not {query.dtype}")
        kernel = self._built[f"{_NAMES[query.dtype]}_over_{_NAMES[pool.keys.dtype]}"]
        kernel.restype = None
        return kernel


def missing() -> str | None:
    """What this machine lacks to compile the kernel; None where nothing."""
    compiler = shlex.split(os.environ.get("CXX", ""))[:1] or ["c++"]
    if shutil.which(compiler[0]) is None:
        return f"no C++ compiler: {compiler[0]!r} is not on the PATH (install g++, or set CXX)"
    if shutil.which("ninja") is None:
        return "ninja, which torch builds with, is not on the PATH (pip install ninja)"
    return None


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
