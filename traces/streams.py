"""The names of a trace's content."""

from __future__ import annotations

from collections.abc import Hashable, Iterable


class Streams:
    """Hands out stream numbers 0, 1, 2, ...; a token is (stream, position).

    Numbers are dense, and shared content can never meet private content, whatever ids a
    file uses for its blocks.
    """

    def __init__(self) -> None:
        self._next = 0
        self._known: dict[Hashable, int] = {}

    def private(self) -> int:
        """A stream nobody else has: content of which nothing is known."""
        stream = self._next
        self._next += 1
        return stream

    def of(self, content: Hashable) -> int:
        """The stream of this content: the same for the same content."""
        return self.of_all((content,))[0]

    def of_all(self, contents: Iterable[Hashable]) -> list[int]:
        """The streams of several contents."""
        known = self._known
        streams: list[int] = []
        for content in contents:
            stream = known.get(content)
            if stream is None:
                stream = known[content] = self._next
                self._next += 1
            streams.append(stream)
        return streams
