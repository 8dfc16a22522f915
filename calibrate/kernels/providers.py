"""Which providers of kernels there are, which this machine has, and why not the others.

Needs no torch to be asked. A provider that is not there is never replaced by another.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from calibrate.kernels.errors import MissingProvider

if TYPE_CHECKING:
    from calibrate.kernels.face import Kernels

_ALL_FORMATS = ("float32", "bfloat16", "float16", "fp8_e4m3", "int8_per_token_head")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider, as data: what it can do, and how to find out whether it is here."""

    name: str
    attention: str
    """How it attends to decodes and to chunks."""
    chunks_apart: bool
    """Does it attend to one chunk after another, rather than to all of a step at once?"""
    formats: tuple[str, ...]
    """Of the KV pool, that its attention reads."""
    cache: str | None
    """How it writes, copies, swaps, dequantises; None where it does not."""
    dense: str | None
    """How it does norm, rotary, SwiGLU, matrices, sampling; None where it does not."""
    missing: Callable[[], str | None]
    """Why it is not on this machine; None where it is."""
    build: Callable[[], Kernels]


def load_kernels(name: str) -> Kernels:
    """The kernels of that provider. Raises MissingProvider: unknown, or not on this machine."""
    known = {provider.name: provider for provider in PROVIDERS}
    if name not in known:
        raise MissingProvider(f"unknown provider {name!r}; known: {', '.join(known)}")
    reason = known[name].missing()
    if reason:
        raise MissingProvider(f"provider {name} is not on this machine: {reason}")
    return known[name].build()


def lacks_torch() -> str | None:
    """Why torch cannot be used; None where it can be, and is imported then."""
    if find_spec("torch") is None:
        return "torch is not installed (pip install 'pagesim[calibrate]')"
    try:
        import_module("torch")
    except (ImportError, OSError) as error:
        return f"torch is installed, but does not load ({error})"
    return None


def _lacks_compiler() -> str | None:
    if reason := lacks_torch():
        return reason
    from calibrate.kernels.cpp_attention import missing

    return missing()


def _lacks_cuda() -> str | None:
    if reason := lacks_torch():
        return reason
    import torch

    return None if torch.cuda.is_available() else f"torch {torch.__version__} finds no CUDA device"


def _lacks_triton() -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed (pip install triton; it exists for Linux)"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return lacks_torch()
    return _lacks_cuda()


def _lacks_flashinfer() -> str | None:
    if find_spec("flashinfer") is None:
        return "flashinfer is not installed (pip install flashinfer-python)"
    return _lacks_cuda()


def _torch() -> Kernels:
    from calibrate.kernels.face import Kernels
    from calibrate.kernels.torch_attention import attention
    from calibrate.kernels.torch_cache import TorchCache
    from calibrate.kernels.torch_dense import TorchDense

    return Kernels(name="torch", attention=attention, cache=TorchCache(), dense=TorchDense())


def _triton() -> Kernels:
    from calibrate.kernels.face import Kernels
    from calibrate.kernels.triton_attention import attention
    from calibrate.kernels.triton_cache import TritonCache
    from calibrate.kernels.triton_compile import compile_kernels
    from calibrate.kernels.triton_dense import TritonDense

    return Kernels(
        name="triton",
        attention=attention,
        cache=TritonCache(),
        dense=TritonDense(),
        compile=compile_kernels,
    )


def _cpp() -> Kernels:
    from calibrate.kernels.cpp_attention import CppAttention
    from calibrate.kernels.face import Kernels

    return Kernels(name="cpp", attention=CppAttention(), cache=None, dense=None)


def _flashinfer() -> Kernels:
    from calibrate.kernels.face import Kernels
    from calibrate.kernels.flashinfer_attention import FlashInferAttention

    return Kernels(name="flashinfer", attention=FlashInferAttention(), cache=None, dense=None)


PROVIDERS = (
    Provider(
        name="torch",
        attention="gather, then SDPA; any device",
        chunks_apart=True,
        formats=_ALL_FORMATS,
        cache="indexing",
        dense="torch",
        missing=lacks_torch,
        build=_torch,
    ),
    Provider(
        name="triton",
        attention="one paged kernel for all rows; CUDA",
        chunks_apart=False,
        formats=_ALL_FORMATS,
        cache="own kernels; swaps by torch",
        dense="own; matrices, sampling by torch",
        missing=_lacks_triton,
        build=_triton,
    ),
    Provider(
        name="cpp",
        attention="decodes in C++ on one core; chunks as torch does",
        chunks_apart=True,
        formats=("float32", "bfloat16", "int8_per_token_head"),
        cache=None,
        dense=None,
        missing=_lacks_compiler,
        build=_cpp,
    ),
    Provider(
        name="flashinfer",
        attention="its batch prefill for all rows; CUDA",
        chunks_apart=False,
        formats=("bfloat16", "float16", "fp8_e4m3"),
        cache=None,
        dense=None,
        missing=_lacks_flashinfer,
        build=_flashinfer,
    ),
)
