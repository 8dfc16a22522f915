"""Counting a dense transformer's weights from the shapes in its config.json, exactly."""

from __future__ import annotations

from dataclasses import dataclass

from calibrate.hf_config import Fields

BYTES = 2
"""Of one weight: bf16 or fp16. Quantised weights are refused."""

_OPT_POSITION_OFFSET = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How many numbers a dense model's weights are, and the shape of its MLP."""

    parameters: int
    """All of them; an output head tied to the embedding counts once."""
    layer_matrices: int
    """Those in the matrices of one layer: read once a step, used for every token."""
    mlp_size: int
    mlp_inputs: int
    """Matrices into the MLP: 2 where it is gated (gate and up), 1 where it is not."""


def llama_weights(fields: Fields, *, heads: int, kv_heads: int, head_size: int) -> Weights:
    """Llama and its kin: gated MLP, RMSNorm; Qwen2 has a bias on q, k, v, Qwen3 norms q and k."""
    refuse_quantised(fields)
    architecture = fields.architecture()
    layers, hidden = fields.whole("num_hidden_layers"), fields.whole("hidden_size")
    mlp_size = fields.whole("intermediate_size")
    query_size, kv_size = heads * head_size, 2 * kv_heads * head_size

    matrices = hidden * (query_size + kv_size) + query_size * hidden + 3 * hidden * mlp_size
    vectors = 2 * hidden
    if architecture == "Qwen2ForCausalLM":
        vectors += query_size + kv_size
    elif fields.flag("attention_bias", default=False):
        vectors += query_size + kv_size + hidden
    if fields.flag("mlp_bias", default=False):
        vectors += 2 * mlp_size + hidden
    if architecture == "Qwen3ForCausalLM":
        vectors += 2 * head_size

    embeddings = 1 if fields.flag("tie_word_embeddings", default=False) else 2
    outside = embeddings * fields.whole("vocab_size") * hidden + hidden
    return Weights(
        parameters=layers * (matrices + vectors) + outside,
        layer_matrices=matrices,
        mlp_size=mlp_size,
        mlp_inputs=2,
    )


def opt_weights(fields: Fields) -> Weights:
    """OPT: plain MLP, a bias everywhere, LayerNorm with a bias, learned positions."""
    refuse_quantised(fields)
    layers, hidden = fields.whole("num_hidden_layers"), fields.whole("hidden_size")
    if fields.whole("word_embed_proj_dim", default=hidden) != hidden:
        raise fields.error("field 'word_embed_proj_dim' differs from 'hidden_size': not modelled")
    if not fields.flag("do_layer_norm_before", default=True):
        raise fields.error("field 'do_layer_norm_before' is false: not modelled")
    mlp_size = fields.whole("ffn_dim")

    matrices = 4 * hidden * hidden + 2 * hidden * mlp_size
    vectors = 4 * hidden + (mlp_size + hidden) + 2 * 2 * hidden

    embeddings = 1 if fields.flag("tie_word_embeddings", default=True) else 2
    positions = fields.whole("max_position_embeddings") + _OPT_POSITION_OFFSET
    outside = (embeddings * fields.whole("vocab_size") + positions) * hidden + 2 * hidden
    return Weights(
        parameters=layers * (matrices + vectors) + outside,
        layer_matrices=matrices,
        mlp_size=mlp_size,
        mlp_inputs=1,
    )


def refuse_quantised(fields: Fields) -> None:
    """Raise ModelError where a weight takes something else than 16 bits."""
    if fields.has("quantization_config"):
        raise fields.error(
            f"{fields.architecture()} has quantised weights (field 'quantization_config');"
            " only 16-bit weights are counted"
        )
