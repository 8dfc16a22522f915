"""Configs: what is refused and how, what is resolved, what overrides do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from calibrate.memory import DoesNotFit
from calibrate.model import ModelError
from experiments.config import Config, load_config, parse_config
from experiments.deployment import resolve
from experiments.errors import ConfigError
from experiments.workload_config import ChatTrace
from traces.chat import ChatWorkload

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))

GIVEN = {
    "latency": {
        "kind": "linear",
        "base_ns": 1_000_000,
        "per_token_ns": 1000,
        "per_context_token_ns": 1,
    },
    "engine": {
        "num_gpu_blocks_override": 100,
        "max_model_len": 512,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 512,
    },
    "trace": {"kind": "chat"},
}
"""Nothing is left for a model or a device to say."""

H200 = {"model": "Llama-3.1-8B", "device": "H200", "trace": {"kind": "chat"}}


def engine(**options: object) -> dict[str, object]:
    return {**H200, "engine": options}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(path / "c.yaml", text), overrides=overrides)
    return str(caught.value).replace(str(path), "DIR")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "DIR/c.yaml: found an empty file; allowed: keys and values"),
        ("- chat\n", "DIR/c.yaml: found ['chat']; allowed: keys and values"),
        (
            "trace:\n  kind: chat\nengine:\n  max_num_seq: 3\n",
            "DIR/c.yaml:4: engine.max_num_seq: unknown key; did you mean max_num_seqs",
        ),
        (
            "name: a/b\ntrace: {kind: chat}\n",
            "DIR/c.yaml:1: name: found 'a/b'; allowed: 1 to 64 of A-Z a-z 0-9 . _ -, the first a",
        ),
        (
            "trace: {kind: chta}\n",
            "DIR/c.yaml:1: trace.kind: found 'chta'; did you mean chat? Known: auto, azure,",
        ),
        ("trace:\n  requests: 3\n", "DIR/c.yaml:1: trace.kind: missing; `pagesim schema`"),
        ("seed: 1\n", "DIR/c.yaml: trace: missing; allowed: where requests come from"),
        (
            "trace: {kind: chat}\nengine:\n  scheduling_policy: fifo\n",
            "DIR/c.yaml:3: engine.scheduling_policy: found 'fifo'; did you mean",
        ),
        (
            "trace: {kind: chat}\nengine:\n  max_num_seqs: many\n  block_size: 0\n",
            "DIR/c.yaml:3: engine.max_num_seqs: found 'many'; allowed: a whole number\n"
            "DIR/c.yaml:4: engine.block_size: found 0; allowed: greater than 0",
        ),
        (
            "trace:\n  kind: chat\n  turns_mean: 0.5\n",
            "DIR/c.yaml:3: trace.turns_mean: found 0.5; allowed: a number from 1",
        ),
        ("trace: {kind: chat}\nseed: true\n", "c.yaml:2: seed: found True; allowed: a whole"),
        ("trace: {kind: chat}\nengine: 3\n", "engine: found 3; allowed: a section of keys"),
        (
            "trace: {kind: chat}\ndevice: H100\nmodel: x\ndevice: H200\n",
            "DIR/c.yaml:4: device: given twice, first on line 2",
        ),
        (
            "trace: {kind: azure}\n",
            "trace.path: missing; allowed: a CSV file with the header TIMESTAMP,ContextTokens,"
            "GeneratedTokens, named with --set trace.path=FILE; `pagesim trace fetch"
            " azure-2023-conv` fetches one",
        ),
        ("trace: {kind: mooncake}\n", "`pagesim trace fetch mooncake-conversation`"),
        (
            "trace: {kind: chat}\nlatency: {kind: replay, path: x}\ncluster: {replicas: 2}\n",
            "DIR/c.yaml:2: latency: a recording is of one engine; allowed: cluster.replicas 1",
        ),
        (
            "trace: {kind: chat}\nlatency: {kind: linear, base_ns: 0, per_token_ns: 0,"
            " per_context_token_ns: 1}\n",
            "latency: found steps that take no time; allowed: base_ns or per_token_ns above 0",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"async_scheduling": True, "kv_cache": "contiguous"},
            "engine.async_scheduling: leaves several batches in flight; allowed with"
            " kv_cache.kind contiguous: one",
        ),
        (
            {"pipeline_parallel_size": 2, "scheduler": "static"},
            "engine.pipeline_parallel_size: leaves several batches in flight",
        ),
        (
            {"num_gpu_blocks_override": 9, "kv_cache_memory_bytes": 10**9},
            "engine.kv_cache_memory_bytes: contradicts num_gpu_blocks_override",
        ),
        (
            {"watermark": 0.1, "scheduler": {"version": "0.19"}},
            "engine.watermark: vLLM 0.19 has no such option",
        ),
        (
            {"kv_cache": "naive", "enable_prefix_caching": True},
            "engine.enable_prefix_caching: found true; allowed with kv_cache.kind contiguous:",
        ),
        ({"kv_cache": "radix"}, "engine.kv_cache.kind: found 'radix'"),
        ({"scheduler": {"version": "0.30"}}, "engine.scheduler.version: found '0.30'"),
        (
            {"scheduler": {"kind": "sarathi"}},
            "engine.scheduler.kind: found 'sarathi'; did you mean static? Known: custom, static,"
            " vllm",
        ),
        ({"kv_cache_dtype": "int9"}, "engine.kv_cache_dtype: found 'int9'; allowed: auto,"),
        ({"num_gpu_blocks_override": 0}, "engine.num_gpu_blocks_override: found 0"),
        ({"gpu_memory_utilization": 1.5}, "engine.gpu_memory_utilization: found 1.5"),
    ],
)
def test_contradictory_switches_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match="engine") as caught:
        parse_config(engine(**options))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"enable_chunked_prefill": False, "max_num_batched_tokens": 4096},
            "engine.max_num_batched_tokens: found 4096; allowed: max_model_len (131072) or more",
        ),
        (
            {"max_num_seqs": 64, "max_num_batched_tokens": 32},
            "engine.max_num_batched_tokens: found 32; allowed: max_num_seqs (64) or more",
        ),
        ({"max_model_len": 200_000}, "found 200000; allowed: up to the model's 131072"),
        (
            {"max_model_len": 1024, "long_prefill_token_threshold": 2048},
            "engine.long_prefill_token_threshold: found 2048; allowed: up to max_model_len (1024)",
        ),
        ({"tensor_parallel_size": 3}, "8 KV heads cannot be divided"),
    ],
)
def test_limits_that_cannot_go_together_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(parse_config(engine(**options)))
    assert message in str(caught.value)


def test_what_nothing_says_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"model: missing; needed for latency.kind roofline"):
        resolve(parse_config({"trace": {"kind": "chat"}}))
    with pytest.raises(ConfigError, match=r"device: missing; needed for .*engine.max_num_seqs"):
        resolve(parse_config({"model": "OPT-13B", "trace": {"kind": "chat"}}))
    assert resolve(parse_config(GIVEN)).num_gpu_blocks == 100


def test_unknown_and_unfit_models() -> None:
    with pytest.raises(ModelError, match=r"did you mean Llama-3.1-8B"):
        resolve(parse_config(H200 | {"model": "Llama-3.1-8"}))
    with pytest.raises(ValueError, match="did you mean H200"):
        resolve(parse_config(H200 | {"device": "H20O"}))
    with pytest.raises(DoesNotFit, match=r"Llama-3.1-70B on L4 leaves"):
        resolve(parse_config(H200 | {"model": "Llama-3.1-70B", "device": "L4"}))
    with pytest.raises(DoesNotFit, match=r"engine.max_model_len: found 600; allowed: up to 144"):
        resolve(parse_config(engine(num_gpu_blocks_override=10, max_model_len=600)))


def test_max_model_len_is_reduced_to_the_cache_and_said_so() -> None:
    deployment = resolve(parse_config(H200 | {"device": "RTX 4090"}))
    assert deployment.config.engine.max_model_len == (deployment.num_gpu_blocks - 1) * 16
    (note,) = deployment.notes
    assert "the model allows 131072" in note
    assert resolve(parse_config(H200)).notes == ()


@pytest.mark.parametrize(
    "given", [{"num_gpu_blocks_override": 58_000}, {"kv_cache_memory_bytes": 58_000 << 21}]
)
def test_a_given_cache_beyond_the_requested_memory_is_said(given: dict[str, object]) -> None:
    (note,) = resolve(parse_config(engine(**given))).notes
    assert note.startswith("GPU memory is overcommitted: with a KV cache of 113.28 GiB all terms")
    assert "the 128.62 GiB that gpu_memory_utilization requests" in note
    assert resolve(parse_config(engine(num_gpu_blocks_override=56_000))).notes == ()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("latency.base_ns=9000000000000000000", "latency.base_ns: found 9000000000000000000;"),
        ("latency.base_ns=1000000000000000000000", "allowed: less than or equal to 1000000000000"),
        ("latency.base_ns=1e21", "latency.base_ns: found 1e+21; allowed: a whole number"),
        ("latency.front_end_ns=100000000000000000000", "latency.front_end_ns: found 1000"),
        ("latency.per_token_ns=2000000000", "latency.per_token_ns: found 2000000000; allowed"),
        ("latency.per_context_token_ns=2000000", "latency.per_context_token_ns: found 2000000"),
        ("engine.num_gpu_blocks_override=100000000000", "num_gpu_blocks_override: found 1000"),
        ("engine.block_size=100000000000000000000", "engine.block_size: found 1000"),
        ("engine.max_num_seqs=2000000000", "engine.max_num_seqs: found 2000000000; allowed"),
        ("engine.tensor_parallel_size=2000", "engine.tensor_parallel_size: found 2000; allowed"),
        ("engine.memory.total_bytes=1000000000000000000", "engine.memory.total_bytes: found 1000"),
        ("cluster.replicas=2000000000", "cluster.replicas: found 2000000000; allowed: less than"),
    ],
)
def test_numbers_beyond_all_measure_are_refused(
    tmp_path: Path, override: str, message: str
) -> None:
    assert message in refusal(tmp_path, yaml.safe_dump(GIVEN), override)


def test_no_more_blocks_than_a_machine_can_simulate() -> None:
    huge = engine(memory={"total_bytes": 10**15})
    with pytest.raises(ConfigError, match=r"engine.block_size: found [0-9,]+ KV blocks; allowed"):
        resolve(parse_config(huge))
    with pytest.raises(ConfigError, match=r"cluster.replicas: found 4,096 with 56,652 KV blocks"):
        resolve(parse_config(H200 | {"cluster": {"replicas": 4096}}))


def test_what_is_left_open_is_what_the_version_takes() -> None:
    resolved = resolve(parse_config(H200)).config
    assert resolved.engine.max_num_seqs == 1024
    assert resolved.engine.max_num_batched_tokens == 8192
    assert resolved.engine.max_model_len == 131072
    assert resolved.engine.gpu_memory_utilization == 0.92
    assert resolved.engine.kv_cache.free_order == "unkeyed_first"
    assert resolved.engine.loop == "fast"
    old = resolve(parse_config(engine(scheduler={"version": 0.19}))).config.engine
    assert old.gpu_memory_utilization == 0.9
    assert old.kv_cache.free_order == "all_last"
    whole = resolve(parse_config(engine(enable_chunked_prefill=False))).config.engine
    assert whole.max_num_batched_tokens == whole.max_model_len == 131072
    small = resolve(parse_config(engine(max_num_batched_tokens=512))).config.engine
    assert small.max_num_seqs == 512


def test_aliases_resolve() -> None:
    short = H200 | {"model": "meta-llama/llama-3.1-8b", "device": "nvidia h200"}
    short |= {"engine": {"kv_cache_dtype": "int8"}}
    config = resolve(parse_config(short)).config
    assert config.engine.kv_cache_dtype == "int8_per_token_head"
    assert (config.model, config.device) == ("Llama-3.1-8B", "H200")


def test_the_known_block_count() -> None:
    """An RTX 4090, vLLM 0.19, Llama-3.1-8B: 2,588 blocks were published."""
    config = parse_config(
        H200
        | {
            "device": "RTX 4090",
            "engine": {"scheduler": {"version": "0.19"}, "max_num_batched_tokens": 2048},
        }
    )
    assert resolve(config).num_gpu_blocks == pytest.approx(2588, rel=0.005)


@pytest.mark.parametrize("values", [GIVEN, H200, H200 | {"device": "RTX 4090"}])
def test_resolving_twice_changes_nothing(values: dict[str, object]) -> None:
    resolved = resolve(parse_config(values)).config
    again = parse_config(yaml.safe_load(yaml.safe_dump(resolved.model_dump(mode="json"))))
    assert again == resolved
    assert resolve(again).config == resolved


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path / "my-chat.yaml", yaml.safe_dump(H200))
    config = load_config(
        path,
        overrides=["engine.max_num_seqs=4", "engine.scheduler.version='0.32'", "trace.requests=9"],
    )
    assert config.name == "my-chat"
    assert config.engine.max_num_seqs == 4
    assert config.engine.scheduler.version == "0.32"
    assert isinstance(config.trace, ChatTrace)
    assert config.trace.requests == 9
    linear = "latency={kind: linear, base_ns: 1, per_token_ns: 2, per_context_token_ns: 3}"
    assert load_config(path, overrides=[linear]).latency.kind == "linear"
    assert load_config(path, overrides=["trace.think_mean_s=1e2"]).trace == ChatTrace(kind="chat")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.max_num_seqs", "--set engine.max_num_seqs: allowed: KEY=VALUE"),
        ("engine..block_size=3", "allowed: KEY=VALUE"),
        ("model.name=x", "--set model.name=x: model is 'Llama-3.1-8B', not a section"),
        ("engine.block_size=[", "the value is not YAML"),
        (
            "engine.block_size=big",
            "--set engine.block_size=big: engine.block_size: found 'big'; allowed: a whole number",
        ),
        ("engine.blok_size=8", "--set engine.blok_size=8: engine.blok_size: unknown key"),
    ],
)
def test_overrides_that_cannot_be(tmp_path: Path, override: str, message: str) -> None:
    assert message in refusal(tmp_path, yaml.safe_dump(H200), override)


def test_every_parameter_of_the_chat_workload_can_be_set() -> None:
    parameters = {field.name for field in dataclasses.fields(ChatWorkload) if field.init}
    assert parameters - {"seed"} == set(ChatTrace.model_fields) - {"kind"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_shipped_configs_resolve(path: Path) -> None:
    drawn = path.stem in ("chatbot", "rag", "fragmentation", "preemption", "kernels-8b")
    config = load_config(path, overrides=[] if drawn else ["trace.path=FILE"])
    deployment = resolve(config)
    lengths = {"tutorial": 40, "fragmentation": 8192, "preemption": 4096, "kernels-8b": 4096}
    longest = lengths.get(path.stem, 131072)
    assert deployment.config.engine.max_model_len == longest
    assert "../shared" not in path.read_text(encoding="utf-8")


def test_the_schema_knows_the_options() -> None:
    schema = json.loads(json.dumps(Config.model_json_schema()))
    options = schema["$defs"]["Engine"]["properties"]
    assert options["max_num_seqs"]["description"].startswith("Most sequences")
    assert schema["$defs"]["Engine"]["additionalProperties"] is False
    assert set(schema["$defs"]) >= {"ChatTrace", "AzureTrace", "RooflineLatency", "Slo"}


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"kv_cache": "contiguous"}, "parallel_sampling: found 'fork'; allowed with kv_cache.kind"),
        ({"beam_spread": -1}, "beam_spread"),
    ],
)
def test_what_forks_need(engine: dict[str, object], message: str) -> None:
    values = {"trace": {"kind": "chat"}, "engine": {**engine, "parallel_sampling": "fork"}}
    with pytest.raises(ConfigError, match=message):
        parse_config(values)
