"""Which kernels there are, what is said of those that are not, and what the checks notice."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from calibrate.kernels.__main__ import _keep
from calibrate.kernels.__main__ import main as list_plainly
from calibrate.kernels.cases import DECODES, MIXED, make_case
from calibrate.kernels.check import check_kernels
from calibrate.kernels.errors import MissingProvider, Unsupported
from calibrate.kernels.face import Attend
from calibrate.kernels.finding import Finding
from calibrate.kernels.flashinfer_attention import FlashInferAttention
from calibrate.kernels.pool import FORMATS, KVPool
from calibrate.kernels.providers import PROVIDERS, load_kernels
from calibrate.kernels.rows import Rows
from calibrate.kernels.torch_attention import attention
from calibrate.kernels.torch_cache import TorchCache
from calibrate.kernels.torch_dense import TorchDense
from experiments.cli import main


def found(*missing: str) -> Callable[[str], object]:
    """`find_spec` on a machine without these."""
    return lambda name: None if name in missing else object()


def test_unknown_providers() -> None:
    with pytest.raises(
        MissingProvider, match="unknown provider 'cuda'; known: torch, triton, cpp, flashinfer"
    ):
        load_kernels("cuda")


@pytest.mark.parametrize(
    ("lacks", "name", "says"),
    [
        ("torch", "torch", r"torch is not installed \(pip install 'pagesim\[calibrate\]'\)"),
        ("torch", "cpp", "torch is not installed"),
        ("triton", "triton", "provider triton is not on this machine: triton is not installed"),
        ("flashinfer", "flashinfer", "pip install flashinfer-python"),
    ],
)
def test_missing_packages(
    monkeypatch: pytest.MonkeyPatch, lacks: str, name: str, says: str
) -> None:
    monkeypatch.setattr("calibrate.kernels.providers.find_spec", found(lacks))
    with pytest.raises(MissingProvider, match=says):
        load_kernels(name)


@pytest.mark.parametrize("name", ["triton", "flashinfer"])
def test_no_gpu(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr("calibrate.kernels.providers.find_spec", found())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(MissingProvider, match=r"torch [\d.+a-z]+ finds no CUDA device"):
        load_kernels(name)


def test_asking_needs_neither_torch_nor_anything_else() -> None:
    script = """
import sys
sys.modules["torch"] = None
from calibrate.kernels.providers import PROVIDERS
print(*(p.name for p in PROVIDERS), *({"numpy", "pydantic", "rich"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "torch triton cpp flashinfer\n", done.stderr


class Wrapper:
    """FlashInfer's wrapper as its documentation describes it, by pure torch."""

    def __init__(self, workspace: Tensor, layout: str, *, backend: str) -> None:
        assert (workspace.dtype, layout, backend) == (torch.uint8, "NHD", "fa2")

    def plan(
        self,
        qo_indptr: Tensor,
        paged_kv_indptr: Tensor,
        paged_kv_indices: Tensor,
        paged_kv_last_page_len: Tensor,
        *,
        num_qo_heads: int,
        page_size: int,
        causal: bool,
        **told: Any,
    ) -> None:
        assert causal
        assert {tensor.dtype for tensor in (qo_indptr, paged_kv_indptr, paged_kv_indices)} == {
            torch.int32
        }
        self.told, self.heads, self.page_size = told, num_qo_heads, page_size
        pages = [
            paged_kv_indices[first:last].tolist()
            for first, last in pairwise(paged_kv_indptr.tolist())
        ]
        assert all(pages), "a page list may not be empty"
        ns = qo_indptr.diff().tolist()
        lasts = paged_kv_last_page_len.tolist()
        assert all(1 <= last <= page_size for last in lasts)
        self.rows = Rows.of(
            [
                ((len(of) - 1) * page_size + last - n, n)
                for of, last, n in zip(pages, lasts, ns, strict=True)
            ],
            pages,
            block_size=page_size,
        )

    def run(self, query: Tensor, kv: tuple[Tensor, Tensor], *, out: Tensor) -> None:
        assert query.is_contiguous()
        keys, values = (tensor[None] for tensor in kv)
        assert (query.dtype, keys.dtype) == (self.told["q_data_type"], self.told["kv_data_type"])
        format = next(name for name, dtype in FORMATS.items() if dtype == keys.dtype)
        pool = KVPool(format=format, keys=keys, values=values, key_scales=None, value_scales=None)
        attention(self.rows, pool, heads=self.heads)(query, 0, out)


@pytest.fixture
def flashinfer(monkeypatch: pytest.MonkeyPatch) -> FlashInferAttention:
    module = types.ModuleType("flashinfer")
    module.BatchPrefillWithPagedKVCacheWrapper = Wrapper  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    monkeypatch.setattr("calibrate.kernels.flashinfer_attention.check_pool", lambda pool: None)
    return FlashInferAttention()


@pytest.mark.parametrize("spans", [MIXED, DECODES, [(4, 0), (16, 16), (0, 0)], []])
@pytest.mark.parametrize(
    ("format", "dtype"), [("float16", torch.float16), ("fp8_e4m3", torch.bfloat16)]
)
def test_flashinfer_is_told_what_its_documentation_asks_for(
    flashinfer: FlashInferAttention,
    format: str,
    dtype: torch.dtype,
    spans: list[tuple[int, int]],
) -> None:
    make_case(format, dtype, spans).check(flashinfer)


def test_flashinfer_refuses_other_queries(flashinfer: FlashInferAttention) -> None:
    case = make_case("fp8_e4m3", torch.float16, DECODES)
    with pytest.raises(Unsupported, match=r"with torch.bfloat16 queries, not torch.float16"):
        case.check(flashinfer)


def test_flashinfer_needs_cuda() -> None:
    case = make_case("bfloat16", torch.bfloat16, DECODES)
    with pytest.raises(Unsupported, match="on CUDA, not to bfloat16 on cpu"):
        case.check(FlashInferAttention())


def off_by_one(rows: Rows, pool: KVPool, *, heads: int) -> Attend:
    """Attention that forgets the newest key of each row."""
    spans = tuple((max(0, before - 1), n) for before, n in rows.spans)
    return attention(replace(rows, spans=spans), pool, heads=heads)


def test_the_check_passes_what_is_right_and_notices_what_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("calibrate.kernels.check._HEADS", {"heads": 4, "kv_heads": 2})
    kernels = load_kernels("torch")
    assert not [found for found in check_kernels(kernels, "cpu") if found.bad]
    wrong = replace(kernels, attention=off_by_one, cache=None, dense=None)
    assert all(found.bad for found in check_kernels(wrong, "cpu"))


class WrongCache(TorchCache):
    """Each method does a little too little."""

    def write(self, key: Tensor, value: Tensor, pool: KVPool, layer: int, slots: Tensor) -> None:
        super().write(key[1:], value[1:], pool, layer, slots[1:])

    def copy(self, pool: KVPool, pairs: Tensor) -> None:
        super().copy(pool, pairs[1:])

    def swap_in(self, host: KVPool, pool: KVPool, pairs: Tensor) -> None:
        super().swap_in(host, pool, pairs[1:])

    def dequantise(
        self, pool: KVPool, layer: int, blocks: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        super().dequantise(pool, layer, blocks[1:], keys[1:], values[1:])


class WrongDense(TorchDense):
    """Each method is off by one somewhere."""

    def linear(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        super().linear(x.roll(1, 0), weight, out)

    def rms_norm(
        self, x: Tensor, weight: Tensor, out: Tensor, *, residual: Tensor | None, epsilon: float
    ) -> None:
        super().rms_norm(x, weight, out, residual=residual, epsilon=epsilon + 0.5)

    def rotary(self, query: Tensor, key: Tensor, angles: Tensor, positions: Tensor) -> None:
        super().rotary(query, key, angles, positions + 1)

    def silu_mul(self, gate_up: Tensor, out: Tensor) -> None:
        super().silu_mul(gate_up.roll(1, 0), out)

    def greedy(self, logits: Tensor, out: Tensor) -> None:
        super().greedy(logits.flip(-1), out)
        out.neg_().add_(logits.shape[-1] - 1)

    def sample(
        self, logits: Tensor, temperature: float, generator: torch.Generator, out: Tensor
    ) -> None:
        super().sample(logits, 1.2 * temperature, generator, out)


def test_whatever_is_wrong_is_noticed() -> None:
    right = load_kernels("torch")
    wrong = replace(right, cache=WrongCache(), dense=WrongDense())
    found = [each for each in check_kernels(wrong, "cpu") if each.kernel != "attention"]
    assert {each.kernel for each in found} == {
        *("write", "copy", "swap", "dequantise"),
        *("rms_norm", "add_norm", "rotary", "silu_mul", "linear", "greedy", "sample"),
    }
    assert [each for each in found if not each.bad] == []


@pytest.mark.parametrize("left", ["out", "residual"])
def test_what_is_not_written_is_noticed(left: str) -> None:
    """A maximum of several errors must not lose the one that is no number."""

    class Forgets(TorchDense):
        def rms_norm(
            self, x: Tensor, weight: Tensor, out: Tensor, *, residual: Tensor | None, epsilon: float
        ) -> None:
            super().rms_norm(x, weight, out, residual=residual, epsilon=epsilon)
            if residual is not None:
                (out if left == "out" else residual).fill_(torch.nan)

    kernels = replace(load_kernels("torch"), dense=Forgets(), cache=None)
    found = [each for each in check_kernels(kernels, "cpu", formats=[]) if each.bad]
    assert {each.kernel for each in found} == {"add_norm"}
    assert len(found) == 3


@pytest.mark.parametrize(("error", "told"), [(math.nan, "nan"), (math.inf, "inf"), (0.5, 0.5)])
def test_what_is_kept_is_json(error: float, told: Any, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    out = tmp_path / "found.jsonl"
    finding = Finding(kernel="linear", format="", dtype="float32", error=error, allowed=0.0)
    _keep(finding, "torch", out)
    line = json.loads(out.read_text(), parse_constant=refuse)
    assert (line["error"], line["bad"]) == (told, True)


def test_what_cannot_be_run_is_told_and_the_rest_is_checked() -> None:
    def broken(rows: Rows, pool: KVPool, *, heads: int) -> Attend:
        raise ValueError("does not compile\nat line 3")

    kernels = replace(load_kernels("torch"), attention=broken)
    found = list(check_kernels(kernels, "cpu", formats=["bfloat16"]))
    assert {each.failed for each in found if each.kernel == "attention"} == {
        "ValueError: does not compile"
    }
    assert {each.kernel for each in found if each.bad} == {"attention"}
    assert {each.format for each in found} == {"bfloat16", ""}
    assert len(found) == 3 + 4 + 3 * 5 + 2


def test_findings_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    attention = {torch.float32: 0.0}
    monkeypatch.setattr("calibrate.kernels.check.ERROR_ALLOWED", attention)
    out = tmp_path / "found.jsonl"
    command = ["--check", "--provider", "torch", "--format", "bfloat16", "--out", str(out)]
    assert list_plainly(command) == 1
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["provider"] for line in lines} == {"torch"}
    assert [line["bad"] for line in lines if line["kernel"] == "attention"] == [True]


def test_listing_and_checking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calibrate.kernels.check._HEADS", {"heads": 4, "kv_heads": 2})
    only = [replace(PROVIDERS[0]), replace(PROVIDERS[3], missing=lambda: "it is elsewhere")]
    monkeypatch.setattr("calibrate.kernels.providers.PROVIDERS", only)
    shown = CliRunner().invoke(main, ["calibrate", "kernels", "--check"])
    assert shown.exit_code == 0
    assert "flashinfer is not here: it is elsewhere" in shown.output
    assert "torch: largest error against fp64, relative" in shown.output
    # An error that is always too large.
    monkeypatch.setattr("calibrate.kernels.check.ERROR_ALLOWED", {torch.float32: 0.0})
    shown = CliRunner().invoke(main, ["calibrate", "kernels", "--check"])
    assert shown.exit_code == 1
    assert "kernels are off by more than their dtype explains" in shown.output


def test_a_check_of_nothing_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = ("torch", "triton", "flashinfer")
    monkeypatch.setattr("calibrate.kernels.providers.find_spec", found(*lacks))
    shown = CliRunner().invoke(main, ["calibrate", "kernels", "--check"])
    assert shown.exit_code == 2
    assert "--check: found no provider here" in shown.stderr


def test_listing_plainly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("calibrate.kernels.__main__.PROVIDERS", PROVIDERS[:1])
    assert list_plainly([]) == 0
    assert capsys.readouterr().out == "torch: gather, then SDPA; any device\n"
    monkeypatch.setattr("calibrate.kernels.check.ERROR_ALLOWED", {torch.float32: 0.0})
    assert list_plainly(["--check"]) == 1
    assert "OFF: 0.0e+00 is allowed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["torch", "cpp"])
def test_chunks_that_are_told_to_be_apart_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of torch's kernel for each."""
    (provider,) = (each for each in PROVIDERS if each.name == name)
    assert provider.chunks_apart
    if provider.missing() and not os.environ.get("CI"):
        pytest.skip("no compiler")
    calls: list[int] = []

    def attend(query: Tensor, *args: Tensor, **options: object) -> Tensor:
        calls.append(query.shape[-2])
        return query

    monkeypatch.setattr("calibrate.kernels.torch_attention.scaled_dot_product_attention", attend)
    shape = {"layers": 1, "blocks": 8, "block_size": 4, "kv_heads": 2, "head_size": 8}
    pool = KVPool.empty("float32", **shape)
    rows = Rows.of([(0, 5), (4, 3), (0, 7)], [[0, 1], [2, 3], [4, 5]], block_size=4)
    query = torch.zeros(15, 2, 8)
    load_kernels(name).attention(rows, pool, heads=2)(query, 0, torch.empty_like(query))
    assert calls == [5, 3, 7]
