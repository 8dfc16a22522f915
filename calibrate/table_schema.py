"""What a latency table's columns mean: operators, axes, units."""

from __future__ import annotations

from typing import NamedTuple

FORMAT = 2
"""To be raised whenever a column or a key of the metadata changes its meaning; a table of another
format is refused."""

TILE = 16
"""Tokens that a GPU's matrix units take at a time (rows of an MMA instruction)."""


class TableError(ValueError):
    """A latency table, or a profile to make one of, that cannot be used; made for the user."""


class Operator(NamedTuple):
    """A kind of work that steps consist of."""

    axes: tuple[str, ...]
    """What its time depends on: these columns have a value in its rows, the others none."""
    meaning: str


OPERATORS = {
    "linear": Operator(("tokens",), "a layer's matrices, norms, activation; embedding, last norm"),
    "head": Operator(("rows",), "the output head"),
    "sampling": Operator(("rows",), "logits to tokens"),
    "attention_decode": Operator(("batch", "context"), "sequences of one token each"),
    "attention_prefill": Operator(("chunk", "chunk_context"), "one chunk behind its context"),
    "attention_mixed": Operator(
        ("chunk", "chunk_context", "batch", "context"), "one chunk and decodes in one call"
    ),
    "kv_write": Operator(("tokens",), "new keys and values into their blocks"),
    "block_copy": Operator(("blocks",), "blocks within the GPU"),
    "swap_in": Operator(("blocks",), "blocks from the host"),
    "swap_out": Operator(("blocks",), "blocks to the host"),
    "allreduce": Operator(("tokens",), "sum over the GPUs of a tensor-parallel group"),
    "allgather": Operator(("rows",), "logits from the GPUs of a tensor-parallel group"),
}

COLLECTIVES = ("allreduce", "allgather")
"""What goes over the links between GPUs."""

AXES = {
    "tokens": 1,
    "rows": 1,
    "batch": 1,
    "context": 1,
    "chunk": 1,
    "chunk_context": 0,
    "blocks": 1,
}
"""The columns a time can depend on, and the least value of each."""

SHAPE = ("hidden_size", "heads", "kv_heads", "head_size", "mlp_size", "vocab_size", "layers")
"""The model's, as on one GPU of a group of one."""

SPLITS = ("fit", "check")
"""Points that times are interpolated from, and points kept aside to check that."""


class Column(NamedTuple):
    type: str
    """Arrow's name."""
    meaning: str
    required: bool = True


COLUMNS = {
    "operator": Column("string", f"one of {', '.join(OPERATORS)}"),
    "variant": Column("string", "which of several of its kind: qkv, o, gate_up, down, norm, ..."),
    "model": Column("string", "its name; the shape is what is compared"),
    **{name: Column("int64", "of the model") for name in SHAPE},
    "tp": Column("int64", "GPUs of the tensor-parallel group"),
    "dtype": Column("string", "of weights and activations"),
    "kv_dtype": Column("string", "of the KV cache; null where the operator leaves it alone", False),
    **{name: Column("int64", "an axis; null where it has no part", False) for name in AXES},
    "calls": Column("int64", "how often a step calls it: layers, twice that, or once"),
    "median_ns": Column("float64", "nanoseconds of one call"),
    "mad_ns": Column("float64", "median absolute deviation over the passes", False),
    "passes": Column("int64", "how often it was measured", False),
    "clock": Column("string", "what measured it: cuda_event, process_time, profiler, ...", False),
    "bytes": Column("float64", "moved by one call", False),
    "flop": Column("float64", "computed by one call", False),
    "flags": Column("string", "what is unusual: modelled, l2_warm, extrapolated", False),
    "split": Column("string", "fit, or check: kept aside to see how well it is interpolated"),
}
