"""What is measured: a model's shape, and how far the grid goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")


class MeasureError(ValueError):
    """A measurement that cannot be made, or a file of one that cannot be used; for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama-like model: grouped-query attention, gated MLP, no biases."""

    name: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_size: int
    mlp_size: int
    vocab_size: int
    max_positions: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, name: str) -> Self:
        """Of a Hugging Face config.json.

        Raises MeasureError for what is missing or no size, and for layers of another kind.
        """
        kind = config.get("architectures")
        if not isinstance(kind, list) or len(kind) != 1 or kind[0] not in ARCHITECTURES:
            allowed = ", ".join(ARCHITECTURES)
            raise MeasureError(f"{name}: found architectures {kind}; allowed: one of {allowed}")
        for feature in ("attention_bias", "mlp_bias", "quantization_config"):
            if config.get(feature):
                raise MeasureError(f"{name}: found {feature}, which is not measured; allowed: none")

        def size(field: str, default: int | None = None) -> int:
            value = config.get(field)
            if value is None:
                value = default
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise MeasureError(f"{name}: field {field!r}: found {value!r}; allowed: 1 or more")
            return value

        heads, hidden_size = size("num_attention_heads"), size("hidden_size")
        shape = cls(
            name=name,
            layers=size("num_hidden_layers"),
            hidden_size=hidden_size,
            heads=heads,
            kv_heads=size("num_key_value_heads", heads),
            head_size=size("head_dim", hidden_size // heads),
            mlp_size=size("intermediate_size"),
            vocab_size=size("vocab_size"),
            max_positions=size("max_position_embeddings"),
        )
        if heads % shape.kv_heads or shape.head_size % 2:
            raise MeasureError(
                f"{name}: found {heads} heads over {shape.kv_heads} KV heads of"
                f" {shape.head_size}; allowed: a multiple of the KV heads, of an even size"
            )
        return shape

    @property
    def query_size(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Of K, and of V, of one token."""
        return self.kv_heads * self.head_size

    @property
    def layer_matrices(self) -> int:
        """Numbers in one layer's matrices."""
        attention = 2 * (self.query_size + self.kv_size)
        return self.hidden_size * (attention + 3 * self.mlp_size)

    @property
    def head_matrix(self) -> int:
        return self.hidden_size * self.vocab_size


def read_shape(path: str | Path) -> Shape:
    """The shape in a config.json. Raises MeasureError, with the path."""
    path = Path(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MeasureError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise MeasureError(f"{path}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise MeasureError(f"{path}: not a JSON object")
    name = path.parent.resolve().name if path.name == "config.json" else path.stem
    return Shape.from_config(config, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far the grid goes."""

    tokens: int
    """Scheduled in one step."""
    batch: int
    """Decodes in one step."""
    context: int
    """Of one sequence."""
    pool_tokens: Mapping[str, int]
    """What the KV cache of all layers holds, by format: no step can read more."""
