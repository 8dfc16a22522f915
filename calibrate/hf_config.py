"""Reading a Hugging Face config.json: its fields, and the features nothing here models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

Config = Mapping[str, object]
Shape = TypeVar("Shape")

_STATE_SPACE_PREFIXES = ("mamba_", "ssm_", "linear_num_", "linear_conv_", "rwkv")
_STATE_SPACE_FIELDS = (
    "attn_layer_period",
    "full_attention_interval",
    "hybrid_override_pattern",
    "layers_block_type",
    "state_size",
)


class ModelError(ValueError):
    """A model that is unknown, described incompletely, or built in a way we do not model."""


class Fields:
    """The fields of one config.json. Every error names the model and the field."""

    def __init__(self, config: Config, *, name: str) -> None:
        self.name = name
        self._config = config

    def architecture(self) -> str:
        listed = self._config.get("architectures")
        if not isinstance(listed, list) or not listed or not isinstance(listed[0], str):
            raise self.error("field 'architectures' is missing or names no class")
        return listed[0]

    def whole(self, field: str, *, default: int | None = None) -> int:
        """A positive whole number; `default` where the field is absent or null."""
        value = self._config.get(field)
        if value is None:
            value = default
        if value is None:
            raise self.error(f"field {field!r} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(f"field {field!r} must be a positive whole number, got {value!r}")
        return value

    def real(self, field: str, *, default: float) -> float:
        """A positive number; `default` where the field is absent or null."""
        value = self._config.get(field)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.error(f"field {field!r} must be a positive number, got {value!r}")
        return float(value)

    def flag(self, field: str, *, default: bool) -> bool:
        value = self._config.get(field, default)
        if not isinstance(value, bool):
            raise self.error(f"field {field!r} must be true or false, got {value!r}")
        return value

    def refuse_unless(self, field: str, value: object, *, why: str) -> None:
        """Raise ModelError where the field is there and says something else than `value`."""
        found = self._config.get(field, value)
        if found != value:
            raise self.error(f"field {field!r} is {found!r}: {why}, which is not modelled")

    def has(self, field: str) -> bool:
        return self._config.get(field) is not None

    def error(self, what: str) -> ModelError:
        return ModelError(f"config of {self.name}: {what}")

    def refuse_unmodelled(self) -> None:
        """Raise ModelError where the attention keeps something else than full K and V."""
        feature = _unmodelled_attention(self._config)
        if feature is not None:
            raise self.error(
                f"{self.architecture()} has {feature}; the cache and the step time of such a"
                " model would come out wrong, so it is refused"
            )


def read_config(path: Path, make: Callable[..., Shape]) -> Shape:
    """`make(config, name=...)` of a file. A config.json is called as its folder, any other file
    as itself. Raises ModelError, with the path."""
    name = path.parent.resolve().name if path.name == "config.json" else path.stem
    try:
        return make(parse_config(path.read_bytes()), name=name)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def parse_config(text: bytes) -> dict[str, object]:
    """The object that a config.json is. Raises ModelError."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ModelError(f"not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError("not a JSON object")
    return config


def _unmodelled_attention(config: Config) -> str | None:
    """The first feature that breaks "every layer keeps every token", in words."""
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**config, **text}
    kinds = config.get("layer_types")
    kinds = set(kinds) if isinstance(kinds, list) else set()
    for field in config:
        if field in _STATE_SPACE_FIELDS or field.startswith(_STATE_SPACE_PREFIXES):
            return f"state-space or linear-attention layers (field {field!r})"
    if "linear_attention" in kinds:
        return "linear-attention layers (field 'layer_types')"
    window = config.get("sliding_window")
    if window is not None and config.get("use_sliding_window", True):
        return f"sliding-window attention (field 'sliding_window' = {window})"
    if other := kinds - {"full_attention"}:
        return f"layers of kind {', '.join(sorted(other))} (field 'layer_types')"
    if config.get("attention_chunk_size") is not None:
        return "chunked local attention (field 'attention_chunk_size')"
    if config.get("index_topk") is not None:
        return "sparse attention with an index cache of its own (field 'index_topk')"
    return None
