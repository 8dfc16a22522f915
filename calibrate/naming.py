"""Finding the name a user meant."""

from __future__ import annotations

import difflib
from collections.abc import Mapping


def did_you_mean(wanted: str, known: Mapping[str, str]) -> str:
    """The end of an error message: the nearest names, then all of them.

    `known` maps what is compared with `wanted` to the name that is shown.
    """
    near = [known[key] for key in difflib.get_close_matches(wanted, known, cutoff=0.5)]
    question = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{question}Known: {', '.join(sorted(known.values()))}"
