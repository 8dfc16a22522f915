"""Fingerprints of traces that are made, not read: of whatever their requests depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass


def digest(kind: str, version: int, *parts: object) -> str:
    """Sha256 (hex) of a kind of trace, the version of its code, and its parameters.

    A part is a number, a text, None, a dataclass, a list or mapping of parts, or whatever
    has a `fingerprint` of its own, such as another trace. Numbers count by value: 32 and
    32.0 are equal. Raises TypeError for anything else.
    """
    described = [kind, version, *map(_describe, parts)]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _describe(part: object) -> object:
    if part is None or isinstance(part, str):
        return part
    if isinstance(part, bool):
        return str(part)
    if isinstance(part, int | float):
        return repr(int(part) if part == int(part) else part)
    if hasattr(part, "fingerprint"):
        return part.fingerprint()
    if isinstance(part, Mapping):
        return [[_describe(key), _describe(value)] for key, value in part.items()]
    if isinstance(part, list | tuple):
        return [_describe(value) for value in part]
    if is_dataclass(part):
        values = {field.name: _describe(getattr(part, field.name)) for field in fields(part)}
        return [type(part).__name__, values]
    raise TypeError(f"{part!r} has no fingerprint")
