"""A provider's kernels held to fp64 on the machine at hand, for where no test suite is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product

import torch

from calibrate.kernels.cases import DECODES, ERROR_ALLOWED, LONG, MIXED, make_case
from calibrate.kernels.check_cache import cache_checks
from calibrate.kernels.check_dense import dense_checks
from calibrate.kernels.face import Attention, Kernels
from calibrate.kernels.finding import Asked, Finding
from calibrate.kernels.pool import FORMATS

_HEADS = {"heads": 8, "kv_heads": 2, "head_size": 128}


def check_kernels(
    kernels: Kernels, device: torch.device | str, *, formats: Iterable[str] = FORMATS
) -> Iterator[Finding]:
    """Attention in these formats and all dtypes, then what is done to a cache, then the dense
    parts and the sampler. What cannot be run is a finding like any other."""
    for asked in _ask(kernels, device, tuple(formats)):
        yield asked.find()


def _ask(kernels: Kernels, device: torch.device | str, formats: tuple[str, ...]) -> Iterator[Asked]:
    for format, (dtype, allowed) in product(formats, ERROR_ALLOWED.items()):
        attend = partial(_attend, kernels.attention, format, dtype, device)
        name = str(dtype).removeprefix("torch.")
        yield Asked("attention", format, name, allowed, attend)
    if kernels.cache is not None:
        yield from cache_checks(kernels.cache, device, formats)
    if kernels.dense is not None:
        yield from dense_checks(kernels.dense, device)


def _attend(
    attention: Attention, format: str, dtype: torch.dtype, device: torch.device | str
) -> float:
    # An interpreter takes a second for what a GPU does in a microsecond.
    steps = (MIXED,) if torch.device(device).type == "cpu" else (MIXED, DECODES, LONG)
    cases = (make_case(format, dtype, spans, **_HEADS).to(device) for spans in steps)
    # torch's maximum is not a number where one of them is none.
    return torch.tensor([case.error(attention) for case in cases]).max().item()
