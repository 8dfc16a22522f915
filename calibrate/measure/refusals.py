"""What a machine says when it cannot run something, as errors that a measurement goes on after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from calibrate.kernels.errors import KernelError

_MEMORY = ("out of memory", "allocate memory")
_COMPILER = "triton"


@contextmanager
def memory_errors() -> Iterator[None]:
    """MemoryError for what torch says of it: on a CPU that is a plain RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        told = _first_line(error)
        if not any(words in told for words in _MEMORY):
            raise
    else:
        return
    raise MemoryError(told)


@contextmanager
def kernel_errors(device: torch.device) -> Iterator[None]:
    """MemoryError too, and KernelError for what Triton does not compile and CUDA does not run.

    What CUDA says of a device that is lost is raised as it is: nothing runs there any more.
    """
    try:
        with memory_errors():
            yield
    except (KernelError, MemoryError):
        raise
    except Exception as error:  # compilers have errors of many kinds
        compiling = type(error).__module__.partition(".")[0] == _COMPILER
        if not compiling and (device.type != "cuda" or not isinstance(error, RuntimeError)):
            raise
        told = f"{type(error).__name__}: {_first_line(error)}"
    else:
        return
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    raise KernelError(told)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
