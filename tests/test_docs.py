"""The documentation does what it says: its commands are run, its examples executed.

In a page, in order, all in one empty folder beside `configs/` and `tests/`:

    ```console           $ lines are run; what follows them is what they print
    ```python            is executed; a ```text block right behind it is what it prints
    ```yaml mine.yaml    with a name, any block is written to that file

`...` stands for anything: in a line for some characters, alone for some lines.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from typer.testing import CliRunner

import experiments.blocks
import experiments.capacity
import experiments.cli
import experiments.conformance
import experiments.follow
import experiments.from_steps
import experiments.measure
import experiments.run
import experiments.schema
import experiments.size
import experiments.table_commands
import experiments.trace_fetch
import experiments.trace_inspect
import experiments.validate
from tests.test_rules import RULES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

COMMANDS: dict[tuple[str, ...], typer.Typer] = {
    ("pagesim",): experiments.cli.main,
    ("python", "-m", "experiments.run"): experiments.run.main,
    ("python", "-m", "calibrate.from_steps"): experiments.from_steps.main,
    ("python", "-m", "calibrate.run"): experiments.measure.main,
    ("python", "-m", "calibrate.convert"): experiments.measure.convert_main,
    ("python", "-m", "calibrate.show"): experiments.table_commands.main,
    ("python", "-m", "experiments.follow"): experiments.follow.main,
    ("python", "-m", "experiments.blocks"): experiments.blocks.main,
    ("python", "-m", "experiments.capacity"): experiments.capacity.main,
    ("python", "-m", "experiments.conformance"): experiments.conformance.main,
    ("python", "-m", "experiments.schema"): experiments.schema.main,
    ("python", "-m", "experiments.size"): experiments.size.main,
    ("python", "-m", "experiments.validate"): experiments.validate.main,
    ("python", "-m", "traces.inspect"): experiments.trace_inspect.main,
    ("python", "-m", "traces.fetch"): experiments.trace_fetch.main,
}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).with_suffix("").as_posix()


class Block(NamedTuple):
    language: str
    file: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    blocks: list[Block] = []
    opened: tuple[str, str, int] | None = None
    inside: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            inside.append(line)
        elif opened is None:
            language, _, file = line.removeprefix("```").partition(" ")
            opened, inside = (language, file, number), []
        else:
            language, file, at = opened
            blocks.append(Block(language, file, "\n".join(inside), at))
            opened = None
    assert opened is None, f"{page}: a block is never closed"
    return blocks


def matches(expected: str, printed: str) -> bool:
    """Is it what was expected, up to `...` and blanks at line ends?"""
    pattern = ""
    for line in expected.splitlines():
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += r".*?".join(map(re.escape, line.rstrip().split("..."))) + r"[ \t]*\n"
    return re.fullmatch(pattern, printed.rstrip("\n") + "\n") is not None


def execute(command: str) -> str:
    words = tuple(shlex.split(command, comments=True))
    for prefix, app in COMMANDS.items():
        if words[: len(prefix)] == prefix:
            return CliRunner().invoke(app, list(words[len(prefix) :])).output
    raise AssertionError(f"no test knows how to run: {command}")


def sessions_of(block: Block) -> Iterator[tuple[str, str]]:
    """(command, what it prints)."""
    for session in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = session.partition("\n")
        yield command, expected


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("configs", "tests"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # Slow, and tested elsewhere.
    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])
    monkeypatch.setattr("experiments.study_figures.draw_study", lambda *_, **__: [])
    monkeypatch.setattr("experiments.capacity_figure.draw_capacity", lambda *_: None)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_shows_is_what_happens(page: Path, here: Path) -> None:
    names: dict[str, Any] = {"__name__": page.stem}
    printed: str | None = None
    for block in blocks_of(page):
        place = f"{page.name}:{block.line}"
        if block.file:
            (here / block.file).write_text(block.text + "\n", encoding="utf-8")
        elif block.language == "console":
            for command, expected in sessions_of(block):
                printed = execute(command)
                assert matches(expected, printed), f"{place}: {command}\n{printed}"
        elif block.language == "python":
            output = StringIO()
            with redirect_stdout(output):
                exec(compile(block.text, place, "exec"), names)
            printed = output.getvalue()
            continue
        elif block.language == "text" and printed is not None:
            assert matches(block.text, printed), f"{place}:\n{printed}"
        printed = None


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file) if file else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(linked), f"{page.name}: {target}"


def test_every_page_is_in_an_index() -> None:
    for page in PAGES[1:]:
        above = [folder / "README.md" for folder in (page.parent, ROOT / "docs", ROOT)]
        indices = [index for index in above if index.exists() and index != page]
        assert any(
            f"({page.relative_to(index.parent).as_posix()})" in index.read_text(encoding="utf-8")
            for index in indices
        ), page


def test_the_readme_begins_with_what_ci_runs() -> None:
    run, test = (block.text for block in blocks_of(ROOT / "README.md")[:2])
    assert run == "pip install -e . && python -m experiments.run configs/chatbot.yaml"
    install, _, pytest_command = test.partition(" && ")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert script[-2:] == [install.replace("install", "install --quiet"), pytest_command]


def test_images_are_small() -> None:
    images = list((ROOT / "docs" / "images").glob("*.png"))
    assert images
    assert all(image.stat().st_size < 200_000 for image in images)
    films = (ROOT / "docs" / "images").glob("*.gif")
    assert all(film.stat().st_size < 3_000_000 for film in films)


def test_the_config_page_is_up_to_date() -> None:
    written = (ROOT / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    assert execute("pagesim schema --markdown") == written, "pagesim schema --markdown writes it"


def test_the_table_of_rules_is_that_of_the_tests() -> None:
    page = (ROOT / "docs" / "reference" / "vllm-rules.md").read_text(encoding="utf-8")
    for name, (_, runs) in RULES.items():
        noticed_by = ", ".join(run.partition("_")[0] for run in runs)
        assert f"| {name.replace('_', ' ')} | {noticed_by} |" in page
