"""What an executor is made of: copies in order, token ids, shapes, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calibrate.kernels.errors import KernelError, Unsupported
from calibrate.llama import Llama
from calibrate.llama_shape import LlamaShape
from calibrate.model import ModelError, load_model, read_model, shipped_models
from calibrate.runner import Row, Runner, Step, at_once
from calibrate.runner_parts import check_room, draw_llama, empty_pool, find_device, find_kernels
from calibrate.token_ids import TokenIds
from tests.plain_llama import forward

CPU = torch.device("cpu")
TINY = read_model("tiny", LlamaShape.from_config)
copies = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda c: c[0] != c[1]))


@given(copies)
def test_groups_of_copies_do_what_the_copies_do_one_by_one(copies: list[tuple[int, int]]) -> None:
    one_by_one, grouped = list(range(6)), list(range(6))
    for source, target in copies:
        one_by_one[target] = one_by_one[source]
    groups = list(at_once(copies))
    for group in groups:
        targets = [target for _, target in group]
        assert len(set(targets)) == len(targets)
        assert {source for source, _ in group}.isdisjoint(targets)
        for (_, target), content in zip(group, [grouped[s] for s, _ in group], strict=True):
            grouped[target] = content
    assert grouped == one_by_one
    assert [copy for group in groups for copy in group] == copies


def test_copies_that_do_not_meet_are_made_together() -> None:
    assert list(at_once([(1, 2), (1, 3), (4, 5)])) == [[(1, 2), (1, 3), (4, 5)]]
    assert list(at_once([(1, 2), (2, 3)])) == [[(1, 2)], [(2, 3)]]
    assert list(at_once([])) == []


runs = st.tuples(st.integers(-(2**70), 2**70), st.integers(0, 10**6), st.integers(0, 20))


@given(st.lists(runs, max_size=4), st.integers(1, 300), st.integers(0, 2**63 - 1))
def test_a_token_of_a_prompt_is_its_stream_and_position(
    runs: list[tuple[int, int, int]], vocab_size: int, seed: int
) -> None:
    ids = TokenIds(vocab_size, seed=seed)
    prompt = list(ids.prompt(runs))
    assert all(0 <= token < vocab_size for token in prompt)
    one_by_one = [
        TokenIds(vocab_size, seed=seed).prompt([(stream, at, 1)])[0]
        for stream, start, length in runs
        for at in range(start, start + length)
    ]
    assert prompt == one_by_one == list(ids.prompt(runs))


def test_streams_positions_and_seeds_all_matter() -> None:
    def first(stream: int, start: int, seed: int) -> list[int]:
        return list(TokenIds(10**6, seed=seed).prompt([(stream, start, 8)]))

    assert len({tuple(first(*at)) for at in [(1, 0, 0), (2, 0, 0), (1, 9, 0), (1, 0, 1)]}) == 4
    assert first(1, 3, 0)[:5] == first(1, 0, 0)[3:]


def test_ids_are_spread_evenly() -> None:
    counts = torch.tensor(TokenIds(10, seed=3).prompt([(7, 0, 100_000)])).bincount()
    assert ((counts - 10_000).abs() < 5 * 95).all()  # five standard deviations


def test_an_answer_is_quoted_as_it_was_generated() -> None:
    ids = TokenIds(100, seed=0)
    assert [ids.settle(5, at, 40 + at) for at in range(3)] == [40, 41, 42]
    hashed = list(TokenIds(100, seed=0).prompt([(5, 0, 5)]))
    assert list(ids.prompt([(5, 1, 4)])) == [41, 42, *hashed[3:]]
    # The rest was quoted before it was generated, and is now what the quotation says.
    assert ids.settle(5, 3, (hashed[3] + 1) % 100) == hashed[3]
    assert ids.settle(5, 4, hashed[4]) == hashed[4]
    assert ids.forced == 1
    assert ids.settle(5, 5, 7) == 7
    # Another request that gives the same answer.
    assert ids.settle(5, 0, 99) == 40
    assert ids.forced == 2


def test_shapes_count_the_weights_that_models_do() -> None:
    counted = 0
    for name, config in shipped_models():
        try:
            shape = LlamaShape.from_config(config, name=name)
        except ModelError:
            continue
        assert shape.parameters == load_model(name).parameters
        counted += 1
    assert counted >= 6


def test_the_sizes_of_a_shipped_model() -> None:
    shape = read_model("Llama-3.1-8B", LlamaShape.from_config)
    assert shape.layer_matrices == 218_103_808
    assert (shape.kv_size, shape.query_size, shape.head_matrix) == (1024, 4096, 525_336_576)
    assert shape.max_positions == 131_072


def test_parameters_are_those_of_the_tensors() -> None:
    for shape in (TINY, replace(TINY, tied_head=False, norms_heads=True)):
        model = Llama(shape, dtype=torch.float32, positions=8)
        tensors = {id(model.embedding): model.embedding, id(model.head): model.head, 0: model.norm}
        for layer in model.layers:
            weights = (getattr(layer, name) for name in layer.__dataclass_fields__)
            tensors |= {id(weight): weight for weight in weights if weight is not None}
        assert sum(tensor.numel() for tensor in tensors.values()) == shape.parameters


LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["OPTForCausalLM"]}, "OPTForCausalLM has no kernels here; known: Llama"),
        ({"mlp_bias": True}, "field 'mlp_bias' is True: a bias, which is not modelled"),
        ({"hidden_act": "gelu"}, "field 'hidden_act' is 'gelu': another activation"),
        ({"rope_theta": -1}, "field 'rope_theta' must be a positive number, got -1"),
        ({"num_key_value_heads": 3}, "4 query heads are no multiple of 3 KV heads"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' must be a positive whole number, got 0"),
        ({"hidden_size": None}, "field 'hidden_size' is missing"),
        ({"head_dim": 7}, "a head of 7 numbers cannot be rotated in pairs"),
        ({"sliding_window": 8}, "sliding-window attention"),
    ],
)
def test_models_without_kernels_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        LlamaShape.from_config(LLAMA | change, name="mine")


def test_a_shape_is_read_from_a_config() -> None:
    shape = LlamaShape.from_config(LLAMA | {"num_key_value_heads": 2}, name="mine")
    assert (shape.kv_heads, shape.head_size, shape.tied_head) == (2, 8, False)
    assert read_model("qwen3-8b", LlamaShape.from_config).norms_heads


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(KernelError, match=r"found device cuda:97, which torch .* does not see"):
        find_device("cuda:97")
    with pytest.raises(KernelError, match="unknown provider 'mine'"):
        find_kernels("mine")
    model = draw_llama(TINY, dtype="float32", device=CPU, positions=8, seed=0)
    with pytest.raises(KernelError, match="found a KV cache of fp8_e5m2; kernels have float32"):
        empty_pool(model, "fp8_e5m2", blocks=2, block_size=4)
    with pytest.raises(KernelError, match=r"1,000,000,000 KV blocks .* GiB, of which cpu has"):
        empty_pool(model, "int8_per_token_head", blocks=10**9, block_size=16)
    huge = replace(TINY, vocab_size=10**13)
    with pytest.raises(KernelError, match="the weights of tiny in bfloat16 take"):
        draw_llama(huge, dtype="bfloat16", device=CPU, positions=8, seed=0)
    odd = draw_llama(replace(TINY, heads=3), dtype="float32", device=CPU, positions=8, seed=0)
    with pytest.raises(Unsupported, match="3 query heads are no multiple of 2 KV heads"):
        Runner(odd, empty_pool(odd, "float32", blocks=2, block_size=4), find_kernels("torch"))


@pytest.mark.parametrize(
    ("meminfo", "limit", "used", "free"),
    [
        ("MemFree: 1 kB\nMemAvailable: 4 kB\n", "max", "9", 4096),
        ("MemAvailable: 4 kB\n", "5000", "3000", 2000),
        ("MemAvailable: 4 kB\n", "90000", "3000", 4096),
        ("MemFree: 1 kB\n", "5000", "3000", 2000),
        (None, None, None, None),
    ],
)
def test_free_memory_is_what_machine_and_container_leave(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meminfo: str | None,
    limit: str | None,
    used: str | None,
    free: int | None,
) -> None:
    for name, text in (("meminfo", meminfo), ("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (tmp_path / name).write_text(text)
    monkeypatch.setattr("calibrate.runner_parts._MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr("calibrate.runner_parts._CGROUP", tmp_path)
    if free is None:
        check_room(10**18, CPU, what="it")
        return
    check_room(free, CPU, what="it")
    with pytest.raises(KernelError, match="it take"):
        check_room(free + 1, CPU, what="it")


def test_steps_are_plain_data() -> None:
    """A prompt of five in two chunks beside another sequence, a fork, a copy: no simulator."""
    model = draw_llama(TINY, dtype="float32", device=CPU, positions=16, seed=3)
    pool = empty_pool(model, "float32", blocks=8, block_size=4)
    runner = Runner(model, pool, find_kernels("torch"))
    assert all(not tensor[:, 1:].any() for tensor in pool.tensors)
    first = runner.run(Step([Row([5, 6, 7], 0, [3], False), Row([9], 0, [1], True)]))
    assert len(first.tokens) == len(first.logits) == 1
    assert first.duration_ns > 0
    torch.testing.assert_close(first.logits, forward(model, [9]).float())
    second = runner.run(Step([Row([8, 4], 3, [3, 2], True)]))
    torch.testing.assert_close(second.logits, forward(model, [5, 6, 7, 8, 4])[-1:].float())
    rows = [Row([1], 5, [3, 2], True), Row([2], 5, [3, 6], True)]
    forked = runner.run(Step(rows, copies=[(2, 6)]))
    right = [forward(model, [5, 6, 7, 8, 4, last])[-1].float() for last in (1, 2)]
    torch.testing.assert_close(forked.logits, torch.stack(right))
    assert forked.tokens == [int(row.argmax()) for row in right]
