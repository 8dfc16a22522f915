"""What all launches of Triton kernels share."""

from __future__ import annotations

import torch
import triton

from calibrate.kernels.face import Unsupported
from calibrate.kernels.pool import FP8, KVPool

FUSED = {"enable_fp_fusion": True}
"""Said, for its default is to change in triton 3.10, and with it the error of a kernel."""
_FP8_CAPABILITY = (8, 9)


def check_device(pool: KVPool) -> None:
    """Raise Unsupported where Triton cannot compile for the pool's device and format."""
    if pool.keys.is_cuda:
        capability = torch.cuda.get_device_capability(pool.device)
        if pool.format == FP8 and capability < _FP8_CAPABILITY:
            has = ".".join(map(str, capability))
            raise Unsupported(f"fp8 needs compute capability 8.9; this GPU has {has}")
    elif not triton.knobs.runtime.interpret:
        raise Unsupported(f"Triton compiles for CUDA; this pool is on {pool.device}")


def padded(size: int) -> int:
    """The power of 2, 16 at least, that a tile of so many numbers takes."""
    return max(16, int(triton.next_power_of_2(size)))
