"""`pagesim blocks`: the map on the terminal, as a picture and as an animation."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner, Result

from experiments.blocks_colours import OWNERS, STATES, rgb
from experiments.blocks_figure import draw_snapshot
from experiments.blocks_grid import lay_out
from experiments.blocks_map import draw_map
from experiments.blocks_screen import show_snapshot
from experiments.blocks_snapshot import Cell, Holder, Snapshot, State
from experiments.blocks_words import parse_moment, say_moment
from experiments.cli import main as pagesim
from experiments.errors import ConfigError
from experiments.style import styled
from sim.record.memory import Slots
from sim.request import Request
from traces.native import write_trace

CONFIG = """\
engine: {max_num_seqs: 2, max_num_batched_tokens: 8, max_model_len: 20, block_size: 2,
         num_gpu_blocks_override: 12}
latency: {kind: linear, base_ns: 1000000, per_token_ns: 0, per_context_token_ns: 0}
trace: {kind: native, path: PATH}
"""
# Steps of 1 ms: `b` shares blocks 1 and 2 from step 0 on, is preempted in step 7, and comes
# back in step 9, when `a` is gone.
REQUESTS = [
    Request("a", 2_000_000, ((0, 0, 4), (1, 0, 2)), 9, 101),
    Request("b", 2_000_000, ((0, 0, 4), (2, 0, 3)), 7, 102),
    Request("c", 2_500_000, ((0, 0, 4), (3, 0, 1)), 3, 103),
]
FOUR_STEPS = """\
t: 8 of 11 blocks are held (73 %), 2 of them by several sequences
at 5.000 ms, in step 3: 2 run, 1 wait

            0  1  2  3  4  5  6  7  8  9 10 11
            X  #  #  A  B  A  B  a  b  .  .  .

X null block 1   # shared by several 2   - idle, cached 0   . free 3
A held by one and full   a held by one and not yet full

    sequence   blocks   shared   tokens computed   in the last block
────────────────────────────────────────────────────────────────────
A   a               5        2            9 of 9              1 of 2
B   b               5        2            9 of 9              1 of 2

24 token slots = used 14 (58 %) + reserved 2 (8 %) + free 6 (25 %) + null block 2 (8 %); sharing
saves 4 more

block table of b: 5 blocks (2 shared), all 9 tokens
logical   physical   tokens   key   held too by
───────────────────────────────────────────────
      0          1   2 of 2   yes   a
      1          2   2 of 2   yes   a
      2          4   2 of 2   yes
      3          6   2 of 2   yes
      4          8   1 of 2
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    trace = tmp_path / "t.jsonl"
    write_trace(trace, REQUESTS)
    path = tmp_path / "t.yaml"
    path.write_text(CONFIG.replace("PATH", str(trace)))
    return path


def blocks(config: Path, *options: str) -> Result:
    return CliRunner().invoke(pagesim, ["blocks", str(config), *options])


def shown(config: Path, *options: str) -> str:
    result = blocks(config, *options)
    assert result.exit_code == 0, result.output
    return re.sub(r" +$", "", result.stdout, flags=re.MULTILINE)


def test_a_moment_word_for_word(config: Path) -> None:
    told = shown(config, "--at", "5ms", "--request", "b")
    assert told.startswith(FOUR_STEPS)
    assert told.endswith(
        "\nt, t.jsonl; latency modelled: linear: 1000000 ns + 0 ns per token + 0"
        " ns per token of context\n"
    )
    assert {path.name for path in config.parent.iterdir()} == {"t.jsonl", "t.yaml"}


def test_a_step_is_the_time_at_which_it_starts(config: Path) -> None:
    assert shown(config, "--step", "3") == shown(config, "--at", "5000us")
    for loop in ("plain", "fast"):
        assert shown(config, "--step", "6", "--set", f"engine.loop={loop}") == shown(
            config, "--at", "8.999999ms"
        ).replace("at 9.000 ms", "at 8.000 ms")


def test_nobody_before_the_first_arrival_and_after_the_last_answer(config: Path) -> None:
    told = shown(config, "--at", "1.999999ms")
    assert "0 of 11 blocks are held (0 %)\nat 2.000 ms: no step runs, nobody is there\n" in told
    assert "free 11" in told
    assert "sequence" not in told
    told = shown(config, "--at", "1h")
    assert "at 3,600.000 s: no step runs, nobody is there\n" in told
    assert "- idle, cached 10 " in told
    assert "sequence" not in told


def test_a_preempted_request_leaves_idle_blocks(config: Path) -> None:
    told = shown(config, "--step", "7")
    assert "1 run, 2 wait" in told
    assert "\n            X  A  A  A  -  A  -  A  -  A  -  a\n" in told


def test_without_a_moment_it_is_the_fullest(config: Path) -> None:
    assert "10 of 11 blocks are held (91 %), 2" in shown(config)
    told = shown(config, "--request", "c")
    assert "block table of c: 4 blocks, all 7 tokens" in told


def test_each_replica_has_its_own_memory(config: Path) -> None:
    told = shown(config, "--set", "cluster.replicas=2", "--at", "4ms", "--replica", "1")
    assert "block table of b" in told
    assert "t, t.jsonl, replica 1 of 2; latency" in told


@pytest.mark.parametrize("parallel_sampling", ["fork", "requests"])
def test_each_answer_to_a_request_can_be_asked_for(tmp_path: Path, parallel_sampling: str) -> None:
    trace, path = tmp_path / "t.jsonl", tmp_path / "t.yaml"
    write_trace(trace, [Request("a", 0, ((0, 0, 5),), 3, 101, n=2)])
    path.write_text(CONFIG.replace("PATH", str(trace)))
    setting = ("--set", f"engine.parallel_sampling={parallel_sampling}")
    for asked, meant in (("a", "0_a"), ("0_a", "0_a"), ("1_a", "1_a")):
        assert f"block table of {meant}: " in shown(path, *setting, "--request", asked)
    nobody = blocks(path, *setting, "--request", "2_a")
    assert nobody.exit_code == 2
    assert "--request 2_a: it never holds a block of replica 0" in nobody.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--request 0_a", "--request 0_a: did you mean a? the trace has 3 requests, a to c"),
        ("--at 5", "--at: found '5'; allowed: a time with its unit"),
        ("--at 5 days", "Got unexpected extra argument"),
        ("--at 0.5ns", "--at: found '0.5ns'; allowed: whole nanoseconds"),
        ("--step 99", "--step: found 99; allowed: 0 to 11"),
        ("--request bb", "--request bb: did you mean b? the trace has 3 requests, a to c"),
        ("--request b --step 7", "b: it holds no blocks at 9.000 ms, in step 7: 1 run, 2 wait;"),
        ("--at 1s --step 3", "found several of --at, --step, --animate; allowed: one of them"),
        ("--to 3s", "found --from, --to, --frames or --fps; allowed: with --animate"),
        ("--animate x.gif --out x.png", "found --out and --animate; allowed: one of them"),
        ("--request b --set cluster.replicas=2", "b: it never holds a block of replica 0:"),
        ("--out x.jpg", "--out: found x.jpg; allowed: a name in .png .svg .pdf"),
        ("--out no/x.png", "--out: found no/x.png; allowed: a file in a folder that exists"),
        ("--animate x.png", "--animate: found x.png; allowed: a name in .gif"),
        ("--animate x.gif --to 0s", "--from, --to: found 0 ms to 0 ms; allowed: an end after"),
        ("--replica 1", "--replica: found 1; allowed: 0 to 0 (cluster.replicas)"),
    ],
)
def test_a_users_mistake_is_told(config: Path, options: str, said: str) -> None:
    result = blocks(config, *options.split())
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert {path.name for path in config.parent.iterdir()} == {"t.jsonl", "t.yaml"}


def test_a_picture(config: Path) -> None:
    settings = {name: mpl.rcParams[name] for name in mpl.rcParams if name != "backend"}
    for name, begins in (("x.png", b"\x89PNG"), ("x.svg", b"<?xml"), ("x.pdf", b"%PDF")):
        path = config.parent / name
        assert f"picture: {path}\n" in shown(config, "--at", "5ms", "--out", str(path))
        assert path.read_bytes().startswith(begins)
    assert {name: mpl.rcParams[name] for name in settings} == settings
    assert not list(config.parent.glob(".*"))


def test_any_id_can_be_drawn(config: Path) -> None:
    ids = ("_nolegend_", r"$\frac{", "[bold]long-" * 9)
    write_trace(
        config.parent / "t.jsonl",
        [replace(request, id=id_) for request, id_ in zip(REQUESTS, ids, strict=True)],
    )
    told = shown(config, "--at", "5ms", "--out", str(config.parent / "x.png"))
    assert all(id_ in told.replace("\n", "") for id_ in ids[:2])
    assert (config.parent / "x.png").exists()


def test_a_picture_that_cannot_be_written(config: Path) -> None:
    (config.parent / "x.png").mkdir()
    result = blocks(config, "--at", "5ms", "--out", str(config.parent / "x.png"))
    assert result.exit_code == 2
    assert "x.png: cannot be written (" in result.stderr
    assert not list(config.parent.glob(".*"))


def test_an_animation(config: Path) -> None:
    path = config.parent / "x.gif"
    options = ("--from", "1ms", "--to", "9ms", "--frames", "5", "--fps", "4", "--request", "b")
    assert shown(config, "--animate", str(path), *options) == f"5 frames of 0.25 s: {path}\n"
    with Image.open(path) as film:
        assert film.n_frames == 5
        pictures = []
        for at in range(5):
            film.seek(at)
            assert film.info["duration"] == 250
            pictures.append({colour for _, colour in film.convert("RGB").getcolors(1 << 16)})
    of_a, of_b, shared = rgb(OWNERS[0]), rgb(OWNERS[1]), rgb(STATES[State.SHARED])
    assert [of_a in picture for picture in pictures] == [True] * 5  # the legend names it
    assert [shared in picture for picture in pictures] == [True] * 5
    assert all((255, 255, 255) in picture and of_b in picture for picture in pictures)


def cells(*looks: tuple[State, int, tuple[int, ...]]) -> Snapshot:
    """A snapshot of cells with 4 slots: their state, tokens and holders."""
    made = [Cell(state, 4, filled, filled == 4, of) for state, filled, of in looks]
    holders = [
        Holder(
            index,
            f"r{index}",
            sum(cell.filled for cell in made if index in cell.holders),
            99,
            tuple(at for at, cell in enumerate(made) if index in cell.holders),
        )
        for index in sorted({index for cell in made for index in cell.holders})
    ]
    memory = Slots(0, 0, 0, 0, 0, 4 * len(made), 0, 0)
    return Snapshot(at_ns=0, step=0, cells=made, holders=holders, waiting=0, memory=memory)


def test_a_block_is_drawn_as_full_as_it_is() -> None:
    snapshot = cells(
        (State.NULL, 0, ()),
        (State.HELD, 1, (7,)),
        (State.SHARED, 4, (7, 8)),
        (State.IDLE, 4, ()),
        (State.FREE, 0, ()),
    )
    with styled():
        axes = Figure().add_subplot()
        draw_map(axes, lay_out(snapshot.cells, aspect=5, most=100), {7: 2}, outlined=None)
    free, background, filling, hatched = (
        each for each in axes.collections if isinstance(each, PolyCollection)
    )
    widths = [np.ptp(path.vertices[:, 0]) for path in filling.get_paths()]
    assert widths == pytest.approx([widths[0] * share for share in (1, 0.25, 1, 1)])
    assert len(background.get_paths()) == 4
    assert len(free.get_paths()) == len(hatched.get_paths()) == 1
    colours = (filling.get_facecolor()[:, :3] * 255).round().astype(int).tolist()
    states = [STATES[State.NULL], OWNERS[2], STATES[State.SHARED], STATES[State.IDLE]]
    assert colours == [list(rgb(colour)) for colour in states]
    assert axes.texts[3].get_text() == "x2"


def test_many_cells_become_points_and_groups_of_cells() -> None:
    half = 40_000
    snapshot = cells(*[(State.HELD, 4, (3,))] * half, *[(State.FREE, 0, ())] * half)
    with styled():
        figure = draw_snapshot(snapshot, snapshot.holders[0], name="many", footer="")
    axes = figure.axes[0]
    (image,) = axes.images
    pixels = np.asarray(image.get_array()).reshape(-1, 3).tolist()
    assert pixels[: half // 2] == [list(rgb(OWNERS[3]))] * (half // 2)
    assert all(pixel == [255] * 3 for pixel in pixels[half // 2 :])
    assert axes.get_title(loc="left").endswith(
        "\neach cell stands for 2 neighbours and shows what most of them are"
    )
    assert "outlined" not in figure.axes[1].get_title(loc="left")
    table = [text.get_text() for text in figure.axes[1].texts]
    assert "... 39,975 more" in table


def test_a_terminal_with_colours_shows_two_cells_in_one_character() -> None:
    snapshot = cells(*[(State.HELD, 4, (0,))] * 3_000, *[(State.IDLE, 4, ())] * 3_000)
    shown = StringIO()
    screen = Console(file=shown, force_terminal=True, color_system="truecolor", width=100)
    show_snapshot(snapshot, None, screen, name="x")
    lines = Text.from_ansi(shown.getvalue()).plain.splitlines()
    drawn = "".join(line for line in lines if "▀" in line)
    assert drawn.count("▀") == 1_520  # 3,000 groups of 2 in rows of 80, two rows a line
    assert "each cell stands for 2 neighbours" in "".join(lines)


def test_moments_are_read_to_the_nanosecond() -> None:
    read = {
        "1.5s": 1_500_000_000,
        "250 ms": 250_000_000,
        ".5us": 500,
        "7ns": 7,
        "2min": 12 * 10**10,
    }
    assert {text: parse_moment(text, option="--at") for text in read} == read
    for wrong in ("", "s", "-1s", "1", "1 day", "1e3s", "٣s"):
        with pytest.raises(ConfigError, match=r"^--at: found .*; allowed: "):
            parse_moment(wrong, option="--at")
    said = [say_moment(ns) for ns in (0, 500, 9_060_000, 95_300_000_000)]
    assert said == ["0 ms", "0.001 ms", "9.060 ms", "95.300 s"]
