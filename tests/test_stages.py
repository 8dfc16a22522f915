"""Pipeline stages: who holds which layers, and the memory of the fullest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.device import load_device
from calibrate.memory import DoesNotFit, MemoryPlan, plan_memory
from calibrate.model import Model, load_model
from calibrate.stages import divide_layers
from experiments.config import load_config
from experiments.simulate import simulate
from tests.test_models import LLAMA as LLAMA_CONFIG

ROOT = Path(__file__).parent.parent
LLAMA = load_model("Llama-3.1-8B")
L4, H100 = load_device("L4"), load_device("H100")
LAYER = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336 + 2 * 4096
EMBEDDING = 128_256 * 4096


def plan(model: Model = LLAMA, *, max_num_seqs: int = 16, **options: Any) -> MemoryPlan:
    return plan_memory(
        model,
        H100,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=2048,
        pipeline_parallel_size=2,
        **options,
    )


@pytest.mark.parametrize(
    ("layers", "stages", "shares"),
    [
        (32, 1, [32]),
        (32, 4, [8, 8, 8, 8]),
        (33, 4, [8, 8, 9, 8]),
        (35, 4, [9, 9, 9, 8]),
        (5, 2, [3, 2]),
        (3, 3, [1, 1, 1]),
    ],
)
def test_layers_left_over_spare_the_last_stage(layers: int, stages: int, shares: list[int]) -> None:
    assert [stage.layers for stage in divide_layers(layers, stages)] == shares


@given(layers=st.integers(1, 100), stages=st.integers(1, 100))
def test_every_layer_has_a_place(layers: int, stages: int) -> None:
    if stages > layers:
        with pytest.raises(ValueError, match=f"between 1 and the model's {layers} layers, got"):
            divide_layers(layers, stages)
        return
    divided = divide_layers(layers, stages)
    assert sum(stage.layers for stage in divided) == layers
    assert max(stage.layers for stage in divided) == -(-layers // stages)


@pytest.mark.parametrize(
    "name", ["Llama-3.1-8B", "Qwen3-32B", "OPT-13B", "Qwen3-30B-A3B", "Mistral-7B-v0.3"]
)
def test_the_stages_weights_are_the_models(name: str) -> None:
    """Where nothing is tied; OPT's head is, and held twice."""
    model = load_model(name)
    held = sum(stage.parameters(model) for stage in divide_layers(model.layers, 3))
    twice = model.vocab_size * model.hidden_size if name == "OPT-13B" else 0
    assert held == model.parameters + twice


def test_a_tied_head_is_held_by_the_last_stage_too() -> None:
    tied = Model.from_config(LLAMA_CONFIG | {"tie_word_embeddings": True}, name="tied")
    first, last = divide_layers(tied.layers, 2)
    assert last.parameters(tied) - first.parameters(tied) == tied.hidden_size


def test_two_stages_by_hand() -> None:
    """16 layers each; the last one has the head, the last norm and the sampler."""
    halved = plan()
    assert halved.weights.bytes == 2 * (16 * LAYER + EMBEDDING + 4096)
    assert "stage 2 of 2: 16 layers and head" in halved.weights.derivation
    assert halved.block.bytes == 16 * 131_072 // 2
    assert halved.num_blocks == halved.available.bytes // (16 * 131_072 // 2)


def test_the_fewest_blocks_count() -> None:
    """Of 3 layers the first stage has 2 and nothing else; its blocks are the larger ones."""
    small = Model.from_config(LLAMA_CONFIG | {"num_hidden_layers": 3}, name="small")
    held = plan(small, max_num_seqs=1024)  # the sampler's 2 GB are the last stage's
    assert "stage 1 of 2: 2 layers and embedding" in held.weights.derivation
    assert "widest point of a layer" in held.activation.derivation
    rest = held.requested.bytes - held.weights.bytes - held.activation.bytes
    rest -= held.rotary.bytes + held.non_torch.bytes + held.cuda_graphs.bytes
    assert held.num_blocks == rest // held.block.bytes
    assert held.block.bytes == 16 * small.kv_spec("auto").bytes_per_token // 3 * 2


def test_with_tensor_parallelism_both_divide() -> None:
    both = plan(tensor_parallel_size=2)
    assert both.weights.bytes == 16 * LAYER + EMBEDDING + 4096
    assert both.block.bytes == 16 * 131_072 // 4


def test_given_terms_are_those_of_every_stage() -> None:
    assert plan(weights_bytes=1 << 30).weights == (1 << 30, "given")
    assert plan(num_gpu_blocks_override=7).num_blocks == 7


def test_what_did_not_fit_on_one_gpu_fits_on_two() -> None:
    with pytest.raises(DoesNotFit):
        plan_memory(load_model("Llama-2-13B"), L4)
    assert plan_memory(load_model("Llama-2-13B"), L4, pipeline_parallel_size=2).num_blocks > 1000


def test_one_stage_changes_nothing() -> None:
    assert plan_memory(LLAMA, H100) == plan_memory(LLAMA, H100, pipeline_parallel_size=1)
    with pytest.raises(ValueError, match=r"pipeline_parallel_size must lie between 1 and .* 32"):
        plan_memory(LLAMA, H100, pipeline_parallel_size=33)


@pytest.mark.parametrize("stages", [1, 3])
def test_a_run_says_what_it_assumes_of_stages(
    stages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])
    monkeypatch.chdir(ROOT)
    overrides = [f"engine.pipeline_parallel_size={stages}"]
    config = load_config("configs/tutorial.yaml", overrides=overrides)
    notes = simulate(config, out=tmp_path).result.summary["run"]["notes"]
    said = [note.split(",")[0] for note in notes]
    assert said == (["pipeline: each stage takes 1/3 of a step"] if stages == 3 else [])
