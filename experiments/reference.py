"""The reference page of the config, written from its JSON Schema."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
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
    page = _Page(schema)
    page.write_section("The run", "", schema)
    return "\n".join([_HEAD, *page.lines])


class _Page:
    """Sections as they are written; a part that stands in several places is described once."""

    def __init__(self, schema: Schema) -> None:
        self.lines: list[str] = []
        self._parts = schema["$defs"]
        self._described_at = _shortest_paths(schema)

    def write_section(self, title: str, path: str, part: Schema) -> None:
        """The section of a part, and after it those of the parts within."""
        self.lines += [
            f"## {title}\n",
            f"{part['description']}\n",
            "| Key | Values | Default | |",
            "|---|---|---|---|",
        ]
        required = part.get("required", [])
        for name, key, field in _fields(path, part):
            default = "required" if key in required else _default(field)
            meaning = " ".join(field.get("description", "").split())
            self.lines.append(f"| `{name}` | {self._say(name, field)} | {default} | {meaning} |")
        self.lines.append("")
        for name, _, field in _fields(path, part):
            for kind, inner in _parts_of(field).items():
                if self._described_at[inner] == name:
                    title = f"`{name}` of kind `{kind}`" if kind else f"`{name}`"
                    self.write_section(title, name, self._parts[inner])

    def _say(self, path: str, field: Schema) -> str:
        """The values that a field may have, with the place that describes them elsewhere."""
        said = " or ".join(_values(field))
        described_at = {self._described_at[part] for part in _parts_of(field).values()}
        if not described_at or path in described_at:
            return said
        return f"{said}, as `{described_at.pop()}`"


def _shortest_paths(schema: Schema) -> dict[str, str]:
    """Where each part is described: at the place nearest to the root, of equals the first."""
    described_at: dict[str, str] = {}
    queue = deque([("", schema)])
    while queue:
        path, part = queue.popleft()
        for name, _, field in _fields(path, part):
            for inner in _parts_of(field).values():
                if inner not in described_at:
                    described_at[inner] = name
                    queue.append((name, schema["$defs"][inner]))
    return described_at


def _fields(path: str, part: Schema) -> list[tuple[str, str, Schema]]:
    """(path, key, field) of each field, the kind first."""
    keys = sorted(part["properties"], key=lambda key: key != "kind")
    return [(f"{path}.{key}" if path else key, key, part["properties"][key]) for key in keys]


def _parts_of(field: Schema) -> dict[str, str]:
    """The parts that a field may hold, by kind; '' for a part without kinds."""
    if "$ref" in field:
        return {"": _name(field["$ref"])}
    if "discriminator" in field:
        mapping = field["discriminator"]["mapping"]
        return {kind: _name(reference) for kind, reference in mapping.items()}
    inner = [*field.get("anyOf", ()), *([field["items"]] if "items" in field else ())]
    return {kind: name for option in inner for kind, name in _parts_of(option).items()}


def _default(field: Schema) -> str:
    default = field.get("const", field.get("default"))
    if _parts_of(field) and not isinstance(default, list):
        default = (default or {}).get("kind", "")
    if not isinstance(default, str):
        default = json.dumps(default)
    return default and f"`{default}`"


def _values(field: Schema) -> list[str]:
    if "$ref" in field or "discriminator" in field:
        return ["a section"]
    if "items" in field:
        return [f"list of {' or '.join(_values(field['items'])).replace('a section', 'sections')}"]
    if field.get("additionalProperties") is True:
        return ["keys and values"]
    if "additionalProperties" in field:
        return [f"mapping to {' or '.join(_values(field['additionalProperties']))}"]
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
