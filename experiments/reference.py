"""The reference page of the config, written from its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_HEAD = """\
# The config

Written by `pagesim schema --markdown`. A config is a YAML file; on the command line
`--set engine.block_size=32` replaces a value. Keys that are not listed here are refused. *null*
means that the value is derived, as vLLM of the configured version would; `config.yaml` in a run's
results is the resolved config, with nothing left open.
"""


def config_page(schema: Schema) -> str:
    """Markdown: a section for each part of a config, and for each kind that a part may have."""
    sections = [_HEAD, *_section("The run", "", schema)]
    for key, field in schema["properties"].items():
        sections += _nested(key, field, schema["$defs"])
    return "\n".join(sections)


def _nested(path: str, field: Schema, parts: Schema) -> Iterator[str]:
    """The sections of a part, and of those within it; nothing for a plain value."""
    if "$ref" in field:
        part = parts[_name(field["$ref"])]
        yield from _section(f"`{path}`", path, part)
        for key, inner in part["properties"].items():
            yield from _nested(f"{path}.{key}", inner, parts)
    for kind, reference in field.get("discriminator", {}).get("mapping", {}).items():
        yield from _section(f"`{path}` of kind `{kind}`", path, parts[_name(reference)])


def _section(title: str, path: str, part: Schema) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"{part['description']}\n"
    yield "| Key | Values | Default | |"
    yield "|---|---|---|---|"
    required = part.get("required", [])
    for key, field in part["properties"].items():
        name = f"{path}.{key}" if path else key
        if "$ref" in field or "discriminator" in field:
            values, default = "a section", ""
        else:
            values, default = " or ".join(_values(field)), f"`{_default(field)}`"
        if key in required:
            default = "required"
        meaning = " ".join(field.get("description", "").split())
        yield f"| `{name}` | {values} | {default} | {meaning} |"
    yield ""


def _default(field: Schema) -> str:
    if "const" in field:
        return str(field["const"])
    default = field.get("default")
    return default if isinstance(default, str) else json.dumps(default)


def _values(field: Schema) -> list[str]:
    if "anyOf" in field:
        return [value for option in field["anyOf"] for value in _values(option)]
    if "const" in field:
        return [f"`{field['const']}`"]
    if "enum" in field:
        return [f"`{value}`" for value in field["enum"]]
    if field["type"] == "array":
        return [f"list of {', '.join(_values(field['items']))}"]
    what = {
        "boolean": "`true` or `false`",
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "null": "null",
    }[field["type"]]
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[bound]}" for bound, sign in bounds.items() if bound in field]
    return [" ".join([what, ", ".join(limits)]).strip()]


def _name(reference: str) -> str:
    return reference.rpartition("/")[-1]
