"""One step of a model: measured as it is run, and ready to be captured."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from calibrate.kernels.face import Attend, Kernels
from calibrate.kernels.pool import KVPool
from calibrate.kernels.rows import Rows
from calibrate.kernels.torch_cache import TorchCache
from calibrate.kernels.torch_dense import TorchDense
from calibrate.llama import Llama
from calibrate.llama_shape import LlamaShape
from calibrate.llama_step import prepare
from calibrate.measure.bench import Bench, Pools
from calibrate.measure.random_steps import RandomStep
from calibrate.measure.session import Options, measure
from calibrate.measure.timers import Call, Reading
from calibrate.measured import make_table, read_measurement
from calibrate.model import read_model
from calibrate.runner import Row, Runner, Step
from calibrate.runner_parts import empty_pool, find_kernels
from tests.test_executor import EXACT, SMALL, TORCH

CPU = torch.device("cpu")
QWEN3 = replace(SMALL, norms_heads=True, tied_head=True)
SPANS = ((9, 1), (30, 1), (4, 7), (0, 12))


class Seen(TorchDense):
    """Keeps the logits that tokens are taken from, how wide the norms are, and where the weights
    lie."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.norms: Counter[int] = Counter()
        self.weights: list[int] = []

    def greedy(self, logits: Tensor, out: Tensor) -> None:
        self.logits.append(logits.clone())
        super().greedy(logits, out)

    def linear(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        self.weights.append(weight.data_ptr())
        super().linear(x, weight, out)

    def rms_norm(self, x: Tensor, *args: Any, **options: Any) -> None:
        self.norms[x.shape[-1]] += 1
        super().rms_norm(x, *args, **options)


class Once:
    """A timer that makes each call once."""

    cache_bytes = 0

    def read(self, calls: list[Call], *, graphs: bool = True) -> Reading:
        for call in calls:
            call()
        return Reading([1.0], "none")

    def read_eager(self, call: Call) -> None:
        return None


def bench_of(shape: LlamaShape, kernels: Kernels, *, format: str = "float32") -> Bench:
    pools = Pools(tokens={format: 128}, block_size=4)
    of: dict[str, Any] = {"device": CPU, "dtype": "float32", "positions": 64, "seed": 3}
    return Bench(shape, kernels, Once(), pools=pools, **of)


# --- measured as it is run


@pytest.mark.parametrize("shape", [SMALL, QWEN3], ids=["llama", "qwen3"])
@pytest.mark.parametrize("format", ["float32", "int8_per_token_head"])
def test_a_measured_step_is_the_one_that_is_run(shape: LlamaShape, format: str) -> None:
    dense = Seen()
    kernels = replace(TORCH, dense=dense)
    bench = bench_of(shape, kernels, format=format)
    pool = bench._pool(format)
    runner = Runner(bench.model, pool, kernels)
    _fill(pool)
    tables = bench._rows(SPANS, pool, turn=0).block_table.tolist()
    ids = bench._ids(sum(n for _, n in SPANS)).tolist()
    rows = []
    for (before, n), table in zip(SPANS, tables, strict=True):
        rows.append(Row(ids[:n], before, table, gives=True))
        del ids[:n]
    dense.logits.clear()
    bench.read_step(RandomStep("mixed", SPANS, format))
    ran = runner.run(Step(rows))
    measured, run = dense.logits
    assert measured.shape == (len(SPANS), shape.vocab_size)
    assert measured.std() > 0.5
    assert torch.equal(measured, run)
    assert torch.equal(measured, ran.logits)


def test_layers_that_are_not_kept_are_those_that_are() -> None:
    """Of weights and of the pool, in turn: each layer must run, or a step would be measured too
    short, and none twice in a row, or a cache would hold it. So do calls of attention alone."""
    deep, dense = replace(SMALL, layers=6), Seen()
    attended: list[int] = []

    def attention(rows: Rows, pool: KVPool, *, heads: int) -> Attend:
        attend = TORCH.attention(rows, pool, heads=heads)

        def seen(query: Tensor, layer: int, out: Tensor) -> None:
            attended.append(layer)
            attend(query, layer, out)

        return seen

    bench = bench_of(deep, replace(TORCH, dense=dense, attention=attention))
    assert (len(bench.model.layers), bench._pool("float32").layers) == (4, 4)
    bench.read_step(RandomStep("mixed", SPANS, "float32"))
    assert dense.norms == {32: 2 * 6 + 1}
    place = {layer.down.data_ptr(): at for at, layer in enumerate(bench.model.layers)}
    assert [place[each] for each in dense.weights if each in place] == [0, 1, 2, 3, 0, 1]
    assert attended == [0, 1, 2, 3, 0, 1]
    attended.clear()
    for call in bench._attention("float32", SPANS):
        call()
    assert attended == [0, 1, 2, 3]


def test_qwen3_is_measured_with_its_norms_of_heads(tmp_path: Path) -> None:
    dense = Seen()
    bench = bench_of(QWEN3, replace(TORCH, dense=dense))
    bench.read_step(RandomStep("mixed", SPANS, "float32"))
    assert dense.norms == {32: 2 * 2 + 1, 8: 2 * 2}
    dense.norms.clear()
    with torch.inference_mode():
        for call in bench._dense_calls("layer", 5):
            call()
    assert dense.norms == {32: 2 * 2, 8: 2 * 2}
    least: dict[str, Any] = {"max_tokens": 2, "max_batch": 1, "max_context": 16, "steps": 0}
    options = Options(device="cpu", budget_s=0.01, pool_tokens=256, **least)
    measure(QWEN3, options, tmp_path / "m.jsonl")
    table = make_table(read_measurement(tmp_path / "m.jsonl"))
    assert {"linear", "attention_decode"} <= set(table.points["operator"].to_pylist())


def test_what_is_run_can_be_measured() -> None:
    """One class reads a config.json for both; Qwen3 is in it."""
    shape = read_model("qwen3-8b", LlamaShape.from_config)
    assert shape.norms_heads
    assert (shape.max_positions, shape.tied_head) == (40_960, False)


# --- ready to be captured


class NoHost(TorchDispatchMode):
    """Counts what makes the host wait for a device, or a device for the host's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.ran = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        masked = name == "index" and any(each.dtype == torch.bool for each in args[1])
        moved = name == "_to_copy" and "device" in kwargs
        self.asked[name] += masked or moved or name in ("_local_scalar_dense", "lift_fresh")
        self.ran += 1
        return func(*args, **kwargs)


def prepared(shape: LlamaShape = QWEN3) -> tuple[Any, KVPool]:
    model = Llama(shape, dtype=torch.float32, positions=64, seed=1)
    pool = empty_pool(model, "float32", blocks=24, block_size=4)
    _fill(pool)

    class Cache(TorchCache):
        def write(self, *args: Any) -> None:
            with _disable_current_modes():
                super().write(*args)

    def attention(rows: Rows, pool: KVPool, *, heads: int) -> Attend:
        attend = TORCH.attention(rows, pool, heads=heads)

        def outside(query: Tensor, layer: int, out: Tensor) -> None:
            with _disable_current_modes():
                attend(query, layer, out)

        return outside

    # Whether a provider's own kernels can be captured is the provider's to say.
    kernels = replace(find_kernels("torch"), cache=Cache(), attention=attention)
    tables = [range(first, first + 6) for first in (0, 6, 12)]
    rows = Rows.of([(5, 1), (8, 9), (0, 3)], list(map(list, tables)), block_size=4)
    ids, wanted = torch.arange(13) * 7, torch.tensor([0, 12])
    return prepare(model, rows, ids=ids, wanted=wanted, pool=pool, kernels=kernels), pool


def test_a_step_that_runs_asks_nothing_of_the_host() -> None:
    run, _ = prepared()
    with torch.no_grad(), NoHost() as seen:
        run()
    assert seen.ran > 50
    assert +seen.asked == Counter()


def test_the_host_is_seen_where_it_is_asked() -> None:
    x = torch.ones(3)
    with torch.no_grad(), NoHost() as seen:
        x.max().item()
        x[x > 0]
        torch.tensor([1.0])
        x.to("meta")
    assert +seen.asked == {"_local_scalar_dense": 1, "index": 1, "lift_fresh": 1, "_to_copy": 1}


def test_a_step_runs_again_on_what_the_pool_holds_now() -> None:
    run, pool = prepared()
    with torch.inference_mode():
        first = run().clone()
        assert torch.equal(run(), first)
        pool.keys[:, 0].add_(1.0)
        changed = run()
    assert not torch.allclose(changed[0], first[0], atol=100 * EXACT)
    assert torch.equal(changed[1], first[1])


def _fill(pool: KVPool) -> None:
    """As if tokens had been kept in it."""
    random = torch.Generator().manual_seed(7)
    for tensor in pool.tensors:
        if tensor.dtype == torch.int8:
            tensor.random_(-100, 101, generator=random)
        else:
            tensor.normal_(generator=random).abs_()
