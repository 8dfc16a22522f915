"""A class of the user's own, as a config names it: `kind: custom`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from experiments.errors import shown
from experiments.section import Section, refuse

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def _check_path(value: Any) -> Any:
    if not (isinstance(value, str) and _PATH.fullmatch(value)):
        refuse(f"found {shown(value)}; allowed: module:Class, as in my_policies:ShortestPrompt")
    return value


class Custom(Section):
    """What every class of your own has."""

    kind: Literal["custom"]
    path: Annotated[str, BeforeValidator(_check_path)] = Field(
        description="the class as `module:Class`, imported from the working directory or from what"
        " is installed"
    )
    options: dict[str, Any] = Field(default={})
    """Keyword arguments of its own."""
    source: str | None = None
    """Sha256 of the file that defines it, which has to be that one; null: as it is now."""
