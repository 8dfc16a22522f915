"""Several runs side by side: the waste of KV memory, the comparison, and how it is shown."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from typer.testing import CliRunner, Result

import experiments
from experiments.cli import main as pagesim
from experiments.errors import ResultError
from experiments.kv_use import POOL_PARTS
from experiments.waste import EachStep, expect_waste, measure_middle
from sim.record.memory import Slots
from tests.served import Server, ask, serve
from tests.test_config import GIVEN
from tests.test_contiguous import contiguous
from tests.worlds import small_world

CONFIG = Path(__file__).parents[1] / "configs" / "fragmentation.yaml"
SMALL: dict[str, Any] = {
    "latency": GIVEN["latency"],
    "engine": {
        "num_gpu_blocks_override": 65,
        "max_model_len": 128,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 512,
        "enable_prefix_caching": False,
    },
    "trace": {
        "kind": "synthetic",
        "requests": 60,
        "arrivals": {"kind": "at_once"},
        "lengths": {
            "prompt": {"kind": "uniform", "low": 20, "high": 60},
            "output": {"kind": "uniform", "low": 10, "high": 60},
        },
    },
    "variants": {
        "naive": {"engine": {"kv_cache": "naive"}},
        "paged": {"engine": {"kv_cache": "paged"}},
    },
}


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are slow."""
    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])
    monkeypatch.setattr("experiments.study_figures.draw_study", lambda *_, **__: [])


def run(folder: Path, *options: str, **parts: Any) -> Result:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | parts, sort_keys=False), encoding="utf-8")
    return CliRunner().invoke(
        pagesim, ["run", str(path), "--out", str(folder / "results"), *options]
    )


def study_of(result: Result) -> Path:
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


# The middle half


def test_levels_are_weighed_by_the_time_within_the_middle_half() -> None:
    """One request, 5 + 4 tokens, in steps of 10, 20, 20 and 20 ns, of a pool of 100 slots.

    The middle half goes from 17 to 52 ns of 70: 13 ns of step 2 (6 tokens), 20 of step 3 (7),
    2 of step 4 (8). 15 slots are set aside.
    """
    steps = {"replica": [0, 0], "first_step": [0, 1], "steps": [1, 3], "running": [1, 1]}
    used = {"used_first_slots": [5, 6], "used_last_slots": [5, 8]}
    reserved = {"reserved_first_slots": [3, 2], "reserved_last_slots": [3, 0]}
    internal = {"internal_first_slots": [7, 7], "internal_last_slots": [7, 7]}
    others = {
        f"{part}_{when}_slots": [85 if part == "free" else 0] * 2
        for part in ("external", "idle", "free", "null")
        for when in ("first", "last")
    }
    frames = {
        "requests": pd.DataFrame({"arrival_ns": [0], "finish_ns": [70]}),
        "refused": pd.DataFrame({"arrival_ns": np.array([], dtype=np.int64)}),
        "steps": pd.DataFrame(steps | {"start_ns": [0, 10], "end_ns": [10, 70]}),
        "memory": pd.DataFrame(used | reserved | internal | others),
        "step_ends": pd.DataFrame(
            {"replica": [0] * 4, "step": range(4), "end_ns": [10, 30, 50, 70]}
        ),
    }
    middle = measure_middle(frames, pool_slots=100)
    assert (middle["from_s"], middle["to_s"]) == (17e-9, 52e-9)
    mean = (13 * 6 + 20 * 7 + 2 * 8) / 35
    assert middle["share_of_pool"]["used"] == pytest.approx(mean / 100)
    assert middle["share_of_pool"]["free"] == pytest.approx(0.85)
    assert middle["waste"] == pytest.approx(1 - mean / 15)
    assert middle["running"] == 1


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["paged", "max_model_len", "oracle_exact", "prompt"]))
def test_steps_written_out_are_what_the_simulator_integrated(seed: int, kind: str) -> None:
    """`used` in every cache, and all parts of contiguous ones, whatever the replicas do."""
    world = small_world(random.Random(seed))
    options: dict[str, Any] = {}
    if kind != "paged":
        slots = 1 << (2 * world.max_model_len).bit_length()
        options["cache"] = contiguous(slots, reserve=kind, longest=world.max_model_len)
    frames, context = serve(world.requests, Server.of(world, **options))
    steps = EachStep(frames)
    inside_ns = steps.within(0, 2**62)
    for part in POOL_PARTS if kind != "paged" else ("used", "null"):
        simulated = sum(slot_ns[Slots._fields.index(part)] for slot_ns in context["slot_ns"])
        assert steps.slots(part) @ inside_ns == pytest.approx(simulated), part


def test_where_nobody_was_answered_there_is_no_middle() -> None:
    frames, _ = serve([ask(0, prompt=50)], Server(max_model_len=20))
    middle = measure_middle(frames, pool_slots=10)
    assert (middle["waste"], middle["running"]) == (None, None)
    assert expect_waste(frames["requests"], {}) is None


# The arithmetic


APART = {"parallel_sampling": "requests", "enable_prefix_caching": False, "block_size": 4}


def answered(
    *lengths: tuple[int, int], hit_tokens: int = 0, branches: int | list[int] = 1
) -> pd.DataFrame:
    frame = pd.DataFrame(lengths, columns=["prompt_tokens", "output_tokens"])
    return frame.assign(hit_tokens=hit_tokens, branches=branches)


@pytest.mark.parametrize(
    ("kv_cache", "held"),
    [
        # Prompts of 5 and 3, answers of 3 and 2: 5 + 6 + 7 and 3 + 4 tokens, 25 in all.
        ({"kind": "contiguous", "reserve": "max_model_len", "fit": "first_fit"}, 5 * 10),
        ({"kind": "contiguous", "reserve": "max_model_len", "fit": "buddy"}, 5 * 16),
        ({"kind": "contiguous", "reserve": "oracle_exact", "fit": "best_fit"}, 3 * 8 + 2 * 5),
        ({"kind": "contiguous", "reserve": "oracle_pow2", "fit": "best_fit"}, 3 * 9 + 2 * 5),
        ({"kind": "contiguous", "reserve": "prompt", "fit": "first_fit"}, 25),
        # Buddies do not grow: whoever outgrows its piece gets the next power of two.
        ({"kind": "contiguous", "reserve": "prompt", "fit": "buddy"}, 8 + 8 + 8 + 4 + 4),
        ({"kind": "paged"}, 8 + 8 + 8 + 4 + 4),
    ],
)
def test_the_arithmetic_by_hand(kv_cache: dict[str, str], held: int) -> None:
    engine = {"kv_cache": kv_cache, "max_model_len": 10} | APART
    assert expect_waste(answered((5, 3), (3, 2)), engine) == pytest.approx(1 - 25 / held)


def test_a_prompt_of_one_token_in_buddies() -> None:
    # 1, 2, 3, 4 and 5 tokens in pieces of 1, 2, 4, 4 and 8.
    kv_cache = {"kind": "contiguous", "reserve": "prompt", "fit": "buddy"}
    engine = {"kv_cache": kv_cache, "max_model_len": 10} | APART
    assert expect_waste(answered((1, 5)), engine) == pytest.approx(1 - 15 / 19)


def test_several_answers_are_as_many_sequences() -> None:
    kv_cache = {"kind": "contiguous", "reserve": "oracle_exact", "fit": "first_fit"}
    engine = {"kv_cache": kv_cache, "max_model_len": 10} | APART
    several = answered((5, 6), (3, 2), branches=[2, 1])
    by_hand = 1 - (2 * (5 + 6 + 7) + (3 + 4)) / (2 * 3 * 8 + 2 * 5)
    assert expect_waste(several, engine) == pytest.approx(by_hand)


def test_shared_blocks_have_no_arithmetic() -> None:
    engine = {"kv_cache": {"kind": "paged"}} | APART
    assert expect_waste(answered((5, 3), hit_tokens=4), engine) is None
    for sharing in ({"parallel_sampling": "fork"}, {"enable_prefix_caching": True}):
        assert expect_waste(answered((5, 3)), engine | sharing) is not None
        assert expect_waste(answered((5, 6), branches=2), engine | sharing) is None


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """study.json of configs/fragmentation.yaml as it is."""
    out = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.figures.draw", lambda *_: [])
        patch.setattr("experiments.study_figures.draw_study", lambda *_, **__: [])
        options = ["--out", str(out), "--quiet"]
        folder = study_of(CliRunner().invoke(pagesim, ["run", str(CONFIG), *options]))
    content: dict[str, Any] = json.loads((folder / "study.json").read_text())
    return content["variants"]


@pytest.mark.parametrize(
    ("variant", "percent"),
    # By the distributions: E[P] = 2,100; E[O(O - 1)] / (2 E[O]) = 167.8, so 2,267.8 tokens in
    # 8,192 or 4,500 slots, or in 7.5 slots more.
    [("naive 8192", 72.3), ("naive 4500", 49.6), ("paged", 0.33)],
)
def test_the_waste_is_what_the_lengths_say(
    shipped: dict[str, Any], variant: str, percent: float
) -> None:
    middle = shipped[variant]["middle"]
    assert middle["waste"] * 100 == pytest.approx(percent, abs=1.5)
    assert middle["waste_expected"] * 100 == pytest.approx(percent, abs=1.5)


def test_arithmetic_and_measurement_agree_in_every_variant(shipped: dict[str, Any]) -> None:
    for name, content in shipped.items():
        middle = content["middle"]
        assert middle["waste"] == pytest.approx(middle["waste_expected"], abs=0.006), name


def test_the_less_is_wasted_the_more_sequences_run(shipped: dict[str, Any]) -> None:
    middles = [content["middle"] for content in shipped.values()]
    wastes, running = ([middle[key] for middle in middles] for key in ("waste", "running"))
    assert wastes == sorted(wastes, reverse=True)
    assert running == sorted(running)
    assert (round(running[0]), round(running[1])) == (20, 36)
    # Overloaded throughout: the pool has room for nobody more.
    assert min(middle["share_of_pool"]["free"] for middle in middles) >= 0
    assert max(middle["share_of_pool"]["free"] for middle in middles) < 0.08


# From the command to the folder


def test_a_study_leaves_a_comparison_beside_its_runs(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    (study,) = (path.parent for path in (tmp_path / "results").glob("*/study.json"))
    assert f"comparison: {study}" in result.stdout
    names = {path.relative_to(study).as_posix() for path in study.rglob("*.*")}
    assert names == {
        *("study.json", "comparison.parquet", "figures/memory.png", "figures/latency.png")
    }
    content = json.loads((study / "study.json").read_text())
    assert content["study"]["id"] == study.name
    assert list(content["variants"]) == ["naive", "paged"]
    table = pd.read_parquet(study / "comparison.parquet").set_index(["variant", "metric"])["value"]
    assert table.index.is_unique
    for name, each in content["variants"].items():
        loaded = experiments.load(study.parent / each["run"])
        assert loaded.summary == each["summary"]
        ttft_ms = loaded.summary["latency_ms"]["ttft"]["p90"]
        assert table[name, "latency_ms.ttft.p90"] == ttft_ms
        assert table[name, "middle.waste"] == each["middle"]["waste"]
    with pytest.raises(ResultError, match=r"compares runs; allowed: one of those"):
        experiments.load(study)


def test_panels_keep_their_width_where_there_is_no_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where blocks are shared, nothing can be said from the lengths alone: no diamond is drawn."""
    drawn: dict[str, Figure] = {}

    def keep(figure: Figure, path: Path) -> Path:
        drawn[path.stem] = figure
        return path

    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])
    monkeypatch.setattr("experiments.study_figures.style.save", keep)
    pool = {"num_gpu_blocks_override": 2001, "max_model_len": 8192}
    engine = SMALL["engine"] | pool | {"enable_prefix_caching": True}
    variants = {"many": {"engine.max_num_seqs": 64}, "few": {"engine.max_num_seqs": 4}}
    trace = {"kind": "chat", "requests": 20, "system_prompts": 1}
    study_of(run(tmp_path, "--quiet", engine=engine, trace=trace, variants=variants))
    figure = drawn["memory"]
    figure.draw_without_rendering()
    width = figure.bbox.width
    running, waste = figure.axes[-2:]
    assert running.get_window_extent().width > 0.4 * width
    assert waste.get_window_extent().width > 0.3 * width
    assert waste.get_legend() is None


def test_both_serve_the_same_requests(tmp_path: Path, undrawn: None) -> None:
    study = study_of(run(tmp_path, "--quiet"))
    content = json.loads((study / "study.json").read_text())["variants"]
    first, second = (
        experiments.load(study.parent / each["run"]).requests.sort_values("request")
        for each in content.values()
    )
    for column in ("arrival_ns", "prompt_tokens", "output_tokens"):
        assert first[column].tolist() == second[column].tolist()
    assert first["finish_ns"].max() > second["finish_ns"].max()


def test_the_table_compares_with_the_first_variant(tmp_path: Path, undrawn: None) -> None:
    shown = run(tmp_path).stdout
    study = study_of(run(tmp_path, "--quiet"))
    content = json.loads((study / "study.json").read_text())["variants"]
    rates = [each["summary"]["throughput"]["requests_per_s"] for each in content.values()]
    lines = shown.splitlines()
    (at,) = (
        number
        for number, line in enumerate(lines)
        if line.startswith("paged") and f"{rates[1]:,.0f}" in line
    )
    assert f"{(rates[1] / rates[0] - 1) * 100:+.0f} %" in lines[at + 1]
    assert "of what sequences hold" in shown
    assert max(map(len, lines[:-4])) <= 100


def test_with_an_slo_the_table_says_the_goodput(tmp_path: Path, undrawn: None) -> None:
    assert "goodput" not in run(tmp_path).stdout
    shown = run(tmp_path, slo={"ttft_ms": 40}).stdout.splitlines()
    (header,) = (line for line in shown if line.endswith("empted       /s"))
    (study,) = (
        content
        for path in (tmp_path / "results").glob("*/study.json")
        for content in [json.loads(path.read_text())["variants"]]
        if content["naive"]["summary"]["throughput"]["goodput"]
    )
    for name, each in study.items():
        goodput = each["summary"]["throughput"]["goodput"]
        assert 0 < goodput["requests"] < 60
        (line,) = (line for line in shown[shown.index(header) :][:6] if line.startswith(name))
        assert line.split()[-1] == f"{goodput['requests_per_s']:.3g}"
    assert "goodput: TTFT <= 40 ms" in shown


@pytest.mark.parametrize("slo", [{}, {"ttft_ms": 40}])
def test_the_table_fits_80_columns_and_names_are_whole(
    tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch, slo: dict[str, int]
) -> None:
    monkeypatch.setattr("experiments.terminal._PIPE_COLUMNS", 80)
    variants = {"anamewithoutanyplacetobreak": {"engine.max_num_seqs": 2}} | SMALL["variants"]
    result = run(tmp_path, variants=variants, slo=slo)
    assert result.exit_code == 0, result.output
    shown = result.stdout
    lines = [line for line in shown.splitlines() if not line.startswith(("run: ", "comp"))]
    assert max(map(len, lines)) <= 80
    assert "…" not in shown


def test_finished_variants_are_reused_unless_forced(tmp_path: Path, undrawn: None) -> None:
    study = study_of(run(tmp_path, "--quiet"))
    runs = sorted((tmp_path / "results").glob("*/requests.parquet"))
    assert len(runs) == 2
    before = [path.stat().st_mtime_ns for path in runs]
    again = run(tmp_path)
    assert "2 of 2 runs were made before" in again.stdout
    assert str(study) in again.stdout
    assert [path.stat().st_mtime_ns for path in runs] == before
    assert study_of(run(tmp_path, "--quiet", "--force")) == study
    assert all(path.stat().st_mtime_ns > then for path, then in zip(runs, before, strict=True))


def test_without_its_variants_a_config_is_one_run(tmp_path: Path, undrawn: None) -> None:
    folder = study_of(run(tmp_path, "--quiet", "--set", "variants=null"))
    assert experiments.load(folder).config["engine"]["kv_cache"]["kind"] == "paged"


def test_a_mistake_in_the_last_variant_stops_before_the_first_runs(tmp_path: Path) -> None:
    variants = SMALL["variants"] | {"long": {"engine.max_model_len": 2000}}
    result = run(tmp_path, variants=variants)
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "Error: variant 'long': engine.max_model_len: found 2000; allowed: up to 1024"
    )
    assert not (tmp_path / "results").exists()


def test_a_mistake_during_a_run_names_the_variant(tmp_path: Path, undrawn: None) -> None:
    variants = SMALL["variants"] | {"file": {"trace": {"kind": "azure", "path": "no.csv"}}}
    result = run(tmp_path, variants=variants)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: variant 'file': no.csv: found no such file")
    assert not list((tmp_path / "results").glob("*/study.json"))


def test_verify_goes_over_all_variants(tmp_path: Path, undrawn: None) -> None:
    result = run(tmp_path, "--quiet", "--verify")
    assert result.exit_code == 0, result.output
    naive, paged = result.stderr.splitlines()
    assert naive.startswith("naive: Verified: ")
    assert paged.startswith("paged: Verified: ")


def test_losses_say_whose_they_are(tmp_path: Path, undrawn: None) -> None:
    variants = SMALL["variants"] | {"short": {"engine.max_model_len": 64}}
    shown = run(tmp_path, variants=variants).stdout
    assert "! short: " in shown
    assert "answers clipped (max_tokens, max_model_len)" in shown


def test_variants_that_answer_nobody_are_shown_without_figures(tmp_path: Path) -> None:
    engine = SMALL["engine"] | {"max_model_len": 10}
    result = run(tmp_path, "--set", "trace.requests=3", engine=engine)
    assert result.exit_code == 0, result.output
    assert "! all variants: " in result.stdout
    (study,) = (path.parent for path in (tmp_path / "results").glob("*/study.json"))
    assert list((study / "figures").iterdir()) == []
