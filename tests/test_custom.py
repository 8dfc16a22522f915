"""Classes of the user's own in a config: what they are given, what is refused, what names a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from experiments.build_router import build_router
from experiments.cli import main as pagesim
from experiments.config import Config, parse_config
from experiments.custom_parts import settle_custom
from experiments.errors import ConfigError
from experiments.results import load_result
from experiments.verify import BlockTrail, serve, verify

POLICIES = '''
from copy import copy

from calibrate.roofline import Roofline
from sim.latency import WholeSteps
from sim.cluster import RoundRobin
from sim.fast.steady import Steady
from sim.kv.paged import Paged
from sim.kv.prefix import PrefixCached
from sim.scheduling.orders import Fcfs
from sim.scheduling.vllm import VllmScheduler

GIVEN = []


class LastComeFirst(VllmScheduler):
    """Notes what it is given."""

    def __init__(self, *, kv, limits, max_model_len, seats=None, marks=()):
        GIVEN.append((kv.num_blocks, limits.max_num_batched_tokens, max_model_len, seats, marks))
        super().__init__(kv=kv, order=Fcfs(), limits=limits)

    def add(self, sequence):
        self.order.add_preempted(sequence)


class Promising(Steady):
    pass


class Half:
    def __init__(self, *, kv, limits):
        self.kv = kv


class Unmade:
    def __init__(self, *, kv, limits, weight=1):
        raise ValueError(f"no such weight: {weight}")


class Stuck(VllmScheduler):
    """Plans nothing."""

    def _admit_waiting(self, plan, cap, budget):
        from sim.plan import Limit

        return Limit.SEATS


class Beginnings(PrefixCached):
    def __init__(self, num_blocks, *, block_size, tokens):
        super().__init__(num_blocks, block_size=block_size)
        self.tokens = tokens

    def publish(self, sequence, tokens):
        super().publish(sequence, min(tokens, self.tokens))


class Smaller(Paged):
    def __init__(self, num_blocks, *, block_size):
        super().__init__(num_blocks - 1, block_size=block_size)


class NoPool:
    """A cache that is none of ours."""

    def __init__(self, num_blocks, *, block_size):
        self._kv = Paged(num_blocks, block_size=block_size)

    def __getattr__(self, name):
        return getattr(self._kv, name)


class AlwaysLast:
    def __call__(self, engines, request):
        return engines[-1]


class Elsewhere:
    def __call__(self, engines, request):
        return copy(engines[0])


class Nowhere:
    def __call__(self, engines, request):
        return None


class Even(WholeSteps):
    """Every step takes as long."""

    source = "an even clock"

    def __init__(self, *, step_ns, engine):
        GIVEN.append((engine.block_size, engine.max_num_seqs))
        self.step_ns = step_ns

    def durations(self, plan, k):
        return [self.step_ns] * k


class Weary(Even):
    """Goes wrong where the contract does not look."""

    def durations(self, plan, k):
        return [self.step_ns if plan.step < 20 else -1] * k


class Growing(Even):
    """Remembers what it was asked."""

    def durations(self, plan, k):
        self.step_ns += k
        return [self.step_ns] * k


class Ajar(Even):
    def alone(self, computed_before, n):
        return computed_before / n


class Final(Even):
    def __init_subclass__(cls, *, tag):
        pass


class Slower(Roofline):
    def __init__(self, *, model, device, by):
        super().__init__(model, device)
        self._by = by

    def durations(self, plan, k):
        return [self._by * each for each in super().durations(plan, k)]


def a_function():
    pass
'''

CONFIG: dict[str, Any] = {
    "engine": {
        "num_gpu_blocks_override": 400,
        "max_model_len": 4096,
        "max_num_seqs": 2,
        "max_num_batched_tokens": 256,
    },
    "latency": {
        "kind": "linear",
        "base_ns": 4_000_000,
        "per_token_ns": 25_000,
        "per_context_token_ns": 10,
    },
    "trace": {"kind": "chat", "requests": 8, "sessions_per_second": 50},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with policies.py, that nobody else has imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr("experiments.figures.draw", lambda *_: [])
    (tmp_path / "policies.py").write_text(POLICIES, encoding="utf-8")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def custom(name: str, **options: Any) -> dict[str, Any]:
    return {"kind": "custom", "path": f"policies:{name}", "options": options}


def values_of(**parts: Any) -> dict[str, Any]:
    """The config with these in its engine, `router` in its cluster, and other parts themselves."""
    others = {name: parts.pop(name) for name in ("latency", "model", "device") if name in parts}
    values = {**CONFIG, **others, "engine": CONFIG["engine"] | parts}
    if router := values["engine"].pop("router", None):
        values["cluster"] = {"replicas": 2, "router": router}
    return values


def invoke(command: str, *options: str, **parts: Any) -> Result:
    Path("mine.yaml").write_text(yaml.safe_dump(values_of(**parts)), encoding="utf-8")
    return CliRunner().invoke(pagesim, [command, "mine.yaml", *options])


def run(**parts: Any) -> Path:
    result = invoke("run", "--quiet", **parts)
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


def refusal(command: str = "run", *options: str, **parts: Any) -> str:
    result = invoke(command, *options, **parts)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr.removeprefix("Error: ").strip()


def config_of(**parts: Any) -> Config:
    return parse_config(values_of(**parts))


def test_a_scheduler_is_given_what_it_names_and_its_options(here: Path) -> None:
    config = run(scheduler=custom("LastComeFirst", seats=3, marks=["a"]))
    assert sys.modules["policies"].GIVEN == [(400, 256, 4096, 3, ["a"])]
    ours = load_result(run()).requests
    theirs = load_result(config).requests
    assert sorted(ours["request"]) == sorted(theirs["request"])
    assert list(ours["request"]) != list(theirs["request"])


def test_the_summary_names_the_class_and_its_source(here: Path) -> None:
    folder = run(scheduler=custom("LastComeFirst"), router=custom("AlwaysLast"))
    result = load_result(folder)
    notes = [note for note in result.summary["run"]["notes"] if "policies" in note]
    source = result.config["engine"]["scheduler"]["source"]
    assert notes == [
        f"engine.scheduler: policies:LastComeFirst of policies.py, sha256 {source[:12]}",
        f"cluster.router: policies:AlwaysLast of policies.py, sha256 {source[:12]}",
    ]


def test_a_changed_source_is_another_run(here: Path) -> None:
    first, again = (run(scheduler=custom("LastComeFirst")) for _ in range(2))
    assert first == again
    text = POLICIES.replace("add_preempted", "add")
    (here / "policies.py").write_text(text, encoding="utf-8")
    changed = run(scheduler=custom("LastComeFirst"))
    assert changed != first
    sources = {
        load_result(folder).config["engine"]["scheduler"]["source"] for folder in (first, changed)
    }
    assert len(sources) == 2
    # What ran is what the file says now: first come, first served.
    assert load_result(changed).requests.equals(load_result(run()).requests)


def test_a_resolved_config_asks_for_the_source_it_was_resolved_with(here: Path) -> None:
    folder = run(scheduler=custom("LastComeFirst"))
    resolved = str(folder / "config.yaml")
    again = CliRunner().invoke(pagesim, ["run", resolved, "--quiet"])
    assert Path(again.stdout.strip()) == folder
    (here / "policies.py").write_text(POLICIES + "\n\n", encoding="utf-8")
    refused = CliRunner().invoke(pagesim, ["run", resolved, "--quiet"])
    assert refused.exit_code == 2
    assert "engine.scheduler.source: found " in refused.stderr
    assert "but policies.py is now " in refused.stderr


def test_the_plain_loop_asks_for_no_promise(here: Path) -> None:
    """So that --verify compares a scheduler that promises with one that does not."""
    for name, promises in (("Promising", True), ("LastComeFirst", False)):
        config = config_of(scheduler=custom(name))
        decided = {}
        for loop in ("fast", "plain"):
            (engine,) = serve(config, loop, BlockTrail()).cluster.engines
            decided[loop] = engine.decisions, engine.steps
        assert decided["plain"][0] == decided["plain"][1] == decided["fast"][1]
        assert (decided["fast"][0] < decided["fast"][1]) == promises


def test_a_cache_is_given_its_blocks_and_shares_as_it_likes(here: Path) -> None:
    room = {"num_gpu_blocks_override": 4000}
    caches = [{"kv_cache": custom("Beginnings", tokens=tokens)} for tokens in (0, 256, 10**6)]
    results = [load_result(run(**cache, **room)) for cache in (*caches, {})]
    *hits, ours = [result.requests["hit_tokens"].sum() for result in results]
    assert 0 == hits[0] < hits[1] < hits[2] == ours


def test_a_cache_may_be_none_of_ours(here: Path) -> None:
    assert verify(config_of(kv_cache=custom("NoPool"))).difference is None


def test_a_map_shows_a_cache_that_is_a_pool(here: Path) -> None:
    result = invoke(
        "blocks", kv_cache=custom("Beginnings", tokens=64), scheduler=custom("Promising")
    )
    assert result.exit_code == 0, result.output
    assert "of 399 blocks are held" in result.output
    said = refusal("blocks", kv_cache=custom("NoPool"))
    assert said.startswith("engine.kv_cache.kind: found custom; allowed: paged, or custom with a")


def test_a_story_is_told_of_any_scheduler(here: Path) -> None:
    request = ("--request", "s00000-t0")
    result = invoke("follow", *request, scheduler=custom("LastComeFirst"))
    assert result.exit_code == 0, result.output
    assert "the last; it is never computed" in result.output
    said = refusal("follow", *request, kv_cache=custom("NoPool"))
    assert said.startswith("engine.kv_cache.kind: found custom; allowed: paged, since a story")


def test_a_router_decides(here: Path) -> None:
    result = load_result(run(router=custom("AlwaysLast")))
    assert set(result.requests["replica"]) == {1}


def test_a_clock_tells_the_time(here: Path) -> None:
    result = load_result(run(latency=custom("Even", step_ns=3_000_000)))
    assert sys.modules["policies"].GIVEN == [(16, 2)]
    assert result.summary["about"]["latency"] == "an even clock"
    steps = result.steps
    assert (steps.end_ns - steps.start_ns == 3_000_000 * steps["steps"]).all()
    slower = load_result(run(latency=custom("Even", step_ns=4_000_000)))
    assert slower.path != result.path


def test_a_clock_is_given_model_and_device_by_name(here: Path) -> None:
    parts = {"model": "Llama-3.1-8B", "device": "H100"}
    roofline = load_result(run(latency={"kind": "roofline"}, **parts))
    slower = load_result(run(latency=custom("Slower", by=2), **parts))
    first, second = (each.step_ends.end_ns.iloc[0] for each in (roofline, slower))
    arrival = roofline.requests.arrival_ns.min()
    assert second - arrival == 2 * (first - arrival)


def test_a_clock_is_verified(here: Path) -> None:
    result = invoke("run", "--verify", "--quiet", latency=custom("Even", step_ns=3_000_000))
    assert result.exit_code == 0, result.output
    assert "Verified" in result.stderr


def test_variants_may_be_custom(here: Path) -> None:
    values = values_of() | {
        "variants": {
            "ours": {"engine.max_num_seqs": 3},
            "mine": {"engine.scheduler": custom("LastComeFirst")},
            "my cache": {"engine.kv_cache": custom("NoPool")},
        }
    }
    Path("study.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    result = CliRunner().invoke(pagesim, ["run", "study.yaml", "--quiet", "--verify"])
    assert result.exit_code == 0, result.output
    study = json.loads((Path(result.stdout.strip()) / "study.json").read_text(encoding="utf-8"))
    assert sorted(study["variants"]) == ["mine", "my cache", "ours"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"scheduler": {"kind": "custom", "path": "policies"}},
            "mine.yaml:8: engine.scheduler.path: found 'policies'; allowed: module:Class",
        ),
        ({"scheduler": "custom"}, "engine.scheduler.path: missing; allowed: the class as"),
        (
            {"scheduler": {"kind": "custom", "path": "polices:LastComeFirst"}},
            "engine.scheduler.path: polices:LastComeFirst cannot be imported: No module named"
            " 'polices'; allowed: a module in ",
        ),
        (
            {"scheduler": custom("LastComesFirst")},
            "engine.scheduler.path: found policies:LastComesFirst, but policies.py has no"
            " LastComesFirst; did you mean LastComeFirst? Known: Ajar, AlwaysLast,",
        ),
        (
            {"scheduler": custom("a_function")},
            "engine.scheduler.path: found policies:a_function, which is a function; allowed: a"
            " class",
        ),
        (
            {"scheduler": {"kind": "custom", "path": "builtins:dict"}},
            "engine.scheduler.path: found builtins:dict, which no file defines",
        ),
        (
            {"scheduler": custom("LastComeFirst", seat=3)},
            "engine.scheduler: policies:LastComeFirst does not take (kv=..., limits=...,"
            " max_model_len=..., seat=...): got an unexpected keyword argument 'seat'; allowed"
            " options: seats, marks",
        ),
        (
            {"scheduler": custom("LastComeFirst", kv=3)},
            "engine.scheduler.options: found kv, which pagesim itself gives",
        ),
        (
            {"scheduler": custom("Half")},
            "engine.scheduler.path: found policies:Half, which has no add, check, commit,",
        ),
        (
            {"scheduler": custom("Unmade", weight=7)},
            "engine.scheduler: policies:Unmade cannot be made with its options: policies.py:",
        ),
        (
            {"scheduler": custom("Half"), "scheduling_policy": "priority"},
            "engine.scheduling_policy: found priority; allowed with policies:Half: fcfs",
        ),
        (
            {"scheduler": custom("Half"), "parallel_sampling": "fork"},
            "engine.parallel_sampling: found fork; allowed with policies:Half: requests",
        ),
        (
            {"scheduler": custom("LastComeFirst"), "async_scheduling": True},
            "engine.async_scheduling: leaves several batches in flight; allowed with"
            " scheduler.kind custom: one",
        ),
        (
            {"kv_cache": custom("Beginnings")},
            "engine.kv_cache: policies:Beginnings does not take (..., block_size=...): missing a"
            " required",
        ),
        (
            {"kv_cache": custom("Smaller")},
            "engine.kv_cache.path: found policies:Smaller with 399 blocks of 16 tokens; allowed:"
            " the memory it is given, 400 blocks of 16",
        ),
        (
            {"kv_cache": custom("NoPool"), "enable_prefix_caching": True},
            "engine.enable_prefix_caching: found true; allowed with kv_cache.kind custom: null",
        ),
        (
            {"kv_cache": custom("NoPool"), "preemption": {"kind": "swap"}},
            "engine.preemption.kind: found swap; allowed with kv_cache.kind custom: recompute",
        ),
        (
            {"latency": custom("Slower", by=2), "device": "H100"},
            "model: missing; needed for latency.path, whose class asks for it",
        ),
        (
            {"latency": custom("Even", step_ns=2.5e6)},
            "latency.path: policies:Even says that step 0 and those that repeat it take"
            " [2500000.0, ",
        ),
        (
            {"latency": custom("Weary", step_ns=10**6)},
            "latency.path: policies:Weary says that step ",
        ),
        (
            {"latency": custom("Growing", step_ns=10**6)},
            "latency: policies:Growing fails sim.contract.check_latency_model: ",
        ),
        (
            {"latency": custom("Final", step_ns=10**6)},
            "latency.path: policies:Final cannot be subclassed: ",
        ),
        (
            {"latency": custom("Ajar", step_ns=10**6)},
            "latency: policies:Ajar fails sim.contract.check_latency_model: policies.py:",
        ),
        (
            {"latency": custom("AlwaysLast")},
            "latency.path: found policies:AlwaysLast, which has no alone, durations, host_ns,",
        ),
        (
            {"router": custom("Half")},
            "cluster.router: policies:Half does not take (): missing a required",
        ),
        (
            {"router": custom("Nowhere")},
            "cluster.router.path: policies:Nowhere sends request s00000-t0 to None; allowed: one"
            " of the 2 engines it is given",
        ),
        (
            {"router": custom("Elsewhere")},
            "sends request s00000-t0 to <sim.engine.Engine object",
        ),
        ({"scheduler": custom("Stuck")}, "replica 0 stalled at "),
    ],
)
def test_what_cannot_be_is_refused(here: Path, parts: dict[str, Any], message: str) -> None:
    assert message in refusal(**parts)
    left = Path("results")
    assert not left.exists() or not [*left.iterdir()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nimport no_such_thing\n", "broken.py:2: ModuleNotFoundError: No module named"),
        ("x = 1\n\nx = x +\n", "broken.py:3: SyntaxError: invalid syntax"),
        ("from enum import IntEnum\nclass A(IntEnum):\n    B = 'b'\n", "broken.py:2: ValueError"),
        ("raise SystemExit(3)\n", "broken.py:1: SystemExit: 3"),
    ],
)
def test_what_fails_while_it_is_imported_has_a_place(here: Path, text: str, message: str) -> None:
    (here / "broken.py").write_text(text, encoding="utf-8")
    path = "engine.scheduler.path: broken:Mine cannot be imported: "
    assert path + message in refusal(scheduler={"kind": "custom", "path": "broken:Mine"})


def test_a_class_without_a_call_is_no_router(here: Path) -> None:
    config = settle_custom(config_of(router={"kind": "custom", "path": "decimal:Context"}))
    with pytest.raises(ConfigError, match=r"decimal:Context, which has no __call__"):
        build_router(config.cluster)
