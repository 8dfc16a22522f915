"""What every latency model must do: cost the same at once as one by one."""

from __future__ import annotations

import numpy as np

from sim.latency import LatencyModel
from sim.moves import Copy
from sim.plan import Chunk, DecodeList, Plan
from sim.request import Request, Sequence


def check_latency_model(latency: LatencyModel) -> None:
    """One code path: k durations are k times one, each a whole number of nanoseconds; a
    chunk by itself costs nothing where it is empty, and many are priced as each of them; no swap
    costs nothing. Host time is a part of every step."""
    assert isinstance(latency.source, str), f"source is {latency.source!r}, and no text"
    for name in ("modelled", "knows_alone"):
        said = getattr(latency, name)
        assert type(said) is bool, f"{name} is {said!r}, neither True nor False"
    host_ns = latency.host_ns
    assert type(host_ns) is int, f"host_ns is {host_ns!r}, and no int"
    assert host_ns >= 0, "host_ns is negative"
    for chunks, contexts in (((), (17, 900)), (((0, 512),), ()), (((512, 100), (0, 1)), (5,) * 40)):
        together = latency.durations(_plan(chunks, contexts, step=0), 9)
        strange = [duration for duration in together if type(duration) is not int]
        assert not strange, f"a step takes {strange[0]!r} ns, which is no int"
        assert min(together) > 0, "a step that takes no time"
        assert min(together) >= host_ns, f"a step takes {min(together)} ns, and its host {host_ns}"
        for j in range(len(together)):
            later = _plan(chunks, tuple(context + j for context in contexts), step=j)
            (alone,) = latency.durations(later, 1)
            assert alone == together[j], f"step {j} of a stretch costs {together[j]}, not {alone}"
    plan = _plan((), (17, 900), step=0)
    (without,) = latency.durations(plan, 1)
    plan.copies = [Copy(1, 2, sequence, 900) for sequence in plan.decodes]
    assert latency.durations(plan, 1)[0] >= without, "copies that take less than no time"
    before, n = np.array([0, 64, 100, 7]), np.array([64, 64, 0, 1])
    alone_ns = latency.alone(before, n)
    assert alone_ns.dtype == np.int64, f"alone gives {alone_ns.dtype}, not int64"
    each_ns = [latency.alone(*each) for each in zip(before, n, strict=True)]
    assert alone_ns.tolist() == each_ns, "chunks cost something else together than each of them"
    assert alone_ns[2] == 0, "an empty chunk costs time"
    swap_ns = latency.swap(0 * n, 0 * n)
    assert swap_ns.dtype == np.int64, f"swap gives {swap_ns.dtype}, not int64"
    assert not swap_ns.any(), "nothing is swapped, and takes time"
    if latency.knows_alone:
        assert (alone_ns[[0, 1, 3]] > 0).all(), "a chunk costs no time"


def _plan(chunks: tuple[tuple[int, int], ...], contexts: tuple[int, ...], *, step: int) -> Plan:
    decodes = DecodeList()
    nobody = Request("nobody", 0, ((0, 0, 1),), 1, 1)
    for index, context in enumerate(contexts):
        decodes.add(Sequence.of(nobody, index=index), context=context)
    rows = [Chunk(Sequence.of(nobody, index=0), before, n) for before, n in chunks]
    return Plan(decodes=decodes, chunks=rows, step=step)
