"""The shape of a Llama-like model: all that real kernels need to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from calibrate.hf_config import Config, Fields
from calibrate.weights import refuse_quantised

_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM")
_NORMS_HEADS = "Qwen3ForCausalLM"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """RMSNorm, grouped-query attention with rotary positions, gated SiLU MLP; no biases."""

    name: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_size: int
    mlp_size: int
    vocab_size: int
    max_positions: int
    """How long a sequence may become."""
    tied_head: bool = False
    """The output head is the embedding."""
    norms_heads: bool = False
    """Each head's query and key are normed before they are rotated (Qwen3)."""
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-5

    @classmethod
    def from_config(cls, config: Config, *, name: str) -> Self:
        """The shape that a Hugging Face config.json describes.

        `rope_scaling` is not applied: random weights mean nothing, and it costs no time. Raises
        ModelError for other architectures, biases, quantised weights, and attention that does
        not keep every token.
        """
        fields = Fields(config, name=name)
        architecture = fields.architecture()
        fields.refuse_unmodelled()
        if architecture not in _ARCHITECTURES:
            known = ", ".join(_ARCHITECTURES)
            raise fields.error(f"architecture {architecture} has no kernels here; known: {known}")
        refuse_quantised(fields)
        for bias in ("attention_bias", "mlp_bias"):
            fields.refuse_unless(bias, False, why="a bias")
        fields.refuse_unless("hidden_act", "silu", why="another activation")
        heads, hidden_size = fields.whole("num_attention_heads"), fields.whole("hidden_size")
        shape = cls(
            name=name,
            layers=fields.whole("num_hidden_layers"),
            hidden_size=hidden_size,
            heads=heads,
            kv_heads=fields.whole("num_key_value_heads", default=heads),
            head_size=fields.whole("head_dim", default=hidden_size // heads),
            mlp_size=fields.whole("intermediate_size"),
            vocab_size=fields.whole("vocab_size"),
            max_positions=fields.whole("max_position_embeddings"),
            tied_head=fields.flag("tie_word_embeddings", default=False),
            norms_heads=architecture == _NORMS_HEADS,
            rope_theta=fields.real("rope_theta", default=10_000.0),
            norm_epsilon=fields.real("rms_norm_eps", default=1e-5),
        )
        if shape.head_size % 2:
            raise fields.error(f"a head of {shape.head_size} numbers cannot be rotated in pairs")
        if heads % shape.kv_heads:
            raise fields.error(f"{heads} query heads are no multiple of {shape.kv_heads} KV heads")
        return shape

    @property
    def query_size(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Of K, and of V, of one token."""
        return self.kv_heads * self.head_size

    @property
    def layer_matrices(self) -> int:
        """Numbers in one layer's matrices."""
        attention = 2 * (self.query_size + self.kv_size)
        return self.hidden_size * (attention + 3 * self.mlp_size)

    @property
    def head_matrix(self) -> int:
        return self.hidden_size * self.vocab_size

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        vectors = 2 * self.hidden_size + 2 * self.head_size * self.norms_heads
        embeddings = (1 if self.tied_head else 2) * self.head_matrix
        return self.layers * (self.layer_matrices + vectors) + embeddings + self.hidden_size
