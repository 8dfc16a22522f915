"""How much of each prompt was seen before, in a cache that never forgets."""

from __future__ import annotations

from dataclasses import dataclass

from sim.request import Request, Run

_Unread = tuple[Run, ...]
"""A branch nobody has come back to yet, as it was put down."""
_Branches = dict[tuple[int, int], "_Edge | _Unread"]
"""What follows, by its first token (stream, position): no two branches share it."""


@dataclass(slots=True, eq=False)
class _Edge:
    """Tokens of one stream in a row, and what has followed them."""

    tokens: int
    branches: _Branches


class SeenPrefixes:
    """Everything served so far, as a tree of runs: exact, whatever blocks the runs are cut in.

    A request leaves its prompt and its answer behind, except the answer's last token, which no
    engine computes. It does so on arrival: what is found is an upper bound for any real cache.
    A request with content of its own costs about half a kilobyte.
    """

    def __init__(self) -> None:
        self._root: _Branches = {}

    def arrive(self, request: Request) -> int:
        """How many leading tokens of the prompt were seen before; adds the request."""
        runs = request.prompt
        if request.output_tokens > 1:
            runs = (*runs, (request.output_stream, 0, request.output_tokens - 1))
        return min(self._add(runs), request.prompt_tokens)

    def _add(self, runs: tuple[Run, ...]) -> int:
        """How many leading tokens of `runs` are in the tree; afterwards all are."""
        branches, seen = self._root, 0
        for at, (stream, start, tokens) in enumerate(runs):
            done = 0
            while done < tokens:
                first = stream, start + done
                edge = branches.get(first)
                if edge is None:
                    branches[first] = ((*first, tokens - done), *runs[at + 1 :])
                    return seen + done
                if isinstance(edge, tuple):
                    edge = branches[first] = _read(edge)
                shared = min(tokens - done, edge.tokens)
                if shared < edge.tokens:
                    rest = _Edge(edge.tokens - shared, edge.branches)
                    edge.tokens, edge.branches = shared, {(stream, start + done + shared): rest}
                done += shared
                branches = edge.branches
            seen += tokens
        return seen


def whole_blocks(seen_tokens: int, prompt_tokens: int, *, block_size: int) -> int:
    """What an engine that keeps whole blocks, and must compute one token, finds of it."""
    return min(seen_tokens, prompt_tokens - 1) // block_size * block_size


def _read(unread: _Unread) -> _Edge:
    (_, _, tokens), *rest = unread
    branches: _Branches = {rest[0][:2]: tuple(rest)} if rest else {}
    return _Edge(tokens, branches)
