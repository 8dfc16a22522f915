"""What every reader does with the rows of a file: drop, shift, refuse, count."""

from __future__ import annotations

from collections import Counter

from traces.file import TraceFile

TOKENS = range(10**9 + 1)
"""Lengths a row may state."""
INT64 = range(2**63)
"""What fits the 64-bit columns in which results are kept."""
ARRIVALS = range(2**62)
"""In nanoseconds; leaves as much again for serving whoever arrives last."""


def whole_number(allowed: range) -> str:
    """The wording of a range in error messages."""
    return f"a whole number from {allowed.start} to {allowed.stop - 1}"


class Intake:
    """One pass over a trace file. Clears `notes` and fills them again.

    With `shifted` the first request placed arrives at 0 and all others relative to it.
    """

    def __init__(self, file: TraceFile, *, notes: Counter[str], shifted: bool) -> None:
        self._file = file
        self._notes = notes
        self._shifted = shifted
        self._origin_ns = 0
        self._last_ns = 0
        self._last: str | None = None
        self.shifted_by: str | None = None
        notes.clear()

    def has_tokens(self, *, prompt_tokens: int, output_tokens: int) -> bool:
        """False, and counted, for a row that asked or was answered nothing (a failure)."""
        if prompt_tokens and output_tokens:
            return True
        side = "output" if prompt_tokens else "prompt"
        self._notes[f"requests with zero {side} tokens dropped"] += 1
        return False

    def place(self, arrival_ns: int, *, line: int, shown: str) -> int:
        """The row's arrival in the trace (ns); `shown` is how the file writes it.

        Raises TraceError when it lies before the last row placed, or 2**62 ns (146 years)
        or more after the first.
        """
        if self._last is None:
            if self._shifted:
                self._origin_ns = arrival_ns
                self.shifted_by = shown
        elif arrival_ns < self._last_ns:
            raise self._file.error(
                line,
                found=f"{shown}, which is earlier than the row before it ({self._last})",
                allowed="rows in order of arrival",
            )
        placed_ns = arrival_ns - self._origin_ns
        if placed_ns not in ARRIVALS:
            allowed = "arrivals within 146 years (2**62 ns)"
            raise self._file.error(line, found=shown, allowed=allowed)
        self._last_ns = arrival_ns
        self._last = shown
        return placed_ns

    def finish(self) -> None:
        """Raises TraceError when no row was placed: an empty trace is a mistake."""
        if self._last is None:
            dropped = ", ".join(f"{count} {what}" for what, count in self._notes.items())
            found = f"no requests ({dropped})" if dropped else "no requests"
            raise self._file.error(None, found=found, allowed="at least one request")
