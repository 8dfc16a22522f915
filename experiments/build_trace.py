"""From what a config says of its trace to the requests."""

from __future__ import annotations

from experiments.config import Config
from experiments.workload_config import ChatTrace
from traces.reader import open_trace
from traces.schema import Trace


def build_trace(config: Config) -> Trace:
    """The requests. Raises TraceError for a file that fits no format."""
    trace = config.trace
    if isinstance(trace, ChatTrace):
        return trace.workload(seed=config.seed)
    options = trace.model_dump(exclude={"kind", "path"})
    return open_trace(trace.path, kind=trace.kind, **options)
