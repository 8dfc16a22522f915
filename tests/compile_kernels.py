"""`TRITON_INTERPRET=0 python -m tests.compile_kernels [--all]`: compile our kernels for sm_90.

No GPU is needed. Prints a line for each: its name, registers of a thread, bytes of stack (what
spilled), and last the bytes of shared memory. What cannot be compiled is printed too, and makes the
exit code 1. Without --all it is one of each kind; with it, all that a measurement or a check
launches. When they begin, pointers are aligned.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import triton
from triton import compile as compiled
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from calibrate.kernels.device import attention, cache, dense

HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8e4nv", "int8": "i8"}
_CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Variant(NamedTuple):
    """A kernel as it is launched."""

    kernel: Any
    types: str
    """Of the arguments that are not constants, in their order."""
    constants: dict[str, Any]
    options: Mapping[str, int] = MappingProxyType({})

    def compile(self) -> str:
        """What became of it, in a line that ends with its shared memory."""
        given = iter(self.types.split())
        names = self.kernel.arg_names
        signature = {n: "constexpr" if n in self.constants else next(given) for n in names}
        assert next(given, None) is None
        source = ASTSource(
            self.kernel,
            signature=signature,
            constexprs={(names.index(n),): value for n, value in self.constants.items()},
            attrs={
                (i,): [["tt.divisibility", 16]]
                for i, of in enumerate(signature.values())
                if of.startswith("*")
            },
        )
        done = compiled(source, target=HOPPER, options={"enable_fp_fusion": True, **self.options})
        return f"{self} {_count(done.asm['cubin'])} shared {done.metadata.shared}"

    def __str__(self) -> str:
        told = {**self.constants, **self.options}
        words = (f"{name}={value}" for name, value in told.items())
        return f"{self.kernel.__name__} {self.types.replace(' ', ',')} {' '.join(words)}"


def _count(cubin: bytes) -> str:
    """What its machine code says: registers of a thread, and bytes of stack, where they spill."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        done = subprocess.run(
            [_CUOBJDUMP, "--dump-resource-usage", file], capture_output=True, text=True, check=True
        )
    told = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", done.stdout)
    assert told is not None, done.stdout
    return f"registers {told[1]} stack {int(told[2]) + int(told[3])}"


def attend(
    kv: str,
    *,
    rows: int,
    splits: int,
    query: str = "bf16",
    size: int = 128,
    block_size: int = 16,
    heads: tuple[int, int] = (32, 8),
) -> Variant:
    """As `triton_attention.prepare` launches it."""
    large = query == "fp32" or size > 128
    scales = "*fp32 *fp32" if kv == "i8" else "*i32 *i32"
    return Variant(
        attention.attend_kernel,
        f"*{query} *fp32 *fp32 *fp32 *{query} *{kv} *{kv} {scales}"
        " *i32 *i32 *i32 *i32 i32 i32 i32 fp32",
        {"HEADS": heads[0], "KV_HEADS": heads[1], "HEAD_SIZE": size, "HEAD_PADDED": size}
        | {"BLOCK_SIZE": block_size, "QUERIES": rows * heads[1] // heads[0], "ROWS": rows}
        | {"TILE": 32 if large else 64, "SPLITS": splits, "SCALED": kv == "i8", "UPCAST": False},
        {"num_warps": 4 if rows <= 64 else 8, "num_stages": 2 if large else 3},
    )


def join(query: str, splits: int, size: int = 128) -> Variant:
    sizes = {"HEAD_SIZE": size, "HEAD_PADDED": size, "SPLITS": splits}
    return Variant(attention.join_kernel, f"*{query} *fp32 *fp32 *fp32 i32", sizes)


def write(kv: str, query: str = "bf16", size: int = 128) -> Variant:
    form = {"i8": "int8", "fp8e4nv": "fp8"}.get(kv, "plain")
    scales = "*fp32 *fp32" if kv == "i8" else "*i64 *i64"
    return Variant(
        cache.write_kernel,
        f"*{query} *{query} *{kv} *{kv} {scales} *i64 i32 i32",
        {"HEADS": 8, "HEADS_PADDED": 8, "HEAD_SIZE": size, "HEAD_PADDED": size, "FORMAT": form},
    )


def dequantise(kv: str, out: str = "bf16", size: int = 128) -> Variant:
    scaled = kv == "i8"
    return Variant(
        cache.dequantise_kernel,
        f"*{kv} {'*fp32' if scaled else '*i64'} *i64 *{out}",
        {"SLICES": 128, "HEAD_SIZE": size, "HEAD_PADDED": size, "PIECE": 32, "SCALED": scaled},
    )


def copy(words: int) -> Variant:
    return Variant(cache.copy_kernel, "*i32 *i64 i64", {"WORDS": words, "PIECE": 1024})


def norm(dtype: str, *, added: bool) -> Variant:
    sizes = {"SIZE": 4096, "SIZE_PADDED": 4096, "ADDED": added}
    return Variant(dense.rms_norm_kernel, f"{f'*{dtype} ' * 4}fp32", sizes, {"num_warps": 8})


def rotary(dtype: str, heads: int, size: int = 128) -> Variant:
    half = {"HALF": size // 2, "HALF_PADDED": size // 2}
    sizes = {"HEADS": heads, "HEADS_PADDED": heads} | half
    return Variant(dense.rotary_kernel, f"*{dtype} *fp32 *i64 i32", sizes)


def silu_mul(dtype: str) -> Variant:
    return Variant(dense.silu_mul_kernel, f"*{dtype} *{dtype}", {"SIZE": 14336, "PIECE": 1024})


def one_of_each() -> Iterator[Variant]:
    yield attend("i8", rows=16, splits=4)
    yield attend("bf16", rows=128, splits=1)
    yield attend("bf16", rows=64, splits=1, size=256)
    yield from (join("bf16", 4), write("i8"), copy(8192), dequantise("i8"))
    yield from (norm("bf16", added=True), rotary("bf16", 8), silu_mul("bf16"))


def all_of_them() -> Iterator[Variant]:
    for query, (name, kv), size in product(("bf16", "fp16"), TYPES.items(), (64, 128)):
        if name in ("bfloat16", "float16") and kv != query:
            continue
        for rows, splits in product((16, 32, 64, 128), (1, 2, 8, 64)):
            yield attend(kv, rows=rows, splits=splits, query=query, size=size)
        for block_size in (32, 256):
            yield attend(kv, rows=16, splits=8, query=query, size=size, block_size=block_size)
            yield attend(kv, rows=128, splits=1, query=query, size=size, block_size=block_size)
        yield from (write(kv, query, size), dequantise(kv, query, size))
    # As `python -m calibrate.kernels --check` asks for them.
    for query, kv in product(("fp32", "fp16", "bf16"), ("fp32", *TYPES.values())):
        for rows, splits in product((16, 128), (1, 2)):
            yield attend(kv, rows=rows, splits=splits, query=query, heads=(8, 2))
    for query, size in product(("bf16", "fp16"), (64, 128)):
        yield from (join(query, splits, size) for splits in (2, 8, 64))
        yield from (rotary(query, heads, size) for heads in (8, 32))
    for query in ("bf16", "fp16"):
        yield from (norm(query, added=True), norm(query, added=False), silu_mul(query))
    yield from (copy(words) for words in (4096, 8192, 128))


def main(arguments: list[str]) -> int:
    failed = 0
    for variant in all_of_them() if "--all" in arguments else one_of_each():
        try:
            print(variant.compile(), flush=True)
        except Exception as error:  # whatever a compiler has to say
            failed += 1
            print(f"{variant} FAILED {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
