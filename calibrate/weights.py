"""Counting a transformer's weights from the shapes in its config.json, exactly."""

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
    layer: int
    """Those of one layer, vectors included."""
    before: int
    """Those in front of the layers: the embedding of tokens and, where learned, of positions."""
    behind: int
    """Those behind the layers: the last norm and the output head, tied or not."""
    mlp_size: int
    mlp_inputs: int
    """Matrices into the MLP: 2 where it is gated (gate and up), 1 where it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """How many numbers a mixture of experts is made of, and what its experts work on."""

    parameters: int
    """All of them, whichever experts a token is sent to."""
    layer: int
    before: int
    behind: int
    """As of `Weights`."""
    expert_size: int
    """Width of one expert's MLP."""
    experts_per_token: int


def llama_weights(fields: Fields, *, heads: int, kv_heads: int, head_size: int) -> Weights:
    """Llama and its kin: gated MLP, RMSNorm; Qwen2 has a bias on q, k, v, Qwen3 norms q and k."""
    refuse_quantised(fields)
    layers, hidden = fields.whole("num_hidden_layers"), fields.whole("hidden_size")
    mlp_size = fields.whole("intermediate_size")
    attention, vectors = _attention(fields, heads=heads, kv_heads=kv_heads, head_size=head_size)
    matrices = attention + 3 * hidden * mlp_size
    if fields.flag("mlp_bias", default=False):
        vectors += 2 * mlp_size + hidden
    return Weights(
        parameters=layers * (matrices + vectors) + _outside(fields),
        layer_matrices=matrices,
        layer=matrices + vectors,
        before=_embedding(fields),
        behind=_embedding(fields) + hidden,
        mlp_size=mlp_size,
        mlp_inputs=2,
    )


def mixture_weights(fields: Fields, *, heads: int, kv_heads: int, head_size: int) -> Mixture | None:
    """Mixtral and Qwen3-MoE: a router and gated experts in every layer instead of one MLP.

    None for quantised weights, of which we do not know which are.
    """
    if is_quantised(fields):
        return None
    mixtral = fields.architecture() == "MixtralForCausalLM"
    experts = fields.whole("num_local_experts" if mixtral else "num_experts")
    expert_size = fields.whole("intermediate_size" if mixtral else "moe_intermediate_size")
    if not mixtral:
        fields.refuse_unless("decoder_sparse_step", 1, why="not every layer has experts")
        fields.refuse_unless("mlp_only_layers", [], why="not every layer has experts")
    layers, hidden = fields.whole("num_hidden_layers"), fields.whole("hidden_size")
    attention, vectors = _attention(fields, heads=heads, kv_heads=kv_heads, head_size=head_size)
    matrices = attention + hidden * experts + experts * 3 * hidden * expert_size
    return Mixture(
        parameters=layers * (matrices + vectors) + _outside(fields),
        layer=matrices + vectors,
        before=_embedding(fields),
        behind=_embedding(fields) + hidden,
        expert_size=expert_size,
        experts_per_token=fields.whole("num_experts_per_tok"),
    )


def _attention(fields: Fields, *, heads: int, kv_heads: int, head_size: int) -> tuple[int, int]:
    """(numbers in the matrices, in the vectors) of one layer's attention and of its two norms."""
    architecture, hidden = fields.architecture(), fields.whole("hidden_size")
    query_size, kv_size = heads * head_size, 2 * kv_heads * head_size
    matrices = hidden * (query_size + kv_size) + query_size * hidden
    vectors = 2 * hidden
    if architecture == "Qwen2ForCausalLM":
        vectors += query_size + kv_size
    elif fields.flag("attention_bias", default=False):
        vectors += query_size + kv_size + hidden
    if architecture in ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM"):
        vectors += 2 * head_size
    return matrices, vectors


def _outside(fields: Fields) -> int:
    """The numbers outside the layers: embedding, output head, last norm."""
    hidden = fields.whole("hidden_size")
    embeddings = 1 if fields.flag("tie_word_embeddings", default=False) else 2
    return embeddings * _embedding(fields) + hidden


def _embedding(fields: Fields) -> int:
    """A vector for every token of the vocabulary."""
    return fields.whole("vocab_size") * fields.whole("hidden_size")


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
    positions = (fields.whole("max_position_embeddings") + _OPT_POSITION_OFFSET) * hidden
    outside = embeddings * _embedding(fields) + positions + 2 * hidden
    return Weights(
        parameters=layers * (matrices + vectors) + outside,
        layer_matrices=matrices,
        layer=matrices + vectors,
        before=_embedding(fields) + positions,
        behind=_embedding(fields) + 2 * hidden,
        mlp_size=mlp_size,
        mlp_inputs=1,
    )


def refuse_quantised(fields: Fields) -> None:
    """Raise ModelError where a weight takes something else than 16 bits."""
    if is_quantised(fields):
        raise fields.error(
            f"{fields.architecture()} has quantised weights (field 'quantization_config');"
            " only 16-bit weights are counted"
        )


def is_quantised(fields: Fields) -> bool:
    """Whether a weight takes something else than 16 bits."""
    return fields.has("quantization_config")
