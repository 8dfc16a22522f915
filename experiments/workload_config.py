"""Synthetic workloads as a config describes them."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from experiments.section import Section, refuse
from traces.chat import ChatWorkload


class ChatTrace(Section):
    """A synthetic chat service; traces/chat.py says what the parameters mean, and their source."""

    kind: Literal["chat"]
    requests: int = ChatWorkload.requests
    sessions_per_second: float = ChatWorkload.sessions_per_second
    turns_mean: float = ChatWorkload.turns_mean
    system_prompts: int = ChatWorkload.system_prompts
    system_prompt_tokens: int = ChatWorkload.system_prompt_tokens
    system_prompt_skew: float = ChatWorkload.system_prompt_skew
    first_message_median: float = ChatWorkload.first_message_median
    first_message_sigma: float = ChatWorkload.first_message_sigma
    later_message_median: float = ChatWorkload.later_message_median
    later_message_sigma: float = ChatWorkload.later_message_sigma
    answer_median: float = ChatWorkload.answer_median
    answer_sigma: float = ChatWorkload.answer_sigma
    answer_max_tokens: int = ChatWorkload.answer_max_tokens
    think_mean_s: float = ChatWorkload.think_mean_s
    answer_ns_per_token: int = ChatWorkload.answer_ns_per_token
    max_prompt_tokens: int = ChatWorkload.max_prompt_tokens

    @model_validator(mode="after")
    def _check_ranges(self) -> ChatTrace:
        try:
            self.workload(seed=0)
        except ValueError as error:
            parameter, _, why = str(error).partition(" = ")
            refuse("found " + why.replace(": allowed", "; allowed:"), at=parameter)
        return self

    def workload(self, *, seed: int) -> ChatWorkload:
        return ChatWorkload(seed=seed, **self.model_dump(exclude={"kind"}))


Workload = ChatTrace
