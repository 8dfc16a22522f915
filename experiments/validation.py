"""A case, predicted and judged: everything that is said of it, as JSON has it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from experiments.case import Case, find_repeats, read_case
from experiments.case_clock import Choice, Setting, deploy, set_up
from experiments.case_fit import HostFit, fit_host
from experiments.case_kernels import THEM, read_theirs
from experiments.case_serve import Served, serve
from experiments.fidelity import compare, compare_totals
from experiments.kv_estimate import estimate_blocks
from sim.latency import LatencyModel

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """One case with its predictions beside what it took."""

    case: Case
    predicted: pd.DataFrame
    others: dict[str, pd.DataFrame]
    """Beside ours: repeats of the real run (`repeat q-m70`), another simulator's predictions."""
    report: dict[str, Any]
    """As --json writes it (docs/background/fidelity.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is wanted beside the comparison."""

    fitting: bool = False
    budget: bool = False
    events: bool = False


def validate_case(folder: Path, choice: Choice, asked: Asked) -> Validation:
    """Read, serve and compare a case. Raises what `read_case`, `set_up` and `replay_events`
    raise."""
    from experiments.budget import list_budget
    from experiments.event_replay import replay_events

    case = read_case(folder)
    setting = set_up(case, choice)
    fit = _fit(case, setting) if asked.fitting else None
    clock = setting.build(None if fit is None else fit.ns)
    served = serve(case, setting.deployment, clock, requests=setting.requests)
    others = _list_others(case)
    report: dict[str, Any] = {
        **_report(case, setting, clock, served),
        "fitted": None if fit is None else _judge(case, setting, choice, fit, served.predicted),
        "others": {name: _compare_other(case, frame, fit) for name, frame in others.items()},
        "kv_blocks": estimate_blocks(case, setting.deployment),
        "options": setting.deployment.config.engine.model_dump(mode="json"),
    }
    if asked.budget:
        report["budget"] = list(list_budget(case, _fix(choice, fit, clock), setting))
    if asked.events:
        report["events"] = replay_events(case, setting.deployment, clock)
    return Validation(case=case, predicted=served.predicted, others=others, report=report)


def judge_clock(folder: Path, clock: LatencyModel) -> dict[str, Any]:
    """What is said of a case under a clock that is there already."""
    case = read_case(folder)
    deployment, notes = deploy(case)
    setting = Setting(kind="steps", deployment=deployment, build=lambda _: clock, notes=notes)
    report = _report(case, setting, clock, serve(case, deployment, clock))
    return {**report, "others": {}}


def _list_others(case: Case) -> dict[str, pd.DataFrame]:
    repeats = {f"repeat {each.name}": each.real for each in find_repeats(case)}
    theirs = read_theirs(case)
    return repeats if theirs is None else {**repeats, THEM: theirs}


def _compare_other(case: Case, other: pd.DataFrame, fit: HostFit | None) -> dict[str, Any]:
    """On the half that judges a fit, too: like with like."""
    told = compare(case.real, other)
    if fit is not None:
        told["second_half"] = compare(case.real.loc[fit.second], other)
    return told


def _report(case: Case, setting: Setting, clock: LatencyModel, served: Served) -> dict[str, Any]:
    return {
        "case": case.name,
        "engine": case.made_by,
        "latency": {
            "kind": setting.kind,
            "source": clock.source,
            "modelled": clock.modelled,
            "host_ns": clock.host_ns,
        },
        **compare(case.real, served.predicted),
        **compare_totals(case.real, served.predicted),
        "notes": [*case.notes, *setting.notes, *served.notes],
    }


def _fit(case: Case, setting: Setting) -> HostFit:
    return fit_host(case.real, lambda ns: _predict(case, setting, ns))


def _fix(choice: Choice, fit: HostFit | None, clock: LatencyModel) -> Choice:
    """The same with what was fitted as if it had been asked for."""
    if fit is None or choice.fitted == "host_ns":
        return replace(choice, host_ns=clock.host_ns)
    return replace(choice, overrides=(*choice.overrides, f"latency.launch_ns={fit.ns}"))


def _predict(case: Case, setting: Setting, ns: int | None) -> pd.DataFrame:
    clock = setting.build(ns)
    return serve(case, setting.deployment, clock, requests=setting.requests).predicted


def _judge(
    case: Case, setting: Setting, choice: Choice, fit: HostFit, fitted: pd.DataFrame
) -> dict[str, Any]:
    """Both halves under the fitted time, and under the one that was there before."""
    before = _predict(case, setting, None)
    unfitted_ns = setting.build(None).host_ns if choice.fitted == "host_ns" else 0
    return {
        choice.fitted: fit.ns,
        f"unfitted_{choice.fitted}": unfitted_ns,
        "how": "the sum of end-to-end times of the requests that arrived first",
        "simulations": fit.runs,
        "floored": fit.floored,
        "first_half": compare(case.real.loc[fit.first], fitted),
        "second_half": compare(case.real.loc[fit.second], fitted),
        "unfitted": compare(case.real, before),
        "unfitted_second_half": compare(case.real.loc[fit.second], before),
    }
