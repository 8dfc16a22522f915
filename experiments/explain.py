"""Pydantic's findings in a user's words: where, what was found, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from calibrate.naming import did_you_mean
from experiments.errors import ConfigError, shown
from experiments.section import NAME, NAME_IN_WORDS
from experiments.source import Keys, Source


@contextmanager
def explain(values: object, source: Source | None) -> Iterator[None]:
    """Turn pydantic's ValidationError into a ConfigError, a line for each finding.

    `values` is what was checked; `source` knows where it was written.
    """
    try:
        yield
    except ValidationError as error:
        lines = [_line(details, values, source) for details in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _line(details: ErrorDetails, values: object, source: Source | None) -> str:
    keys, message = _path(details, values), _message(details)
    if details["type"] == "refused" and details["ctx"]["at"]:
        keys = (*keys, details["ctx"]["at"])
    if details["type"].startswith("union_tag"):
        keys = (*keys, "kind")
    dotted = ".".join(map(str, keys)) or "config"
    place = f"{source.place(keys)}: " if source is not None else ""
    return f"{place}{dotted}: {message}"


def _path(details: ErrorDetails, values: object) -> Keys:
    """Where the value is. Pydantic's own path also names the kind within a union."""
    keys: list[str | int] = []
    at, entered = values, True
    for step in details["loc"]:
        if entered and _is_kind(step, at):
            entered = False
            continue
        keys.append(step)
        at, entered = _inside(at, step), True
    return tuple(keys)


def _is_kind(step: str | int, section: object) -> bool:
    """Also where the kind was left to its default, or written alone."""
    if not isinstance(section, dict):
        return section == step
    return section.get("kind") == step or ("kind" not in section and step not in section)


def _inside(value: object, step: str | int) -> object:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return None


def _message(details: ErrorDetails) -> str:
    found = f"found {shown(details['input'])}"
    context = details.get("ctx", {})
    match details["type"]:
        case "refused":
            return str(context["message"])
        case "union_tag_invalid":
            return f"found {context['tag']!r}; {_one_of(context['tag'], context['expected_tags'])}"
        case "union_tag_not_found":
            return "missing; `pagesim schema` lists the kinds"
        case "literal_error":
            return f"{found}; {_one_of(details['input'], context['expected'])}"
        case "string_pattern_mismatch" if context["pattern"] == NAME:
            return f"{found}; allowed: {NAME_IN_WORDS}"
        case kind:
            allowed = _ALLOWED.get(kind, details["msg"].removeprefix("Input should be "))
            return f"{found}; allowed: {allowed}"


_ALLOWED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "keys and values",
    "model_type": "a section of keys and values",
    "model_attributes_type": "a section of keys and values",
}


def _one_of(wrong: object, expected: str) -> str:
    """Pydantic lists the expected values as 'a', 'b' or 'c'."""
    names = re.findall(r"'([^']*)'", expected)
    return did_you_mean(str(wrong), {name: name for name in names})
