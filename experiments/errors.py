"""What a user did wrong, said once: where, what was found, what is allowed."""

from __future__ import annotations

_SHOWN_CHARACTERS = 80


class ConfigError(ValueError):
    """A config that cannot be used; the message is for the user as it is.

    Several mistakes are several lines of the form `place: path: found ...; allowed: ...`.
    """


def shown(value: object) -> str:
    """A value as an error quotes it, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


class ResultError(ValueError):
    """Results that cannot be written, or a folder that holds none."""
