"""measure.sh: which commands it runs, in what time; and what it compiles ahead."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calibrate.gpu import compile_ahead
from calibrate.kernels.pool import KVPool
from calibrate.kernels.providers import PROVIDERS
from calibrate.measure.__main__ import _parser as measure_parser
from calibrate.measure.session import PARTS, Options
from experiments.serve_kernels import _parser as serve_parser

ROOT = Path(__file__).parents[1]
SCRIPT = "calibrate/gpu/measure.sh"
TINY = str(ROOT / "calibrate" / "models" / "tiny.json")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="bash")


def run(folder: Path, part: str, *, body: str = "", **environment: str) -> tuple[int, list[str]]:
    """The exit code, and the commands for a Python that only notes them down, then runs `body`."""
    python, calls = folder / "python", folder / "calls.txt"
    python.write_text(f'#!/usr/bin/env bash\necho "$*" >>{calls}\n{body}\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", SCRIPT, part, str(folder / "out")],
        cwd=ROOT,
        env=os.environ | {"PYTHON": str(python)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, calls.read_text().splitlines() if calls.exists() else []


def arguments_of(calls: list[str], module: str) -> list[list[str]]:
    begin = f"-m {module} "
    return [call.removeprefix(begin).split() for call in calls if call.startswith(begin)]


def test_operators_are_asked_for_by_names_that_there_are(tmp_path: Path) -> None:
    asked = []
    for part in "12":
        code, calls = run(tmp_path, part)
        assert code == 0
        asked += [measure_parser().parse_args(a) for a in arguments_of(calls, "calibrate.measure")]
        (tmp_path / "calls.txt").unlink()
    for each in asked:
        options = Options(kv_cache_dtypes=tuple(each.kv_cache_dtype), only=tuple(each.only))
        options.check()
        assert len(options.formats()) == 1
    assert {part for each in asked for part in each.only} == set(PARTS)
    assert {each.kv_cache_dtype[0] for each in asked} == {"auto", "int8", "fp8"}
    assert len({each.out for each in asked}) == len(asked) == 9
    first = [each for each in asked if each.out.name.startswith("operators")]
    assert [each.kv_cache_dtype[0] for each in first] == ["auto", "int8", "fp8"]


def test_kernels_are_checked_before_anything_is_timed(tmp_path: Path) -> None:
    _, calls = run(tmp_path, "1")
    kinds = [call.split()[1] for call in calls]
    assert kinds.index("calibrate.measure") == len(kinds) - 3
    assert kinds.count("calibrate.kernels") == 6
    assert kinds.count("calibrate.gpu.compile_ahead") == 3


def test_a_trace_is_served_at_what_the_pilot_served(tmp_path: Path) -> None:
    code, calls = run(tmp_path, "3")
    assert code == 0
    asked = [serve_parser().parse_args(a) for a in arguments_of(calls, "experiments.serve_kernels")]
    pilot, *others = asked
    assert [each.out.stem for each in others] == ["knee-1", "pressure-1", "knee-2", "pressure-2"]
    assert all(each.pilot == pilot.out for each in others)
    assert [len(each.set) for each in others] == [0, 1, 0, 1]
    assert pilot.config == Path("configs/kernels-8b.yaml")


@pytest.mark.parametrize("part", ["0", "4", "all"])
def test_unknown_parts(tmp_path: Path, part: str) -> None:
    assert run(tmp_path, part) == (2, [])


def test_a_command_that_hangs_is_stopped_in_time(tmp_path: Path) -> None:
    """There is time for one of them only, whose Python is interrupted."""
    start_s = time.monotonic()
    trap = 'trap "echo interrupted >>$0.log; exit 1" INT; for i in {1..900}; do sleep 0.1; done'
    code, calls = run(tmp_path, "3", body=trap, SECONDS_PER_PART="2", LEAST_SECONDS="1")
    assert code == 0
    assert time.monotonic() - start_s < 12
    assert len(calls) == 1
    assert (tmp_path / "python.log").read_text() == "interrupted\n"


# --- compiling ahead


def test_each_format_is_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pools: list[tuple[str, int, int]] = []

    def compile_for(pool: KVPool, heads: int, dtype: object) -> None:
        pools.append((pool.format, pool.blocks * pool.block_size, heads))
        if pool.format == "float16":
            raise MemoryError("out of memory")

    triton = next(provider for provider in PROVIDERS if provider.name == "triton")
    kernels = triton.build()
    object.__setattr__(kernels, "compile", compile_for)
    monkeypatch.setattr(compile_ahead, "load_kernels", lambda name: kernels)
    command = ["--model", TINY, "--device", "cpu", "--format", "float16", "--format", "bfloat16"]
    assert compile_ahead.main(command) == 1
    said = capsys.readouterr().out
    assert "float16: out of memory\nbfloat16: compiled in " in said
    assert pools == [("float16", 65_536, 4), ("bfloat16", 65_536, 4)]


def test_nothing_to_compile_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert compile_ahead.main(["--model", TINY]) == 2
    assert "Error: provider triton is not on this machine" in capsys.readouterr().err
    assert compile_ahead.main(["--model", "nothing.json"]) == 2
    assert "Error: nothing.json: No such file" in capsys.readouterr().err
