"""The C++ decode kernel, compiled here, against fp64."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from calibrate.kernels.cases import DECODES, MIXED, make_case
from calibrate.kernels.cpp_attention import FORMATS, CppAttention, missing
from calibrate.kernels.face import MissingProvider, Unsupported
from tests.shared import extensions_folder


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> CppAttention:
    # In CI a missing compiler is an error: tests that silently skip protect nothing.
    reason = missing()
    if reason and not os.environ.get("CI"):
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(extensions_folder(tmp_path_factory)))
        return CppAttention()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("format", FORMATS)
def test_formats(attention: CppAttention, format: str, dtype: torch.dtype) -> None:
    make_case(format, dtype, MIXED).check(attention)


def test_no_decodes(attention: CppAttention) -> None:
    make_case("float32", torch.float32, [(3, 4), (0, 0)]).check(attention)
    make_case("float32", torch.float32, []).check(attention)


def test_what_it_cannot_do(attention: CppAttention) -> None:
    case = make_case("float16", torch.float16, DECODES)
    with pytest.raises(Unsupported, match="int8_per_token_head in host memory, not to float16"):
        case.check(attention)
    case = make_case("float32", torch.float16, DECODES)
    with pytest.raises(Unsupported, match=r"float32 or bfloat16, not torch\.float16"):
        case.check(attention)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingProvider, match="cpp: no C\\+\\+ compiler: 'no-such-compiler'"):
        CppAttention()


def test_no_ninja(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProvider, match="ninja, which torch builds with, is not on the PATH"):
        CppAttention()


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if missing():
        pytest.skip("nothing builds here")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr("calibrate.kernels.cpp_attention._FLAGS", ("--no-such-flag",))
    with pytest.raises(MissingProvider, match=r"paged_decode.cpp does not build: "):
        CppAttention()
