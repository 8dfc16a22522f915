"""Which providers of kernels there are, and which of them this machine has."""

from __future__ import annotations

from calibrate.kernels.face import Kernels, MissingProvider


def load_kernels(name: str) -> Kernels:
    """The kernels of that provider. Raises MissingProvider for unknown and missing ones."""
    if name != "torch":
        raise MissingProvider(f"unknown provider {name!r}; known: torch")
    from calibrate.kernels.torch_attention import attention
    from calibrate.kernels.torch_cache import TorchCache
    from calibrate.kernels.torch_dense import TorchDense

    return Kernels(name="torch", attention=attention, cache=TorchCache(), dense=TorchDense())
