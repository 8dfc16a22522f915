"""Where the step times of a case come from, and the config under which it is served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from experiments.case import Case, CaseError
from experiments.errors import ConfigError

if TYPE_CHECKING:
    from experiments.config import Config
    from experiments.deployment import Deployment
    from experiments.recorded import RecordedRun
    from sim.latency import LatencyModel
    from sim.request import Request

Kind = Literal["profile", "aiconfigurator", "steps", "replay", "roofline"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Fitted = Literal["host_ns", "launch_ns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was asked for; `kind` None is the case's profile, else its own steps."""

    kind: Kind | None = None
    steps_of: Path | None = None
    """Fit the step model on this case's steps instead of the case's own."""
    tables: Path | None = None
    """The unpacked wheel of aiconfigurator-core; None: the installed one."""
    host_ns: int | None = None
    """Host time of every step; None: the step model's own, and none beside kernels."""
    fitted: Fitted = "host_ns"
    """What `Setting.build` is given."""
    overrides: tuple[str, ...] = ()
    """Values of the config to replace, as `engine.x=y` or `latency.x=y`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything that serving a case needs, but for the host time that may be fitted."""

    kind: Kind
    deployment: Deployment
    build: Callable[[int | None], LatencyModel]
    """The clock under a host time, or what else is fitted, in ns; None: what was asked for."""
    notes: tuple[str, ...]
    requests: Sequence[Request] | None = None
    """The case's own at other arrivals, where recorded steps are replayed."""


def set_up(case: Case, choice: Choice) -> Setting:
    """Raises CaseError where the case lacks what `choice` needs, ConfigError for options that
    cannot be simulated, and what tables, models and devices raise."""
    from experiments.build import build_latency

    kind = _choose(case, choice)
    if choice.fitted == "launch_ns" and kind not in ("profile", "aiconfigurator"):
        raise ConfigError(f"--fit-launch: found times from {kind}; allowed: from kernels' tables")
    if kind == "replay":
        return _replay(case, choice)
    deployment, notes = deploy(case, choice, kind)
    latency = deployment.config.latency
    if kind == "steps":
        make, told = _fit_steps(case, choice)
        return Setting(kind=kind, deployment=deployment, build=make, notes=(*notes, *told))

    def build(host_ns: int | None) -> LatencyModel:
        if host_ns is None:
            return build_latency(deployment)
        under = latency.model_copy(update={choice.fitted: host_ns})
        changed = deployment.config.model_copy(update={"latency": under})
        return build_latency(replace(deployment, config=changed))

    return Setting(kind=kind, deployment=deployment, build=build, notes=notes)


def deploy(
    case: Case, choice: Choice | None = None, kind: Kind = "steps"
) -> tuple[Deployment, tuple[str, ...]]:
    """The engine of a case, and what should be known of it. A GPU that is not known does no harm
    where nothing is derived from it."""
    from calibrate.device import DeviceError
    from experiments.deployment import resolve

    choice = choice or Choice()
    config = _parse(case, _describe(case, choice, kind), choice.overrides)
    notes: tuple[str, ...] = ()
    try:
        deployment = resolve(config)
    except DeviceError as unknown:
        try:
            deployment = resolve(config.model_copy(update={"device": None}))
        except ConfigError:
            raise unknown from None
        notes = (f"{config.device} is not a GPU that is known here: nothing is derived from it",)
    return deployment, (*notes, *deployment.notes)


def _choose(case: Case, choice: Choice) -> Kind:
    if choice.steps_of is not None and choice.kind not in (None, "steps"):
        raise ConfigError(
            f"--steps-of: found it beside --latency {choice.kind}; allowed: with --latency steps"
        )
    kind = choice.kind or ("steps" if choice.steps_of else None)
    if kind is None:
        kind = "profile" if case.profile else "steps" if case.steps else None
    if kind is None:
        raise CaseError(
            f"{case.folder}: found neither a profile/ of its kernels nor steps.csv; allowed:"
            " --latency aiconfigurator or roofline, or --steps-of another case"
        )
    if kind == "profile" and case.profile is None:
        raise CaseError(f"{case.folder}: --latency profile: found no folder profile/")
    if choice.host_ns is not None and kind == "replay":
        raise ConfigError("--host-ms: allowed: not with --latency replay, whose steps are whole")
    return kind


def _describe(case: Case, choice: Choice, kind: Kind) -> dict[str, Any]:
    """The section `latency`. A clock that is made here, of steps, has none of its own: its file is
    named and never read."""
    host = {"host_ns": choice.host_ns or 0}
    measured: dict[str, Any] = {"kind": "imported", **host}
    if case.capture_sizes:
        measured["capture_sizes"] = list(case.capture_sizes)
    match kind:
        case "profile":
            return {**measured, "source": "llmservingsim", "path": str(case.profile)}
        case "aiconfigurator":
            path = None if choice.tables is None else str(choice.tables)
            return {**measured, "source": "aiconfigurator", "path": path}
        case "roofline":
            return {"kind": "roofline", **host}
    return {"kind": "replay", "path": str(case.steps or choice.steps_of)}


def _parse(case: Case, latency: dict[str, Any], overrides: Iterable[str]) -> Config:
    import yaml

    from experiments.config import parse_config
    from experiments.source import Source

    values = {**case.values, "latency": latency}
    source = Source(case.folder, text=yaml.safe_dump(values, sort_keys=False))
    for assignment in overrides:
        if assignment.partition(".")[0] not in ("engine", "latency"):
            raise ConfigError(f"--set {assignment}: allowed: engine.KEY or latency.KEY")
        if assignment.startswith("latency.host_ns="):
            raise ConfigError(f"--set {assignment}: allowed: --host-ms")
        source.override(assignment)
    return parse_config(source.values, source=source)


def _fit_steps(
    case: Case, choice: Choice
) -> tuple[Callable[[int | None], LatencyModel], tuple[str, ...]]:
    from calibrate.step_fit import fit_steps
    from calibrate.step_log import read_step_log
    from calibrate.step_model import StepModel
    from traces.file import TraceFile

    path = case.steps if choice.steps_of is None else choice.steps_of / "steps.csv"
    if path is None or not path.is_file():
        raise CaseError(
            f"{path or case.folder}: found no steps.csv; allowed: a case with a step log"
        )
    log = read_step_log(TraceFile(path))
    fit = fit_steps(log)
    folder = path.resolve().parent
    whose = folder.name
    off = 100 * fit.random.errors.mean
    told = [f"steps of {whose}: {what}: {count:,}" for what, count in log.notes.items()]
    if folder == case.folder.resolve():
        told.append("the step model is fitted on the steps of this very run")

    def build(host_ns: int | None) -> LatencyModel:
        host = choice.host_ns if host_ns is None else host_ns
        host = fit.host_ns if host is None else host
        source = (
            f"fitted on {len(log.duration_ns):,} steps of {whose}; unseen ones {off:.1f} % off on"
            f" average; host {host} ns a step"
        )
        return StepModel(fit.prices, fit.seen, host_ns=host, source=source)

    return build, tuple(told)


def _replay(case: Case, choice: Choice) -> Setting:
    """The recorded step times, and every arrival at the step that saw it."""
    from experiments.durations import Recording
    from experiments.recorded import RecordingError, read_rows, read_run

    steps = case.steps
    if steps is None:
        raise CaseError(f"{case.folder}: --latency replay: found no steps.csv")
    try:
        run = read_run(case.folder)
        durations = _end_before_idling(run, read_rows(steps))
        seen = {request.id: request.arrival_ns for request in run.requests}
        requests = [replace(request, arrival_ns=seen[request.id]) for request in case.requests]
    except ConfigError:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise RecordingError(f"{case.folder}: cannot be replayed: {error!r}") from None
    deployment, notes = deploy(case, choice, "replay")
    return Setting(
        kind="replay",
        deployment=deployment,
        build=lambda _: Recording(steps, durations),
        notes=notes,
        requests=sorted(requests, key=lambda request: request.arrival_ns),
    )


def _end_before_idling(run: RecordedRun, log: list[dict[str, str]]) -> list[int]:
    """Durations of recorded steps: to the next one's begin, or to its own end where the engine had
    nothing to do after it, so that all who are in the next step only then came."""
    from experiments.recorded import to_ns

    durations = list(run.durations_ns or ())
    seen = {request.id: request.arrival_ns for request in run.requests}
    for at, following in enumerate(run.steps[1:]):
        if all(seen[name] == following.start_ns for name, *_ in following.rows):
            row = log[at]
            durations[at] = to_ns(row["update_end_s"]) - to_ns(row["sched_begin_s"])
    return durations
