"""Synthetic traces and transforms in a config: built as written, refused with reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import experiments.cli
from experiments.build_trace import build_trace
from experiments.config import load_config, parse_config
from experiments.errors import ConfigError
from experiments.follow import tell
from experiments.simulate import simulate
from sim.request import Request
from traces.contract import check_trace
from traces.native import NativeTrace, write_trace
from traces.schema import Trace, TraceError

POISSON = {"kind": "poisson", "rate": 5}
SYNTHETIC = {"kind": "synthetic", "requests": 50}
NESTED = """
trace:
  kind: merge
  traces:
    - name: chat
      trace: {kind: chat, requests: 100}
      transforms: [{kind: thin, keep: 0.5}]
    - name: bursts
      trace:
        kind: synthetic
        duration_s: 100
        arrivals: {kind: on_off, rate_on: 20, on_s: 1, off_s: 5}
        lengths: {prompt: {kind: zipf, exponent: 1, high: 900}}
        sharing: {kind: rag, documents: 5, document_tokens: 60, position: after}
        priorities: {0: 1, -1: 3}
        tenants: {a: 1}
    - name: sessions
      trace:
        kind: synthetic
        arrivals:
          kind: replayed
          trace: {kind: chat, requests: 9}
          transforms: [{kind: head, requests: 5}]
        lengths: {kind: joint, trace: {kind: chat, requests: 30}}
        sharing: {kind: sessions, opening: {kind: system_prompts, count: 2, tokens: 30}}
    - name: clients
      trace:
        kind: clients
        requests: 60
        clients:
          - {name: batch, arrivals: {kind: profile, rates: {0: 1, 30: 9}, period_s: 60}, n: {1: 1}}
        population: {count: 3, rate: 2}
transforms:
  - {kind: window, to_s: 300}
  - {kind: scale_rate, factor: 2}
  - {kind: truncate, max_output_tokens: 500}
  - {kind: relabel, forget: [priority]}
"""


def built(trace: dict[str, Any], transforms: list[dict[str, Any]] | None = None) -> Trace:
    return build_trace(parse_config({"trace": trace, "transforms": transforms or []}))


def error_of(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        parse_config(values)
    return str(refused.value)


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    path = tmp_path / "nested.yaml"
    path.write_text(NESTED)
    return path


def test_everything_nests(nested: Path) -> None:
    trace = build_trace(load_config(nested))
    check_trace(trace)
    requests = list(trace)
    assert {request.id.partition("/")[0] for request in requests} == {
        *("chat", "bursts", "sessions", "clients")
    }
    assert {request.priority for request in requests} == {0}
    assert trace.notes["chat: requests dropped to keep 0.5 of the sessions"] > 10


def test_a_resolved_config_is_a_config(nested: Path) -> None:
    """Weights by number have their keys in quotes there."""
    config = load_config(nested)
    text = yaml.safe_dump(config.model_dump(mode="json"))
    again = parse_config(yaml.safe_load(text))
    assert again == config
    assert build_trace(again).fingerprint() == build_trace(config).fingerprint()


def test_equal_sections_draw_different_requests() -> None:
    parts = [{"name": name, "trace": SYNTHETIC} for name in ("a", "b")]
    requests = list(built({"kind": "merge", "traces": parts}))
    arrivals = [
        [request.arrival_ns for request in requests if request.id.startswith(name)]
        for name in ("a", "b")
    ]
    assert arrivals[0] != arrivals[1]
    half = {"kind": "thin", "keep": 0.5}
    quarter = built({**SYNTHETIC, "requests": 400}, [half, half])
    assert len(list(quarter)) == pytest.approx(100, abs=3 * 75**0.5)


def test_the_seed_of_the_run_is_that_of_its_trace() -> None:
    config = {"trace": SYNTHETIC}
    zero, one = (build_trace(parse_config({**config, "seed": seed})) for seed in (0, 1))
    assert zero.fingerprint() != one.fingerprint()
    assert next(iter(zero)) != next(iter(one))


def test_sections_build_what_they_say() -> None:
    sharing = {"kind": "prompt_tree", "depth": 2, "branching": 3, "tokens_per_node": 7}
    lengths = {
        "prompt": {"kind": "uniform", "low": 2, "high": 2},
        "output": {"kind": "constant", "tokens": 4},
    }
    arrivals = {"kind": "constant", "rate": 2}
    trace = built({**SYNTHETIC, "sharing": sharing, "lengths": lengths, "arrivals": arrivals})
    requests = list(trace)
    assert [request.arrival_ns for request in requests[:3]] == [0, 500_000_000, 10**9]
    assert {request.prompt_tokens for request in requests} == {16}
    assert {request.output_tokens for request in requests} == {4}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"requests": None}, "trace.requests: found no end; allowed: requests, duration_s or both"),
        ({"requests": 0}, "trace.requests: found 0; allowed: greater than or equal to 1"),
        (
            {"arrivals": {"kind": "at_once"}, "requests": None, "duration_s": 5},
            "trace.requests: missing; allowed: how many requests arrive at once",
        ),
        (
            {"arrivals": {"kind": "poison", "rate": 5}},
            "trace.arrivals.kind: found 'poison'; did you mean poisson? Known: at_once, constant",
        ),
        ({"arrivals": {"kind": "poisson"}}, "trace.arrivals.rate: missing"),
        ({"arrivals": {**POISSON, "cv": 2}}, "trace.arrivals.cv: unknown key"),
        (
            {"arrivals": {"kind": "profile", "rates": {"0": 0}}},
            "trace.arrivals.rates: found no rate above 0",
        ),
        (
            {"arrivals": {"kind": "profile", "rates": {"90": 1}, "period_s": 60}},
            "trace.arrivals.rates: found a rate at 90 s; allowed: 0 to below period_s = 60",
        ),
        (
            {"arrivals": {"kind": "on_off", "rate_on": 1, "on_s": 1e-6, "off_s": 1}},
            "trace.arrivals: found 1e-06 requests expected per burst and pause; allowed: 0.001 or",
        ),
        (
            {"lengths": {"prompt": {"kind": "lognormal", "median": 5}}},
            "trace.lengths.prompt: found median; allowed: two of median, mean and sigma",
        ),
        (
            {"lengths": {"prompt": {"kind": "lognormal", "median": 5, "mean": 4}}},
            "trace.lengths.prompt.mean: found 4; allowed: median = 5 to ",
        ),
        (
            {"lengths": {"output": {"kind": "uniform", "low": 5, "high": 4}}},
            "trace.lengths.output.high: found 4; allowed: low = 5 or more",
        ),
        (
            {"sharing": {"kind": "prompt_tree", "depth": 9, "branching": 99, "tokens_per_node": 1}},
            "trace.sharing.branching: found a tree of more than 10**12 nodes",
        ),
        (
            {"sharing": {"kind": "sessions"}, "arrivals": {"kind": "at_once"}},
            "trace.arrivals: found 'at_once' with sessions",
        ),
        ({"tenants": {"a": 0}}, "trace.tenants: found no weight above 0; allowed: at least one"),
        ({"tenants": {"a": -1}}, "trace.tenants.a: found -1; allowed: greater than or equal to 0"),
        ({"n": {0: 1}}, "trace.n: found 0 answers; allowed: 1 to 16384"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes: dict[str, Any], error: str) -> None:
    assert error_of({"trace": {**SYNTHETIC, **changes}}).startswith(error)


@pytest.mark.parametrize(
    ("transform", "error"),
    [
        ({"kind": "window", "from_s": 5, "to_s": 5}, "1.to_s: found 5; allowed: above from_s = 5"),
        ({"kind": "thin", "keep": 0}, "1.keep: found 0; allowed: greater than 0"),
        ({"kind": "scale_rate", "factor": "x"}, "1.factor: found 'x'; allowed: a number"),
        ({"kind": "truncate"}, "1: found no limit; allowed: max_prompt_tokens, max_output"),
        ({"kind": "windows"}, "1.kind: found 'windows'; did you mean window?"),
        ({"kind": "relabel", "forget": ["tenants"]}, "1.forget.0: found 'tenants'; did you mean"),
    ],
)
def test_what_cannot_be_done_to_a_trace_is_refused(transform: dict[str, Any], error: str) -> None:
    values = {"trace": SYNTHETIC, "transforms": [{"kind": "head", "requests": 5}, transform]}
    assert error_of(values).startswith(f"transforms.{error}")


@pytest.mark.parametrize(
    ("trace", "error"),
    [
        ({"kind": "clients", "requests": 5}, "trace: found no clients; allowed: clients, popul"),
        (
            {"kind": "clients", "requests": 5, "clients": [{"name": "a"}, {"name": "a"}]},
            "trace.clients: found the name 'a' twice",
        ),
        (
            {
                "kind": "clients",
                "requests": 5,
                "clients": [{"name": "c0000"}],
                "population": {"count": 1, "rate": 1},
            },
            "trace.clients: found the name 'c0000'; allowed: another one",
        ),
        (
            {
                "kind": "clients",
                "requests": 5,
                "clients": [{"name": "a", "arrivals": {**POISSON, "rate": 0}}],
            },
            "trace.clients.0.arrivals.rate: found 0",
        ),
        ({"kind": "clients", "clients": [{"name": "a"}]}, "trace.requests: found no end"),
        (
            {"kind": "merge", "traces": [{"name": "a", "trace": {"kind": "chat", "requests": -1}}]},
            "trace.traces.0.trace.requests: found -1; allowed: a whole number from 1",
        ),
        ({"kind": "merge", "traces": [{"name": "a"}]}, "trace.traces.0.trace: missing"),
    ],
)
def test_mixes_that_make_no_sense_are_refused(trace: dict[str, Any], error: str) -> None:
    assert error_of({"trace": trace}).startswith(error)


def test_items_of_lists_can_be_set(nested: Path) -> None:
    overrides = ["transforms.1.factor=4", "trace.traces.0.trace.requests=20"]
    config = load_config(nested, overrides=overrides)
    assert config.model_dump()["transforms"][1]["factor"] == 4
    assert config.model_dump()["trace"]["traces"][0]["trace"]["requests"] == 20
    with pytest.raises(ConfigError, match=r"transforms is a list of 4, whose items count from 0"):
        load_config(nested, overrides=["transforms.4.factor=4"])
    with pytest.raises(ConfigError, match=r"^--set transforms.1.factor=0: transforms.1.factor: fo"):
        load_config(nested, overrides=["transforms.1.factor=0"])


@pytest.mark.parametrize("how", ["requests", "fork"])
def test_a_run_gives_several_answers(how: str, tmp_path: Path) -> None:
    values = {
        "model": "Llama-3.1-8B",
        "device": "H200",
        "engine": {"parallel_sampling": how},
        "trace": {**SYNTHETIC, "n": {4: 1}},
    }
    requests = simulate(parse_config(values), out=tmp_path).result.requests
    assert set(requests["branches"]) == {4}
    story = [text for text, _ in tell(parse_config(values), request="r00000", detailed_steps=1)]
    assert any("forks: 3 more answers" in line for line in story) == (how == "fork")


def test_a_native_trace_holds_n(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    line = {"request_id": "a", "arrival_ns": 5, "prompt": [[0, 0, 3]], "output_tokens": 2}
    path.write_text(json.dumps({**line, "out_stream": 1, "n": 4}))
    assert [request.n for request in NativeTrace(path)] == [4]
    path.write_text(json.dumps({**line, "out_stream": 1, "n": 0}))
    with pytest.raises(TraceError, match="found n = 0; allowed: a whole number from 1 to 16384"):
        list(NativeTrace(path))
    path.write_text(json.dumps({**line, "out_stream": 1, "beam": 4}))
    (request,) = NativeTrace(path)
    assert (request.n, request.beam) == (1, 4)
    write_trace(tmp_path / "again.jsonl", [request])
    assert list(NativeTrace(tmp_path / "again.jsonl")) == [request]
    path.write_text(json.dumps({**line, "out_stream": 1, "beam": 4, "n": 2}))
    with pytest.raises(TraceError, match="found both n and beam; allowed: one of them"):
        list(NativeTrace(path))


def generate(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(experiments.cli.main, ["trace", "generate", *arguments])
    return done.exit_code, done.output


def test_generate_writes_what_a_run_would_read(nested: Path, tmp_path: Path) -> None:
    out = tmp_path / "nested.jsonl.gz"
    code, said = generate(str(nested), "--out", str(out))
    assert code == 0, said
    requests = list(build_trace(load_config(nested)))
    assert list(NativeTrace(out)) == requests
    assert said.startswith(f"{len(requests):,} requests in ")
    assert "! chat: requests dropped to keep 0.5 of the sessions: " in said
    assert f"written: {out}" in said


def test_generate_needs_no_config(tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    options = ("--set", "trace.requests=20", "--set", "trace.arrivals.rate=1e3", "--set", "seed=3")
    assert generate("--out", str(out), *options)[0] == 0
    requests: list[Request] = list(NativeTrace(out))
    assert len(requests) == 20
    assert requests[-1].arrival_ns < 10**9
    before = out.read_bytes()
    code, said = generate("--out", str(out))
    assert (code, out.read_bytes()) == (2, before)
    assert said.startswith(f"Error: --out {out}: exists; allowed: another name, or --force")
    assert generate("--out", str(out), *options, "--force")[0] == 0
    assert out.read_bytes() == before


def test_generate_shows_any_name_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "a: [bold]b.jsonl"
    code, said = generate("--out", str(out), "--set", "trace.requests=2")
    assert code == 0
    assert f"written: {out}\n" in said
    hint = said.partition("replay it with ")[2]
    assert yaml.safe_load("{" + hint.strip() + "}") == {
        "trace": {"kind": "native", "path": str(out)}
    }


def test_generate_stopped_half_way_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(request: Request) -> bytes:
        if request.id == "r00003":
            raise KeyboardInterrupt
        return b"{}\n"

    out = tmp_path / "t.jsonl"
    out.write_text("mine")
    monkeypatch.setattr("traces.native._line", stopped)
    code, said = generate("--out", str(out), "--force", "--set", "trace.requests=9")
    assert (code, said) == (130, "Stopped; nothing was written.\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("t.jsonl", "mine")]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--out", "t.csv"], "--out t.csv: found 't.csv'; allowed: a name in .jsonl or .jsonl.gz"),
        (["--out", "no/t.jsonl"], "--out no/t.jsonl: no such folder: no"),
        (["no.yaml"], "no.yaml: no such config file"),
        (
            ["--set", "trace.arrivals.rates=3"],
            "--set trace.arrivals.rates=3: trace.arrivals.rates: unknown key; did you mean rate?",
        ),
        (["--set", "trace.duration_s=1e-9"], "synthetic: found no request within 1e-09 s"),
    ],
)
def test_generate_explains_mistakes(
    arguments: list[str], error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = generate(*arguments)
    assert code == 2
    assert said.startswith(f"Error: {error}")
    assert list(tmp_path.iterdir()) == []
