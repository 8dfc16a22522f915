"""Norm, rotary and SwiGLU in Triton, one launch each; matrices and the sampler are torch's."""

from __future__ import annotations

import triton
from torch import Tensor

from calibrate.kernels.device.dense import rms_norm_kernel, rotary_kernel, silu_mul_kernel
from calibrate.kernels.torch_dense import TorchDense
from calibrate.kernels.triton_launch import FUSED, padded

_PIECE = 1024


class TritonDense(TorchDense):
    """face.Dense, on CUDA; `linear` is cuBLAS, as in every engine."""

    def rms_norm(
        self, x: Tensor, weight: Tensor, out: Tensor, *, residual: Tensor | None, epsilon: float
    ) -> None:
        tokens, size = x.shape
        if not tokens:
            return
        rms_norm_kernel[(tokens,)](
            *(x, x if residual is None else residual, weight, out, epsilon),
            SIZE=size,
            SIZE_PADDED=padded(size),
            ADDED=residual is not None,
            num_warps=8 if size >= 2048 else 4,
            **FUSED,
        )

    def rotary(self, query: Tensor, key: Tensor, angles: Tensor, positions: Tensor) -> None:
        for x in (query, key):
            tokens, heads, head_size = x.shape
            if tokens:
                rotary_kernel[(tokens,)](
                    *(x, angles, positions, x.stride(0)),
                    HEADS=heads,
                    HEADS_PADDED=triton.next_power_of_2(heads),
                    HALF=head_size // 2,
                    HALF_PADDED=padded(head_size // 2),
                    **FUSED,
                )

    def silu_mul(self, gate_up: Tensor, out: Tensor) -> None:
        tokens, size = out.shape
        if tokens:
            silu_mul_kernel[(tokens, triton.cdiv(size, _PIECE))](
                *(gate_up, out), SIZE=size, PIECE=_PIECE, **FUSED
            )
