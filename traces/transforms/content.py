"""Transforms of single requests: how long they are, and whose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from sim.request import Request, Run
from traces.ranges import check_least
from traces.schema import Trace
from traces.transforms.transform import Transform


class Truncate(Transform):
    """No prompt and no answer longer than a limit: what is longer is clipped, or dropped.

    A clipped prompt keeps its first tokens, and with them what it shares with others. Later
    turns quote a clipped answer as it is now; a prompt that quoted nothing else is dropped.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        max_prompt_tokens: int | None = None,
        max_output_tokens: int | None = None,
        longer: Literal["clip", "drop"] = "clip",
    ) -> None:
        super().__init__(trace)
        limits = {"max_prompt_tokens": max_prompt_tokens, "max_output_tokens": max_output_tokens}
        check_least(1, **{name: limit for name, limit in limits.items() if limit is not None})
        self._max_prompt = max_prompt_tokens
        self._max_output = max_output_tokens
        self._longer = longer

    @property
    def parameters(self) -> Sequence[object]:
        return self._max_prompt, self._max_output, self._longer

    def change(self, requests: Iterator[Request], notes: Counter[str]) -> Iterator[Request]:
        drop = self._longer == "drop"
        clipped: set[int] = set()
        for request in requests:
            prompt, output = self._quote(request.prompt, clipped), request.output_tokens
            if prompt != request.prompt:
                what = "shortened" if prompt else "dropped"
                notes[f"prompts {what} that quote clipped answers"] += 1
            if self._max_prompt and sum(run[2] for run in prompt) > self._max_prompt:
                prompt = () if drop else _first(prompt, self._max_prompt)
                done = "dropped" if drop else "clipped"
                notes[f"prompts over {self._max_prompt} tokens {done}"] += 1
            if not prompt:
                continue
            if self._max_output and output > self._max_output:
                done = "dropped" if drop else "clipped"
                notes[f"answers over {self._max_output} tokens {done}"] += 1
                if drop:
                    continue
                output = self._max_output
                clipped.add(request.output_stream)
            yield replace(request, prompt=prompt, output_tokens=output)

    def _quote(self, prompt: tuple[Run, ...], clipped: Collection[int]) -> tuple[Run, ...]:
        """The prompt without what clipped answers no longer say."""
        if not any(stream in clipped for stream, _, _ in prompt):
            return prompt
        most = self._max_output or 0
        runs = (
            (stream, start, min(length, most - start) if stream in clipped else length)
            for stream, start, length in prompt
        )
        return tuple(run for run in runs if run[2] > 0)


class Relabel(Transform):
    """Every request gets this tenant, priority or session; None leaves it as it is.

    `forget` names fields that go back to their defaults: no tenant, priority 0, no session.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        tenant: str | None = None,
        priority: int | None = None,
        session: str | None = None,
        forget: Collection[Literal["tenant", "priority", "session"]] = (),
    ) -> None:
        super().__init__(trace)
        self._tenant, self._priority, self._session = tenant, priority, session
        self._forget = tuple(sorted(forget))

    @property
    def parameters(self) -> Sequence[object]:
        return self._tenant, self._priority, self._session, self._forget

    def change(self, requests: Iterator[Request], notes: Counter[str]) -> Iterator[Request]:
        for request in requests:
            tenant = None if "tenant" in self._forget else request.tenant
            priority = 0 if "priority" in self._forget else request.priority
            session = None if "session" in self._forget else request.session
            yield replace(
                request,
                tenant=tenant if self._tenant is None else self._tenant,
                priority=priority if self._priority is None else self._priority,
                session=session if self._session is None else self._session,
            )


def _first(prompt: tuple[Run, ...], tokens: int) -> tuple[Run, ...]:
    kept: list[Run] = []
    for stream, start, length in prompt:
        if not tokens:
            break
        kept.append((stream, start, min(length, tokens)))
        tokens -= kept[-1][2]
    return tuple(kept)
