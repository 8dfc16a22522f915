"""A latency table made ready for pricing: whole steps' calls of each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from calibrate.attention_curves import Chunks, Decodes
from calibrate.curves import Line, add
from calibrate.mixing import Mixing, mixing_of
from calibrate.table_curves import chunks_of, decodes_of, line_of, only
from calibrate.table_schema import COLLECTIVES, OPERATORS, TableError

if TYPE_CHECKING:
    from calibrate.table import Table

_BY_TOKENS = ("linear", "kv_write", "allreduce")
_BY_ROWS = ("head", "sampling", "allgather")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A table of one model, made ready: nanoseconds of a whole step's calls."""

    tokens: Line
    """Matrices, norms, KV write and all-reduce, over scheduled tokens, and what every step
    takes."""
    rows: Line
    """Output head, sampling and all-gather, over rows of logits."""
    decodes: Decodes
    decode_calls: float
    """How many calls of decode attention it is the time of, times their correction."""
    chunks: Chunks
    chunks_apart: bool
    mixing: Mixing | None
    copies: Line | None
    """Over copied blocks; None where the table has none."""
    collectives: Mapping[str, float]
    """The last measured place of all-reduce (tokens) and all-gather (rows), where there are."""

    @classmethod
    def of(cls, table: Table) -> Parts:
        """Raises TableError where an operator that every step needs is missing, and for
        correction factors that are negative or infinite, or belong to no operator."""
        factors, tile = dict(table.provenance.factors), table.provenance.tile
        for operator, factor in factors.items():
            if operator not in OPERATORS:
                raise TableError(f"{table.name}: factor of {operator}: found no such operator")
            if not 0 <= factor < inf:
                raise TableError(
                    f"{table.name}: factor of {operator}: found {factor:g}; allowed: 0 or more"
                )

        def lines(*operators: str) -> list[Line]:
            return [
                line.scaled(points.calls * factors.get(operator, 1.0))
                for operator in operators
                for points in table.of(operator)
                for line in [line_of(points, tile=tile if operator == "linear" else 1)]
            ]

        every_step = Line([1], [table.provenance.step_ns], tail=0.0)
        matrices = [*lines(*_BY_TOKENS), every_step]
        if not table.of("linear"):
            raise TableError(f"{table.name}: found no points of linear; allowed: a whole model's")
        decode, prefill = only(table, "attention_decode"), only(table, "attention_prefill")
        alone = chunks_of(prefill, factor=prefill.calls * factors.get(prefill.operator, 1.0))
        decode_calls = decode.calls * factors.get(decode.operator, 1.0)
        copied = lines("block_copy")
        return cls(
            tokens=add(matrices),
            rows=add(lines(*_BY_ROWS)),
            decodes=decodes_of(decode, factor=decode_calls),
            decode_calls=decode_calls,
            chunks=alone,
            chunks_apart=table.provenance.chunks_apart,
            mixing=mixing_of(table),
            copies=add(copied) if copied else None,
            collectives={
                operator: max(line.last for line in found)
                for operator in COLLECTIVES
                if (found := lines(operator))
            },
        )
