"""The name of a run: equal names, equal results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from platform import python_version
from uuid import uuid4

from calibrate.steptime import StepTime
from experiments.deployment import Deployment
from experiments.executed import Executed
from experiments.latency_config import ReplayLatency, StepsLatency
from sim.latency import LatencyModel

_SOURCES = ("sim", "traces", "calibrate", "experiments")
_SHOWN_DIGITS = 12


def name_run(deployment: Deployment, *, trace_fingerprint: str, latency: LatencyModel) -> str:
    """`<config name>-<hash>`; the hash covers whatever the results depend on.

    That is: the resolved config (with the source of each class of the user's own), the content of
    trace, model, device, files of step times and latency table, the result schema, and pagesim's
    own code (which names a changed checkout, too).
    What was executed cannot be had again: every such run has a name of its own.
    """
    from experiments.tables import RESULT_SCHEMA

    config = deployment.config
    contents = {
        "config": config.model_dump(mode="json"),
        "trace": trace_fingerprint,
        "model": None if deployment.model is None else asdict(deployment.model),
        "device": None if deployment.device is None else asdict(deployment.device),
        "durations": _digest_file(config.latency),
        "latency_table": latency.table.fingerprint() if isinstance(latency, StepTime) else None,
        "executed": uuid4().hex if isinstance(latency, Executed) else None,
        "result_schema": RESULT_SCHEMA,
        "pagesim": [_version("pagesim"), digest_code()],
    }
    return name_by(config.name, contents)


def name_by(name: str, contents: object) -> str:
    """`<name>-<hash>`: equal for equal contents, which JSON can hold."""
    text = json.dumps(contents, sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:_SHOWN_DIGITS]}"


def read_versions() -> dict[str, str]:
    """What computed the results: pagesim, its code, and what it computes with."""
    return {
        "pagesim": _version("pagesim"),
        "code": digest_code(),
        "python": python_version(),
        "numpy": _version("numpy"),
        "simpy": _version("simpy"),
    }


@cache
def digest_code() -> str:
    """Sha256 (hex) of all that pagesim consists of, so that a changed checkout shows."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in _SOURCES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in (".py", ".json"):
                digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _digest_file(latency: object) -> str | None:
    if not isinstance(latency, ReplayLatency | StepsLatency):
        return None
    return hashlib.sha256(Path(latency.path).read_bytes()).hexdigest()
