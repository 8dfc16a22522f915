"""What every part of a config has in common: frozen, strict, and clear about its keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from calibrate.naming import did_you_mean

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
NAME_IN_WORDS = "1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or a digit"

Name = Annotated[str, Field(pattern=NAME)]
"""May be part of a folder's name on any system."""


class Section(BaseModel):
    """A mapping of known keys. Unknown ones, and missing ones, are refused by name."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        defer_build=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        # Pydantic checks this too, but cannot tell what a missing key is for.
        if isinstance(values, dict):
            fields = cls.model_fields
            for key in values:
                if key not in fields:
                    known = {name: name for name in fields}
                    refuse(f"unknown key; {did_you_mean(str(key), known)}", at=str(key))
            for name, field in fields.items():
                if field.is_required() and name not in values:
                    refuse(f"missing; allowed: {field.description or 'a value'}", at=name)
        return values


def refuse(message: str, *, at: str = "") -> NoReturn:
    """From within a validator: this section's key `at` (or the section itself) is wrong."""
    raise PydanticCustomError("refused", "{message}", {"message": message, "at": at})


def by_kind(default: str, **aliases: str) -> Callable[[Any], Any]:
    """A part may be written as its kind alone, and without a kind it is the default one."""

    def spell_out(value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": aliases.get(value, value)}
        return {"kind": default} | value if isinstance(value, dict) else value

    return spell_out
