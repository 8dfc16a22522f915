"""The runs that a config asks to compare: itself, with what each variant replaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from experiments.config import Config, parse_config
from experiments.errors import ConfigError, shown
from experiments.exits import user_errors
from experiments.source import Source

_LONGEST_NAME = 40


def read_variants(source: Source) -> dict[str, Config]:
    """The config of each variant by name, in the order of the file; none where it has none.

    A variant comes on top of everything else, `--set` included. Raises ConfigError, with the
    variant's name, for what no config may say, for a variant that replaces nothing and for
    two that are the same.
    """
    base = parse_config(source.values, source=source)
    if base.variants is None:
        return {}
    if not base.variants:
        place = source.place(("variants",))
        raise ConfigError(f"{place}: variants: found {{}}; allowed: names and what they replace")
    variants: dict[str, Config] = {}
    for name, overrides in base.variants.items():
        with of_variant(name):
            _check(name, overrides, source)
            config = _vary(source, name)
            for other, its_config in variants.items():
                if config == its_config:
                    raise ConfigError(f"the same run as variant {other!r}")
        variants[name] = config
    return variants


@contextmanager
def of_variant(name: str) -> Iterator[None]:
    """Raise a user's error as a ConfigError that says which variant it is about."""
    try:
        yield
    except user_errors() as error:
        lines = str(error).splitlines()
        raise ConfigError("\n".join(f"variant {name!r}: {line}" for line in lines)) from None


def _check(name: str, overrides: dict[str, object], source: Source) -> None:
    place = source.place(("variants", name))
    if not (name.isprintable() and name == name.strip() and 0 < len(name) <= _LONGEST_NAME):
        allowed = f"up to {_LONGEST_NAME} characters in one line, no blanks around them"
        raise ConfigError(f"{place}: found the name {shown(name)}; allowed: {allowed}")
    if "variants" in overrides:
        raise ConfigError(f"{place}: found variants of a variant; allowed: one level of them")


def _vary(source: Source, name: str) -> Config:
    varied = source.vary(("variants", name))
    del varied.values["variants"]
    return parse_config(varied.values, source=varied)
