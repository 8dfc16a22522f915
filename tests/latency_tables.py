"""A latency table whose law is known: every time follows from a formula."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from calibrate.model import Model, load_model
from calibrate.table import Provenance, Table, shape_of

LLAMA = load_model("Llama-3.1-8B")

TOKENS = (1, 16, 64, 256, 1024, 2048)
ROWS = (1, 8, 64, 128)
BATCHES = (1, 4, 16, 64)
CONTEXTS = (16, 256, 1024, 8192)
CHUNKS = (16, 128, 512, 2048)
BEFORE = (0, 256, 2048, 8192)


def linear_ns(tokens: int) -> float:
    return 1000.0 + 7.0 * tokens


def head_ns(rows: int) -> float:
    return 50_000.0 + 11.0 * rows


def decode_ns(batch: int, context: float) -> float:
    return 3000.0 + 20.0 * batch + 0.5 * batch * context


def prefill_ns(chunk: int, before: float) -> float:
    return 4000.0 + 0.01 * chunk * (before + chunk / 2)


def mixed_ns(chunk: int, before: int, batch: int, context: int) -> float:
    return 1.5 * (prefill_ns(chunk, before) + decode_ns(batch, context))


def make_rows(
    model: Model = LLAMA, *, contexts: bool = True, mixed: bool = False, **common: object
) -> Iterator[dict[str, object]]:
    """Rows of a whole table; without `contexts` only prompts were measured, as in a wheel."""
    every = {"model": model.name, **shape_of(model), "tp": 1, "dtype": "bfloat16", **common}
    layers = model.layers

    def row(operator: str, calls: int, ns: float, **axes: object) -> dict[str, object]:
        point = {"operator": operator, "variant": operator, "calls": calls, "median_ns": ns}
        if operator.startswith("attention"):
            point["kv_dtype"] = "bfloat16"
        return {**every, **point, **axes}

    for tokens in TOKENS:
        yield row("linear", layers, linear_ns(tokens), tokens=tokens)
    for rows in ROWS:
        yield row("head", 1, head_ns(rows), rows=rows)
    for batch in BATCHES:
        for context in CONTEXTS:
            ns = decode_ns(batch, context)
            yield row("attention_decode", layers, ns, batch=batch, context=context)
    for chunk in CHUNKS:
        for before in BEFORE if contexts else (0,):
            ns = prefill_ns(chunk, before)
            yield row("attention_prefill", layers, ns, chunk=chunk, chunk_context=before)
    if mixed:
        for chunk in CHUNKS:
            for before in BEFORE:
                for batch in BATCHES:
                    for context in CONTEXTS:
                        place = {"batch": batch, "context": context}
                        yield row(
                            "attention_mixed",
                            layers,
                            mixed_ns(chunk, before, batch, context),
                            chunk=chunk,
                            chunk_context=before,
                            **place,
                        )


TOLD = Provenance(source="a law", device="no GPU", licence="none")


def make_table(*changes: Mapping[str, object], told: Provenance = TOLD, **options: Any) -> Table:
    """The table of the law; `changes` replace columns of its first rows, one each."""
    rows = list(make_rows(**options))
    for at, change in enumerate(changes):
        rows[at] |= change
    return Table.of_rows(rows, name="law", provenance=told)
