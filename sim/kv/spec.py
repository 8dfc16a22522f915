"""How large the KV cache of one token is, so how many tokens a pool can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class _Format(NamedTuple):
    element_bits: int
    scaled: bool
    """One fp32 scale per token and head for K, and one for V."""


_FORMATS = {
    "auto": _Format(16, False),
    "bfloat16": _Format(16, False),
    "float16": _Format(16, False),
    "fp8": _Format(8, False),
    "fp8_e4m3": _Format(8, False),
    "fp8_e5m2": _Format(8, False),
    "int8_per_token_head": _Format(8, True),
    "int4_per_token_head": _Format(4, True),
}
_ALIASES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "int8": "int8_per_token_head",
    "int4": "int4_per_token_head",
}
_SCALE_BYTES = 4

KV_DTYPES = (*_FORMATS, *_ALIASES)
"""Every name `resolve_kv_dtype` takes: vLLM's, then our short ones."""


def resolve_kv_dtype(name: str) -> str:
    """vLLM's name of a KV cache dtype; `int8` and the like are short for it.

    `auto` is the model's own 16-bit type. Raises ValueError, with the names that exist.
    """
    resolved = _ALIASES.get(name, name)
    if resolved not in _FORMATS:
        raise ValueError(f"unknown kv_cache_dtype {name!r}; known: {', '.join(KV_DTYPES)}")
    return resolved


@dataclass(frozen=True, slots=True)
class KVSpec:
    """Bytes of KV cache on one GPU.

    A layer keeps, for each token, `heads` slices of `values` numbers::

        |<-------- K of a head -------->|<-------- V of a head -------->|   x heads

    and with a *_per_token_head dtype one fp32 scale behind each K and each V. Multi-head
    latent attention (MLA) keeps one slice that all heads share, and no V: its "head" is
    the latent vector and the rotary part.

    Build it with `of_heads` or `of_latent`.
    """

    dtype: str
    layers: int
    heads: int
    """KV heads on this GPU."""
    values: int
    """Numbers per layer, token and head, K and V together."""

    @classmethod
    def of_heads(
        cls,
        dtype: str,
        *,
        layers: int,
        kv_heads: int,
        key_size: int,
        value_size: int,
        tensor_parallel_size: int = 1,
    ) -> KVSpec:
        """The cache of multi-head (MHA) or grouped-query (GQA) attention.

        Tensor parallelism divides the KV heads; where there are fewer heads than GPUs each
        GPU keeps one, as a copy. Raises ValueError where the division leaves a rest, or the
        dtype is unknown.
        """
        tp = tensor_parallel_size
        if tp < 1 or (kv_heads % tp and tp % kv_heads):
            raise ValueError(
                f"{kv_heads} KV heads cannot be divided over tensor_parallel_size {tp}"
            )
        return cls(
            dtype=resolve_kv_dtype(dtype),
            layers=layers,
            heads=max(1, kv_heads // tp),
            values=key_size + value_size,
        )

    @classmethod
    def of_latent(cls, dtype: str, *, layers: int, latent_size: int, rotary_size: int) -> KVSpec:
        """The cache of MLA: every GPU holds all of it, whatever the parallelism.

        Raises ValueError for a *_per_token_head dtype, which vLLM does not have for MLA.
        """
        resolved = resolve_kv_dtype(dtype)
        if _FORMATS[resolved].scaled:
            raise ValueError(f"kv_cache_dtype {resolved!r} does not exist for latent (MLA) caches")
        return cls(dtype=resolved, layers=layers, heads=1, values=latent_size + rotary_size)

    @property
    def element_bits(self) -> int:
        return _FORMATS[self.dtype].element_bits

    @property
    def scale_bytes(self) -> int:
        """Of one K or one V of a head; 0 where the dtype keeps no scales per token."""
        return _SCALE_BYTES if _FORMATS[self.dtype].scaled else 0

    @property
    def bytes_per_token(self) -> int:
        slice_bytes = self.values * self.element_bits // 8 + 2 * self.scale_bytes
        return self.layers * self.heads * slice_bytes

    def block_bytes(self, block_size: int) -> int:
        """Bytes of one block of `block_size` tokens, all layers together."""
        return block_size * self.bytes_per_token
