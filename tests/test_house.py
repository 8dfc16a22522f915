"""The rules of the house that a machine can check: tools, sizes, words."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("sim", "traces", "calibrate", "experiments", "benchmarks")
WRITTEN = (*PACKAGES, "tests", "configs", "docs", ".ci")

LONGEST_FILE = 320
PATH_OF_ONE_REQUEST = (
    *("request.py", "plan.py", "engine.py"),
    *("scheduling/vllm.py", "scheduling/orders.py"),
    *("kv/pool.py", "kv/paged.py", "kv/prefix.py", "kv/names.py", "kv/node.py", "kv/cached.py"),
)

FORBIDDEN = {
    "a path of somebody's machine": r"(?<![\w.])/(work|home|root|Users)/",
    "an unfinished thought": r"\b(TODO|FIXME)\b",
    "a note on how it was made": r"\b([Cc]olleague|[Tt]eammate|[Ss]ubagent|[Cc]o-?[Aa]uthored)",
    "a number in a tracker": r"\bissues? #?\d",
    "hype": r"\b(blazing|state-of-the-art|cutting-edge|seamless(ly)?|game-chang\w+|powerful)\b",
}


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def texts() -> list[Path]:
    found = [path for path in ROOT.iterdir() if path.suffix in (".md", ".toml")]
    for folder in WRITTEN:
        found += [
            path
            for path in (ROOT / folder).rglob("*")
            if path.is_file()
            and path.suffix in (".py", ".md", ".yaml", ".json", ".toml", "")
            and "recorded" not in path.parts
            and path != Path(__file__)
        ]
    return found


def test_ruff_check() -> None:
    run(sys.executable, "-m", "ruff", "check", ".")


def test_ruff_format() -> None:
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_types() -> None:
    run(sys.executable, "-m", "mypy")


def test_imports() -> None:
    run(str(Path(sys.executable).with_name("lint-imports")))


@pytest.mark.parametrize("package", PACKAGES)
def test_files_are_short(package: str) -> None:
    sizes = {path.name: lines(path) for path in (ROOT / package).rglob("*.py")}
    assert {name: size for name, size in sizes.items() if size > LONGEST_FILE} == {}


def test_the_path_of_one_request_reads_in_an_evening() -> None:
    assert sum(lines(ROOT / "sim" / name) for name in PATH_OF_ONE_REQUEST) <= 1500


def test_the_fast_loop_is_short() -> None:
    assert sum(lines(path) for path in (ROOT / "sim" / "fast").rglob("*.py")) <= 600


def test_the_reading_order_names_every_module_once() -> None:
    folder = ROOT / "sim"
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert docstring is not None
    listed = re.findall(r"[a-z_.]+", " ".join(re.findall(r"^ {4}.{23}(.*)$", docstring, re.M)))
    modules = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py")]
    there = [".".join(path.parts) for path in modules if path.name != "__init__"]
    assert sorted(listed) == sorted(there)


@pytest.mark.parametrize("what", FORBIDDEN)
def test_words(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
