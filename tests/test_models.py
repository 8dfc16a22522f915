"""Models, KV cache sizes and devices: exact numbers against published ones, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calibrate.device import DeviceError, load_device, shipped_devices
from calibrate.model import Model, ModelError, load_model, shipped_models
from sim.kv.spec import KVSpec, resolve_kv_dtype

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
LLAMA_1B = LLAMA | {
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "tie_word_embeddings": True,
}
MISTRAL = LLAMA | {"architectures": ["MistralForCausalLM"], "vocab_size": 32768}
QWEN2 = LLAMA | {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "sliding_window": 131072,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
OPT = {
    "architectures": ["OPTForCausalLM"],
    "ffn_dim": 3072,
    "hidden_size": 768,
    "max_position_embeddings": 2048,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "vocab_size": 50272,
}
DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "n_routed_experts": 256,
    "num_attention_heads": 128,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {"quant_method": "fp8"},
    "v_head_dim": 128,
    "vocab_size": 129280,
}
MIXTRAL = LLAMA | {
    "architectures": ["MixtralForCausalLM"],
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "vocab_size": 32000,
}


@pytest.mark.parametrize(
    ("name", "parameters", "kv_bytes"),
    [
        ("Llama-2-7B", 6_738_415_616, 512 << 10),
        ("Llama-3.1-8B", 8_030_261_248, 128 << 10),
        ("Llama-3.1-70B", 70_553_706_496, 320 << 10),
        ("Qwen3-8B", 8_190_735_360, 144 << 10),
        ("Qwen3-32B", 32_762_123_264, 256 << 10),
        ("OPT-13B", 12_853_473_280, 800 << 10),
        ("Llama-2-13B", 13_015_864_320, 800 << 10),
        ("Mistral-7B-v0.3", 7_248_023_552, 128 << 10),
        ("Qwen3-30B-A3B", 30_532_122_624, 96 << 10),
    ],
)
def test_shipped_model_has_its_published_size(name: str, parameters: int, kv_bytes: int) -> None:
    model = load_model(name)
    assert model.name == name
    assert model.parameters == parameters
    assert model.weight_bytes == 2 * parameters
    assert model.kv_spec("auto").bytes_per_token == kv_bytes


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA, 8_030_261_248),
        (LLAMA_1B, 1_235_814_400),
        (MISTRAL, 7_248_023_552),
        (QWEN2, 7_615_616_512),
        (OPT, 125_239_296),
    ],
    ids=["llama-3.1-8b", "llama-3.2-1b", "mistral-7b-v0.3", "qwen2.5-7b", "opt-125m"],
)
def test_config_gives_published_size(config: dict[str, object], parameters: int) -> None:
    assert Model.from_config(config, name="m").dense.parameters == parameters


def test_biases_are_counted() -> None:
    plain = Model.from_config(LLAMA, name="m").dense.parameters
    attention = Model.from_config(LLAMA | {"attention_bias": True}, name="m").dense.parameters
    mlp = Model.from_config(LLAMA | {"mlp_bias": True}, name="m").dense.parameters
    assert attention - plain == 32 * (4096 + 2 * 1024 + 4096)
    assert mlp - plain == 32 * (2 * 14336 + 4096)


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B-Instruct"]
)
def test_names_are_found_in_any_spelling(name: str) -> None:
    assert load_model(name).name == "Llama-3.1-8B"


def test_path_to_file_or_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_1B))
    from_folder = load_model(str(folder))
    assert from_folder == load_model(str(folder / "config.json"))
    assert from_folder.name == "tiny"


def test_latent_attention_keeps_one_vector_a_layer() -> None:
    model = Model.from_config(DEEPSEEK_V3, name="DeepSeek-V3")
    assert model.moe
    for tensor_parallel_size in (1, 8):
        spec = model.kv_spec("auto", tensor_parallel_size=tensor_parallel_size)
        assert spec.bytes_per_token == 576 * 61 * 2
    assert model.kv_spec("fp8").bytes_per_token == 576 * 61
    with pytest.raises(ValueError, match=r"int8_per_token_head.*latent"):
        model.kv_spec("int8")


def test_mixture_has_weights_but_no_steps() -> None:
    model = Model.from_config(MIXTRAL, name="Mixtral-8x7B")
    assert model.moe
    assert model.kv_spec("auto").bytes_per_token == 128 << 10
    assert model.parameters == 46_702_792_704
    with pytest.raises(ModelError, match=r"MixtralForCausalLM is a mixture of experts.*steps is"):
        _ = model.dense


def test_quantised_mixture_has_a_cache_but_no_weights() -> None:
    shipped = load_model("deepseek-ai/DeepSeek-V3")
    assert shipped == Model.from_config(DEEPSEEK_V3, name="DeepSeek-V3")
    assert not shipped.counted
    with pytest.raises(ModelError, match=r"quantised weights.*weights_bytes and activation_bytes"):
        _ = shipped.weight_bytes


@pytest.mark.parametrize("change", [{"decoder_sparse_step": 2}, {"mlp_only_layers": [0]}])
def test_layers_without_experts_are_refused(change: dict[str, object]) -> None:
    qwen = LLAMA | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
    }
    assert Model.from_config(qwen, name="m").moe
    with pytest.raises(ModelError, match=rf"'{next(iter(change))}' is .*not every layer has exp"):
        Model.from_config(qwen | change, name="m")


@pytest.mark.parametrize(
    ("dtype", "resolved", "bytes_per_head"),
    [
        ("auto", "auto", 512),
        ("bf16", "bfloat16", 512),
        ("fp16", "float16", 512),
        ("fp8", "fp8", 256),
        ("fp8_e4m3", "fp8_e4m3", 256),
        ("fp8_e5m2", "fp8_e5m2", 256),
        ("int8", "int8_per_token_head", 264),
        ("int4", "int4_per_token_head", 136),
    ],
)
def test_kv_dtype(dtype: str, resolved: str, bytes_per_head: int) -> None:
    assert resolve_kv_dtype(dtype) == resolved
    spec = KVSpec.of_heads(dtype, layers=32, kv_heads=8, key_size=128, value_size=128)
    assert spec.dtype == resolved
    assert spec.bytes_per_token == 32 * 8 * bytes_per_head
    assert spec.block_bytes(16) == 16 * spec.bytes_per_token


def test_unknown_kv_dtype_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown kv_cache_dtype 'int9'; known: auto, .*int8"):
        resolve_kv_dtype("int9")


def test_tensor_parallelism_divides_kv_heads_down_to_one() -> None:
    model = load_model("Llama-3.1-70B")
    per_token = {
        tp: model.kv_spec("auto", tensor_parallel_size=tp).bytes_per_token for tp in (1, 2, 8, 16)
    }
    assert per_token[2] * 2 == per_token[8] * 8 == per_token[1]
    assert per_token[16] == per_token[8]
    with pytest.raises(ValueError, match=r"8 KV heads cannot be divided over .* 3"):
        model.kv_spec("auto", tensor_parallel_size=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": 4096},
            r"MistralForCausalLM has sliding-window attention \(field 'sliding_window' = 4096\)",
        ),
        (
            {"architectures": ["Gemma2ForCausalLM"], "sliding_window": 4096},
            "Gemma2ForCausalLM has sliding-window",
        ),
        (
            {
                "architectures": ["Gemma3ForConditionalGeneration"],
                "text_config": {"sliding_window": 1024},
            },
            "Gemma3ForConditionalGeneration has sliding-window",
        ),
        (
            {
                "architectures": ["GptOssForCausalLM"],
                "layer_types": ["sliding_attention", "full_attention"],
            },
            "GptOssForCausalLM has layers of kind sliding_attention",
        ),
        (
            {
                "architectures": ["Qwen3NextForCausalLM"],
                "layer_types": ["linear_attention", "full_attention"],
            },
            "Qwen3NextForCausalLM has linear-attention layers",
        ),
        (
            {"architectures": ["JambaForCausalLM"], "mamba_d_state": 16},
            "JambaForCausalLM has state-space .*'mamba_d_state'",
        ),
        (
            {"architectures": ["MambaForCausalLM"], "state_size": 16},
            "MambaForCausalLM has state-space",
        ),
        (
            {"architectures": ["Llama4ForCausalLM"], "attention_chunk_size": 8192},
            "Llama4ForCausalLM has chunked local attention",
        ),
        (
            {"architectures": ["DeepseekV32ForCausalLM"], "index_topk": 2048},
            "DeepseekV32ForCausalLM has sparse attention",
        ),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "LlamaForCausalLM has quantised weights",
        ),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not modelled; known: Llama"),
        ({"architectures": []}, "'architectures' is missing"),
        ({"hidden_size": "big"}, "'hidden_size' must be a positive whole number, got 'big'"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' must be a positive whole number, got 0"),
        ({"num_attention_heads": 33}, "'hidden_size' is no multiple of 'num_attention_heads'"),
        ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings' must be true or false"),
    ],
)
def test_what_would_be_wrong_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Model.from_config(LLAMA | change, name="m")


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": None},
        {"sliding_window": 4096, "use_sliding_window": False},
        {"layer_types": ["full_attention"] * 32},
    ],
)
def test_unused_window_is_accepted(change: dict[str, object]) -> None:
    assert Model.from_config(LLAMA | change, name="m") == Model.from_config(LLAMA, name="m")


@pytest.mark.parametrize(
    ("config", "field"),
    [(LLAMA, field) for field in LLAMA if field != "num_key_value_heads"]
    + [(OPT, "ffn_dim"), (DEEPSEEK_V3, "kv_lora_rank"), (DEEPSEEK_V3, "qk_rope_head_dim")],
)
def test_missing_field_is_named_with_its_file(
    config: dict[str, object], field: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value for key, value in config.items() if key != field}))
    with pytest.raises(ModelError, match=rf"config\.json: .*field '{field}' is missing"):
        load_model(str(path))


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "not a JSON object")])
def test_broken_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=rf"config\.json: {message}"):
        load_model(str(path))


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: No such file"):
        load_model(str(tmp_path))


def test_unknown_model_suggests() -> None:
    with pytest.raises(ModelError, match=r"'Lama-3.1-8B'.*did you mean Llama-3.1-8B.*OPT-13B"):
        load_model("Lama-3.1-8B")


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("h200", "H200"),
        ("NVIDIA H200", "H200"),
        ("nvidia h200", "H200"),
        ("rtx4090", "RTX 4090"),
        ("rtx 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("A100 40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("RTX PRO 6000", "RTX PRO 6000"),
        ("b200", "B200"),
        ("L4", "L4"),
        ("L40S", "L40S"),
    ],
)
def test_device_is_found_in_any_spelling(spelling: str, name: str) -> None:
    device = load_device(spelling)
    assert device.name == name
    assert device.source
    assert device.date
    # CUDA reports between 91 % of the nameplate's 10^9 bytes and its full 2^30 bytes.
    assert 0.91e9 < device.memory_bytes / device.nameplate_gb < 2**30


def test_device_rates() -> None:
    h200 = load_device("H200")
    assert h200.ridge_flop_per_byte == pytest.approx(206, abs=0.1)
    assert h200.fp8_flop_per_s == 1979e12
    assert load_device("A100-80GB").fp8_flop_per_s is None


def test_unknown_device_suggests() -> None:
    with pytest.raises(DeviceError, match=r"'a100'; did you mean .*A100-80GB.*Known: A100-40GB"):
        load_device("a100")


PAGE = Path(__file__).parents[1] / "docs" / "reference" / "models.md"


def model_row(name: str) -> str:
    """A model's line in the reference."""
    model = load_model(name)
    spec = model.kv_spec("auto")
    parameters = f"{model.parameters / 1e9:.2f} G" if model.counted else "not counted"
    if model.latent_size is None:
        kept = f"{spec.heads} of {model.heads} heads x {model.key_size}"
    else:
        kept = f"MLA, {model.latent_size} + {model.rotary_size}"
    size = f"{spec.bytes_per_token / 1024:.4g} KiB"
    steps = "no" if model.moe else "yes"
    longest = f"{model.max_position_embeddings:,}"
    return f"| {name} | {parameters} | {model.layers} | {kept} | {size} | {longest} | {steps} |"


def test_every_model_has_a_source_and_its_line_in_the_reference() -> None:
    page = PAGE.read_text(encoding="utf-8")
    models = dict(shipped_models())
    assert len(models) == 11
    for name, config in models.items():
        ours = "no published model" if name == "tiny" else "https://huggingface.co/"
        assert str(config["_source"]).startswith(ours), name
        assert model_row(name) in page


def test_every_device_has_its_line_in_the_reference() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for device in shipped_devices():
        rates = f"{device.bandwidth_bytes_per_s / 1e12:g} | {device.bf16_flop_per_s / 1e12:g}"
        link = device.link
        said = "not known" if link is None else f"{link.name}, {link.bytes_per_s / 1e9:g}"
        host = f"{device.host_link.name}, {device.host_link.bytes_per_s / 1e9:g}"
        row = f"{device.name} | {device.memory_bytes / 2**30:.2f} | {rates} | {said} | {host}"
        assert f"| {row} |" in page
