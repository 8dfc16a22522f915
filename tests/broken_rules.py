"""Rules of vLLM's scheduler to break one at a time, and the recorded runs that notice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.comparison import Verdict, compare
from tests.recorded_runs import golden

Patch = Callable[[pytest.MonkeyPatch], None]


class Rules(dict[str, tuple[Patch, tuple[str, ...]]]):
    """Name -> (how to break it, runs that notice in their decisions or block ids)."""

    def noticed_by(self, *runs: str) -> Callable[[Patch], Patch]:
        def register(patch: Patch) -> Patch:
            self[patch.__name__] = (patch, runs)
            return patch

        return register

    def check(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Break a rule: each of its runs must notice."""
        break_rule, noticed_by = self[name]
        for run in noticed_by:
            golden(run)
        break_rule(monkeypatch)
        for run in noticed_by:
            verdict = replay(run)
            assert isinstance(verdict, Exception) or verdict.difference is not None, run


def replay(run: str) -> Verdict | Exception:
    try:
        return compare(golden(run), loop="plain")
    except (AssertionError, KeyError, IndexError, RuntimeError, ValueError) as error:
        return error  # a broken rule may corrupt the pool or run dry: noticed as well
