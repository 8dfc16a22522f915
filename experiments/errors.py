"""What a user did wrong, said once: where, what was found, what is allowed."""

from __future__ import annotations

import errno

_SHOWN_CHARACTERS = 80

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What a write alone may end with, whoever makes it: pyarrow, matplotlib or we."""


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
