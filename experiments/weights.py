"""Mappings in a config: weights of what is drawn, and values by number."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from experiments.section import refuse

Value = TypeVar("Value")


def _number_keys(values: Any) -> Any:
    """A resolved config, and JSON, have numbers as keys only in quotes."""
    if not isinstance(values, dict):
        return values
    return {_as_number(key): value for key, value in values.items()}


def _as_number(key: Any) -> Any:
    if not isinstance(key, str):
        return key
    for read in (int, float):
        try:
            return read(key)
        except ValueError:
            continue
    return key


def _sort(values: dict[Any, Any]) -> dict[Any, Any]:
    """In whatever order they are written, equal mappings draw equal requests."""
    return dict(sorted(values.items()))


def _check_sum(weights: dict[Any, float]) -> dict[Any, float]:
    if not sum(weights.values()):
        refuse("found no weight above 0; allowed: at least one")
    return _sort(weights)


Weight = Annotated[float, Field(ge=0, le=1e9)]
ByNumber = Annotated[
    dict[float, Value],
    Field(min_length=1),
    BeforeValidator(_number_keys),
    AfterValidator(_sort),
]
"""Values at numbers."""
NumberWeights = Annotated[
    dict[int, Weight], BeforeValidator(_number_keys), AfterValidator(_check_sum)
]
"""How often each whole number is drawn; weights need no particular sum."""
NameWeights = Annotated[dict[str, Weight], AfterValidator(_check_sum)]
"""How often each name is drawn."""
