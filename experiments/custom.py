"""Classes of the user's own: found, checked, made, and known by their source."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from calibrate.naming import did_you_mean
from experiments.custom_config import Custom
from experiments.errors import ConfigError

Part = TypeVar("Part", bound=Custom)

_ROOT = Path(__file__).parents[1]
_NOT_THEIRS = (
    *(str(_ROOT / package) + os.sep for package in ("sim", "traces", "calibrate", "experiments")),
    *(sysconfig.get_path(kind) + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
)
"""Where code lies that is ours or installed."""
_DIGEST = "__pagesim_source__"
"""In a module: the source that it was imported from."""
_SHOWN_DIGITS = 12


class Found(NamedTuple):
    """A class, and the file that defines it."""

    made_by: type
    file: Path
    source: str
    """Sha256 (hex) of the file."""


def find_class(section: Custom, *, at: str) -> Found:
    """What `section.path` names, imported anew if its file has changed since. `at` is the section's
    place in the config.

    Raises ConfigError where there is no such class, where importing it fails, and where its source
    is not the one that the section asks for.
    """
    found, home = _look_up(section.path, at=at)
    file, source = _read_source(home, section.path, at=at)
    if vars(home).setdefault(_DIGEST, source) != source:
        named = sys.modules[section.path.partition(":")[0]]
        with explained(f"{at}.path: {section.path} cannot be imported"):
            for module in (home,) if home is named else (home, named):
                importlib.reload(module)
        vars(home)[_DIGEST] = source
        found, _ = _look_up(section.path, at=at)
    if section.source not in (None, source):
        raise ConfigError(
            f"{at}.source: found {section.source}, but {_short(file)} is now {source}; allowed:"
            " null for the file as it is, or the file as it was"
        )
    return Found(found, file, source)


def settle(
    section: Part,
    *,
    at: str,
    given: Iterable[str],
    offered: Iterable[str] = (),
    positional: int = 0,
) -> Part:
    """The section with its source; raises ConfigError where `find_class` does, or where the class
    does not take its options beside what it is given."""
    found = find_class(section, at=at)
    names = [*given, *asks_for(found.made_by, offered)]
    if both := sorted({*given, *offered} & section.options.keys()):
        raise ConfigError(f"{at}.options: found {', '.join(both)}, which pagesim itself gives")
    try:
        signature = inspect.signature(found.made_by)
        signature.bind(*[None] * positional, **dict.fromkeys([*names, *section.options]))
    except (TypeError, ValueError) as error:
        said = [*["..."] * positional, *(f"{name}=..." for name in (*names, *section.options))]
        raise ConfigError(
            f"{at}: {section.path} does not take ({', '.join(said)}): {error}; allowed options:"
            f" {_name_options(found.made_by, {*given, *offered}, positional)}"
        ) from None
    return section.model_copy(update={"source": found.source})


def make(
    section: Custom,
    *positional: object,
    at: str,
    made_by: type | None = None,
    needs: Iterable[str],
    **given: object,
) -> Any:
    """An object of the section's class (or `made_by` in its place), with options of its own.

    Raises ConfigError where its constructor fails, or where it lacks what it `needs` to have.
    """
    made_by = made_by or find_class(section, at=at).made_by
    with explained(f"{at}: {section.path} cannot be made with its options"):
        made = made_by(*positional, **given, **deepcopy(section.options))
        lacking = sorted(name for name in needs if not hasattr(made, name))
    if lacking:
        raise ConfigError(f"{at}.path: found {section.path}, which has no {', '.join(lacking)}")
    return made


def members_of(protocol: type) -> list[str]:
    """The names that an implementation has to have."""
    names = {
        name for base in protocol.__mro__ for name in (*vars(base), *inspect.get_annotations(base))
    }
    return sorted(name for name in names if not name.startswith("_"))


def asks_for(made_by: type, offered: Iterable[str]) -> list[str]:
    """Those that its constructor names."""
    parameters = _parameters(made_by)
    return [name for name in offered if name in parameters]


def describe(section: Custom, *, at: str) -> str:
    """A note: whose decisions these are."""
    found = find_class(section, at=at)
    return f"{at}: {section.path} of {_short(found.file)}, sha256 {found.source[:_SHOWN_DIGITS]}"


def _look_up(path: str, *, at: str) -> tuple[type, ModuleType]:
    """The class, and the module that defines it."""
    name, _, attribute = path.partition(":")
    module = _import(name, path=path, at=at)
    found = getattr(module, attribute, None)
    if found is None:
        classes = {
            each: each
            for each, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == name
        }
        where = _short(getattr(module, "__file__", None) or name)
        raise ConfigError(
            f"{at}.path: found {path}, but {where} has no {attribute};"
            f" {did_you_mean(attribute, classes)}"
        )
    if not isinstance(found, type):
        what = type(found).__name__
        raise ConfigError(f"{at}.path: found {path}, which is a {what}; allowed: a class")
    return found, sys.modules.get(found.__module__, module)


def _read_source(module: ModuleType, path: str, *, at: str) -> tuple[Path, str]:
    """The file that a module is made of, and its sha256."""
    file = Path(getattr(module, "__file__", None) or "")
    try:
        return file, hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        raise ConfigError(f"{at}.path: found {path}, which no file defines") from None


def _import(name: str, *, path: str, at: str) -> ModuleType:
    here = str(Path.cwd())
    if "" not in sys.path and here not in sys.path:
        # As `python -m` does; the console script does not.
        sys.path.insert(0, here)
    if name not in sys.modules:
        importlib.invalidate_caches()
    with explained(f"{at}.path: {path} cannot be imported", absent=(name, here)):
        return importlib.import_module(name)


@contextmanager
def explained(what: str, *, absent: tuple[str, str] | None = None) -> Iterator[None]:
    """Raise what goes wrong in the user's code as a ConfigError with file and line; a module that
    is `absent` (name, folder) without them."""
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        if absent and isinstance(error, ModuleNotFoundError) and error.name:
            module, folder = absent
            if f"{module}.".startswith(f"{error.name}."):
                raise ConfigError(
                    f"{what}: {error}; allowed: a module in {folder}, or one that is installed"
                ) from None
        raise ConfigError(f"{what}: {_place(error)}: {type(error).__name__}: {error}") from None


def _place(error: BaseException) -> str:
    """file:line of the user's code: the innermost that is neither ours nor installed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<")
    ]
    own = [frame for frame in frames if not frame.filename.startswith(_NOT_THEIRS)]
    frame = (own or frames)[-1]
    return f"{_short(frame.filename)}:{frame.lineno}"


def _short(file: str | Path) -> str:
    """As seen from the working directory."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _name_options(made_by: type, given: set[str], positional: int) -> str:
    own = [
        parameter.name
        for parameter in list(_parameters(made_by).values())[positional:]
        if parameter.name not in given
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    return ", ".join(own) or "none"


def _parameters(made_by: type) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(made_by).parameters
    except (TypeError, ValueError):
        return {}
