"""Models as shapes: what a Hugging Face config.json says of weights, KV cache and work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from calibrate import weights
from calibrate.hf_config import Config, Fields, ModelError, Shape, parse_config, read_config
from calibrate.naming import did_you_mean
from calibrate.weights import Mixture, Weights, llama_weights, mixture_weights, opt_weights
from sim.kv.spec import KVSpec

__all__ = ["Model", "ModelError", "load_model", "read_model", "shipped_models"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One decoder-only transformer in bf16 or fp16. Sizes count numbers, not bytes."""

    name: str
    architecture: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    key_size: int
    """Size of one head's query and key."""
    value_size: int
    vocab_size: int
    max_position_embeddings: int
    rotary_size: int
    """How much of a key is rotated; 0 where positions are learned."""
    latent_size: int | None
    """Size of MLA's compressed K and V; None where each head keeps its own."""
    weights: Weights | None
    """None for a mixture of experts."""
    mixture: Mixture | None = None
    """Of a mixture of experts; None also where its weights are quantised: not counted."""

    @classmethod
    def from_config(cls, config: Config, *, name: str) -> Model:
        """The model that a config.json describes.

        Raises ModelError, naming the architecture and the feature or field, for what is
        missing, unknown, or would be simulated wrongly: sliding windows, state-space and
        linear-attention layers, quantised weights.
        """
        fields = Fields(config, name=name)
        architecture = fields.architecture()
        fields.refuse_unmodelled()
        reader = _READERS.get(architecture)
        if reader is None:
            known = ", ".join(_READERS)
            raise fields.error(f"architecture {architecture} is not modelled; known: {known}")
        return reader(fields)

    @property
    def moe(self) -> bool:
        """Whether it is a mixture of experts, whose step time we do not model."""
        return self.weights is None

    @property
    def dense(self) -> Weights:
        """The weights. Raises ModelError for a mixture of experts."""
        if self.weights is None:
            raise ModelError(
                f"{self.name}: {self.architecture} is a mixture of experts: its memory can be"
                " planned (`pagesim size`), but the time of its steps is not modelled;"
                " latency.kind linear and replay can run it"
            )
        return self.weights

    @property
    def experts(self) -> Mixture:
        """The weights of a mixture. Raises ModelError where they are not counted."""
        if self.mixture is None:
            raise ModelError(
                f"{self.name}: {self.architecture} is a mixture of experts with quantised weights,"
                " which are not counted: its cache can be sized, a memory plan must be given"
                " weights_bytes and activation_bytes"
            )
        return self.mixture

    @property
    def counted(self) -> bool:
        """Whether the weights are counted."""
        return self.weights is not None or self.mixture is not None

    @property
    def parameters(self) -> int:
        """How many numbers the weights are. Raises ModelError where they are not counted."""
        return (self.weights or self.experts).parameters

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights. Raises ModelError where they are not counted."""
        return self.parameters * weights.BYTES

    @property
    def rotary_bytes(self) -> int:
        """Bytes of the table of cosines and sines that vLLM keeps, one row per position."""
        return self.max_position_embeddings * self.rotary_size * weights.BYTES

    def kv_spec(self, dtype: str, *, tensor_parallel_size: int = 1) -> KVSpec:
        """The KV cache on one of `tensor_parallel_size` GPUs. Raises ValueError as KVSpec does."""
        if self.latent_size is not None:
            return KVSpec.of_latent(
                dtype,
                layers=self.layers,
                latent_size=self.latent_size,
                rotary_size=self.rotary_size,
            )
        return KVSpec.of_heads(
            dtype,
            layers=self.layers,
            kv_heads=self.kv_heads,
            key_size=self.key_size,
            value_size=self.value_size,
            tensor_parallel_size=tensor_parallel_size,
        )


def load_model(name_or_path: str) -> Model:
    """The model of that name (any case, with or without organisation), or of a config.json.

    A path may name the file or the folder that holds it. Raises ModelError: for an unknown
    name with the nearest ones, for a file with its path.
    """
    return read_model(name_or_path, Model.from_config)


def read_model(name_or_path: str, make: Callable[..., Shape]) -> Shape:
    """`make(config, name=...)` of the config.json that `load_model` reads. Raises ModelError."""
    path = Path(name_or_path)
    if path.is_dir():
        path /= "config.json"
    elif not path.is_file():
        return _shipped(name_or_path, make)
    return read_config(path, make)


def shipped_models() -> Iterator[tuple[str, dict[str, object]]]:
    """(name, its config.json with `_source` and `_aliases`) of every shipped model."""
    for entry in files("calibrate").joinpath("models").iterdir():
        yield entry.name.removesuffix(".json"), parse_config(entry.read_bytes())


def _shipped(name: str, make: Callable[..., Shape]) -> Shape:
    wanted = name.casefold().rpartition("/")[2]
    known: dict[str, str] = {}
    for stem, config in shipped_models():
        aliases = config["_aliases"]
        assert isinstance(aliases, list)
        if wanted in {str(alias).casefold() for alias in (stem, *aliases)}:
            return make(config, name=stem)
        known[stem.casefold()] = stem
    raise ModelError(
        f"unknown model {name!r}: no such file or folder, and none of the shipped models;"
        f" {did_you_mean(wanted, known)}"
    )


def _shape(fields: Fields) -> Model:
    """Everything but the weights."""
    heads = fields.whole("num_attention_heads")
    hidden_size = fields.whole("hidden_size")
    if not fields.has("head_dim") and hidden_size % heads:
        raise fields.error("field 'hidden_size' is no multiple of 'num_attention_heads'")
    head_size = fields.whole("head_dim", default=hidden_size // heads)
    return Model(
        name=fields.name,
        architecture=fields.architecture(),
        layers=fields.whole("num_hidden_layers"),
        hidden_size=hidden_size,
        heads=heads,
        kv_heads=fields.whole("num_key_value_heads", default=heads),
        key_size=head_size,
        value_size=head_size,
        vocab_size=fields.whole("vocab_size"),
        max_position_embeddings=fields.whole("max_position_embeddings"),
        rotary_size=head_size,
        latent_size=None,
        weights=None,
    )


def _llama(fields: Fields) -> Model:
    model = _shape(fields)
    counted = llama_weights(
        fields, heads=model.heads, kv_heads=model.kv_heads, head_size=model.key_size
    )
    return replace(model, weights=counted)


def _mixture(fields: Fields) -> Model:
    model = _shape(fields)
    counted = mixture_weights(
        fields, heads=model.heads, kv_heads=model.kv_heads, head_size=model.key_size
    )
    return replace(model, mixture=counted)


def _opt(fields: Fields) -> Model:
    return replace(_shape(fields), rotary_size=0, weights=opt_weights(fields))


def _deepseek(fields: Fields) -> Model:
    """Latent attention (MLA): one compressed vector per token stands for all heads' K and V."""
    rotary_size = fields.whole("qk_rope_head_dim")
    return replace(
        _shape(fields),
        key_size=fields.whole("qk_nope_head_dim") + rotary_size,
        value_size=fields.whole("v_head_dim"),
        rotary_size=rotary_size,
        latent_size=fields.whole("kv_lora_rank"),
    )


_READERS: dict[str, Callable[[Fields], Model]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _llama,
    "Qwen2ForCausalLM": _llama,
    "Qwen3ForCausalLM": _llama,
    "OPTForCausalLM": _opt,
    "MixtralForCausalLM": _mixture,
    "Qwen3MoeForCausalLM": _mixture,
    "DeepseekV2ForCausalLM": _deepseek,
    "DeepseekV3ForCausalLM": _deepseek,
}
