"""A config as it was written: values, and where each of them stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import yaml

from experiments.errors import ConfigError, shown

Keys = tuple[str | int, ...]
"""Keys and list positions from the root, as in ("engine", "max_num_seqs")."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1, except that 1e9 is a number, as in YAML 1.2 and in JSON."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+"),
    list("-+0123456789"),
)


class Source:
    """The values of one YAML file and of the overrides given beside it.

    With `text`, `path` is only what errors call it. Raises ConfigError for a file that cannot
    be read, is no YAML, states a key twice or holds no mapping.
    """

    def __init__(self, path: str | Path, *, text: str | None = None) -> None:
        self.path = str(path)
        self._lines: dict[Keys, int] = {}
        self._overrides: dict[Keys, str] = {}
        text = self._read() if text is None else text
        try:
            loader = _Loader(text)
            root = loader.get_single_node()
            values = None if root is None else loader.construct_document(root)
        except (yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"{self.path}: not YAML: {error}") from None
        if root is None or not isinstance(values, dict):
            found = "an empty file" if root is None else shown(values)
            raise ConfigError(f"{self.path}: found {found}; allowed: keys and values")
        self.values: dict[str, Any] = values
        self._walk(root, ())

    def override(self, assignment: str) -> None:
        """Set one value: `a.b=v`, v in YAML. Raises ConfigError where that cannot be done."""
        dotted, equals, text = assignment.partition("=")
        names = tuple(dotted.strip().split("."))
        if not equals or not all(names):
            raise ConfigError(f"--set {assignment}: allowed: KEY=VALUE, as in engine.block_size=32")
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment}: the value is not YAML: {error}") from None
        self._assign(names, value, said=f"--set {assignment}", place=f"--set {assignment}")

    def vary(self, section: Keys) -> Source:
        """A copy in which what stands in `section`, nested or dotted, replaces what it names.

        Sections are merged key by key, except that one which says another `kind` than before
        takes the place of the whole section. Raises ConfigError where that cannot be done, or
        nothing is named.
        """
        overrides: Any = self.values
        for key in section:
            overrides = overrides[key]
        varied = copy(self)
        varied.values = deepcopy(self.values)
        varied._overrides = dict(self._overrides)
        stated: dict[Keys, str] = {}
        for keys, names, value in _leaves(overrides, self.values):
            place = self.place((*section, *keys))
            said = f"{place}: {'.'.join(map(str, names))}"
            for earlier, where in stated.items():
                if earlier[: len(names)] == names[: len(earlier)]:
                    raise ConfigError(f"{said}: given twice, also at {where}")
            stated[names] = place
            varied._assign(names, deepcopy(value), said=said, place=place)
        if not stated:
            example = "{engine: {kv_cache: paged}}"
            found = f"found {shown(overrides)}; allowed: what it replaces, as in {example}"
            raise ConfigError(f"{self.place(section)}: {found}")
        return varied

    def place(self, path: Keys) -> str:
        """Where a value, or else the nearest thing around it, was written."""
        for end in range(len(path), -1, -1):
            if path[:end] in self._overrides:
                return self._overrides[path[:end]]
            if path[:end] in self._lines:
                return f"{self.path}:{self._lines[path[:end]]}"
        return self.path

    def _assign(self, names: Keys, value: object, *, said: str, place: str) -> None:
        """Set the value that these names lead to; errors begin with `said`."""
        at: Any = self.values
        keys: Keys = ()
        for name in names:
            try:
                key = _key(at, name)
            except TypeError as error:
                raise ConfigError(f"{said}: {'.'.join(map(str, keys))} is {error}") from None
            keys = (*keys, key)
            if len(keys) == len(names):
                at[key] = value
            elif isinstance(at, dict) and at.get(key) is None:
                at[key] = {}
            at = at[key]
        self._overrides[keys] = place

    def _read(self) -> str:
        try:
            return Path(self.path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"{self.path}: no such config file") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{self.path}: found bytes that are no UTF-8 text") from None
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read ({error.strerror})") from None

    def _walk(self, node: yaml.Node, path: Keys) -> None:
        """Note the line of every key and item; PyYAML itself lets the last of two keys win."""
        items: Iterable[tuple[str | int, yaml.Node, yaml.Node]] = ()
        if isinstance(node, yaml.MappingNode):
            items = [(str(key.value), key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            items = [(at, value, value) for at, value in enumerate(node.value)]
        for key, stated, value in items:
            here = (*path, key)
            line = stated.start_mark.line + 1
            if here in self._lines:
                dotted = ".".join(map(str, here))
                twice = f"given twice, first on line {self._lines[here]}"
                raise ConfigError(f"{self.path}:{line}: {dotted}: {twice}")
            self._lines[here] = line
            self._walk(value, here)


def _key(inside: object, name: str | int) -> str | int:
    """What a name on the command line means there: items of lists count from 0.

    Raises TypeError, saying what is there, where nothing can have this name.
    """
    if isinstance(inside, dict):
        return name
    if not isinstance(inside, list):
        raise TypeError(f"{shown(inside)}, not a section")
    text = str(name)
    if not (text.isascii() and text.isdigit() and int(text) < len(inside)):
        raise TypeError(f"a list of {len(inside)}, whose items count from 0; found {name!r}")
    return int(name)


def _leaves(overrides: Any, base: Any) -> Iterator[tuple[Keys, Keys, Any]]:
    """(keys as written, names from the root, value) of everything that is to be replaced."""
    for key, value in overrides.items():
        names = tuple(str(key).split("."))
        yield from _leaves_within((key,), names, value, _follow(base, names))


def _leaves_within(
    keys: Keys, names: Keys, value: Any, base: Any
) -> Iterator[tuple[Keys, Keys, Any]]:
    if not _is_merged(value, base):
        yield keys, names, value
        return
    for key, inner in value.items():
        yield from _leaves_within((*keys, key), (*names, key), inner, base.get(key))


def _is_merged(value: Any, base: Any) -> bool:
    if not (isinstance(value, dict) and isinstance(base, dict)):
        return False
    return "kind" not in value or value["kind"] == base.get("kind")


def _follow(base: Any, names: Keys) -> Any:
    """What is there; None where nothing is."""
    for name in names:
        try:
            base = base[_key(base, name)]
        except (TypeError, KeyError):
            return None
    return base
