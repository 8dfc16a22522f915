"""`python -m tests.compile_kernels`: compile our Triton kernels for sm_90; no GPU is needed.

Prints a line for each, with the shared memory it takes; at its start, pointers are aligned.
"""

from __future__ import annotations

from typing import Any

from triton import compile as compiled
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from calibrate.kernels.device import attention, cache, dense

HOPPER = GPUTarget("cuda", 90, 32)


def compile_kernel(kernel: Any, types: str, constants: dict[str, Any], **options: int) -> None:
    """`types` are those of the arguments that are not constants, in their order."""
    given = iter(types.split())
    signature = {n: "constexpr" if n in constants else next(given) for n in kernel.arg_names}
    assert next(given, None) is None
    source = ASTSource(
        kernel,
        signature=signature,
        constexprs={(kernel.arg_names.index(n),): value for n, value in constants.items()},
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, of in enumerate(signature.values())
            if of.startswith("*")
        },
    )
    done = compiled(source, target=HOPPER, options={"enable_fp_fusion": True, **options})
    print(kernel.__name__, done.metadata.shared)


def compile_attention(
    kv: str, *, rows: int, splits: int, warps: int, size: int = 128, tile: int = 64, stages: int = 3
) -> None:
    compile_kernel(
        attention.attend_kernel,
        f"*bf16 *fp32 *fp32 *fp32 *bf16 *{kv} *{kv} *fp32 *fp32 *i32 *i32 *i32 *i32 i32 i32 i32"
        " fp32",
        {"HEADS": 32, "KV_HEADS": 8, "HEAD_SIZE": size, "HEAD_PADDED": size, "BLOCK_SIZE": 16}
        | {"QUERIES": rows // 4, "ROWS": rows, "TILE": tile, "SPLITS": splits}
        | {"SCALED": kv == "i8", "UPCAST": False},
        num_warps=warps,
        num_stages=stages,
    )


def main() -> None:
    compile_attention("i8", rows=16, splits=4, warps=4)
    compile_attention("bf16", rows=128, splits=1, warps=8)
    compile_attention("bf16", rows=64, splits=1, warps=4, size=256, tile=32, stages=2)
    join = {"HEAD_SIZE": 128, "HEAD_PADDED": 128, "SPLITS": 4}
    compile_kernel(attention.join_kernel, "*bf16 *fp32 *fp32 *fp32 i32", join)
    heads = {"HEADS": 8, "HEADS_PADDED": 8}
    write = heads | {"HEAD_SIZE": 128, "HEAD_PADDED": 128, "FORMAT": "int8"}
    compile_kernel(cache.write_kernel, "*bf16 *bf16 *i8 *i8 *fp32 *fp32 *i64 i32 i32", write)
    compile_kernel(cache.copy_kernel, "*i32 *i64 i64", {"WORDS": 8192, "PIECE": 1024})
    slices = {"SLICES": 128, "HEAD_SIZE": 128, "HEAD_PADDED": 128, "PIECE": 32, "SCALED": True}
    compile_kernel(cache.dequantise_kernel, "*i8 *fp32 *i64 *bf16", slices)
    norm = {"SIZE": 4096, "SIZE_PADDED": 4096, "ADDED": True}
    compile_kernel(dense.rms_norm_kernel, "*bf16 *bf16 *bf16 *bf16 fp32", norm, num_warps=8)
    turn = heads | {"HALF": 64, "HALF_PADDED": 64}
    compile_kernel(dense.rotary_kernel, "*bf16 *fp32 *i64 i32", turn)
    compile_kernel(dense.silu_mul_kernel, "*bf16 *bf16", {"SIZE": 14336, "PIECE": 1024})


if __name__ == "__main__":
    main()
