"""A request, as it arrives, and a sequence: the server's progress on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.kv.names import Chain

Run = tuple[int, int, int]
"""(stream, start, length): the tokens (stream, start) ... (stream, start + length - 1).

A token *is* the pair (stream, position), so two prompts share a prefix exactly where
their pairs agree, and no token ids are needed.
"""


BRANCHES = 1 << 40
"""Branch b of the i-th request is the sequence with index i + b * BRANCHES."""


@dataclass(frozen=True, slots=True)
class Request:
    """One line of a trace: what a client sends, and how long its answer will be.

    `output_tokens` is the world's knowledge, not the server's: the engine uses it to end
    the answer, policies never see it (they see `Sequence`). `output_stream` names the
    content of the answer: its k-th token is (output_stream, k), so that a later turn can
    quote it. `max_tokens` is the client's limit, None when it set none. Lower `priority`
    is more urgent, as in vLLM. `n` answers are asked for at once (parallel sampling), all of
    that length; `output_stream` is the first one's content. With a `beam` above 0 they are the
    so many best that a beam search of that width finds.
    """

    id: str
    arrival_ns: int
    prompt: tuple[Run, ...]
    output_tokens: int
    output_stream: int
    max_tokens: int | None = None
    priority: int = 0
    tenant: str | None = None
    session: str | None = None
    n: int = 1
    beam: int = 0

    @property
    def prompt_tokens(self) -> int:
        tokens = 0
        for _, _, length in self.prompt:  # quicker than sum() for one run, as most have
            tokens += length
        return tokens


@dataclass(slots=True, eq=False)
class Sequence:
    """What the server knows of one request, and how far it has come.

    There is no prefill flag. A sequence has tokens (`num_tokens` = prompt + generated so
    far) and computed tokens; whatever is missing is what the next steps compute, be it a
    prompt, the rest of a chunked prompt, a preempted sequence's past, or one new token::

        |<------------ num_tokens ------------>|
        |<---- computed ---->|<-- to compute ->|

    `blocks` is the block table: the physical ids of the blocks that hold the computed
    tokens, in order. The first `published` of them carry a prefix-cache key.
    """

    id: str
    index: int
    """Its request's position in the order of arrival, plus its branch x BRANCHES; unique, and
    the tie-breaker of last resort."""
    arrival_ns: int
    prompt: tuple[Run, ...]
    prompt_tokens: int
    output_stream: int
    max_tokens: int | None
    priority: int
    tenant: str | None = None
    session: str | None = None

    generated: int = 0
    computed: int = 0
    preemptions: int = 0
    decoding: bool = False
    """Its latest step gave a token: the next one computes that token, as a plain decode."""
    admission: int = 0
    """Serial number of the latest admission: the running list is sorted by it."""
    blocks: list[int] = field(default_factory=list)
    published: int = 0
    names: Chain | None = None
    width: int = 1
    """How many sequences it will be once it has its first token: seats it takes until then."""

    @classmethod
    def of(cls, request: Request, *, index: int) -> Sequence:
        return cls(
            request.id,
            index,
            request.arrival_ns,
            request.prompt,
            request.prompt_tokens,
            request.output_stream,
            request.max_tokens,
            request.priority,
            request.tenant,
            request.session,
        )

    @property
    def num_tokens(self) -> int:
        return self.prompt_tokens + self.generated
