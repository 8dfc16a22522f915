"""What an engine was started with, as a config says it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.case import CaseError
from experiments.engine_config import Engine
from sim.scheduling.versions import VERSIONS

_RENAMED = {"policy": "scheduling_policy", "num_gpu_blocks": "num_gpu_blocks_override"}
_OTHERWISE = {
    *("async_scheduling", "pipeline_parallel_size", "kv_cache_dtype", "scheduler", "enforce_eager"),
    *("cudagraph_mode", "cudagraph_capture_sizes"),
}
_WITHOUT_EFFECT = {
    *("seed", "load_format", "skip_tokenizer_init", "trust_remote_code", "disable_log_stats"),
    *("num_hidden_layers", "hidden_size", "model", "gpu", "case", "vllm_version", "provenance"),
    *("profile_dir", "workload", "tokenizer", "download_dir", "host", "port", "note"),
}
_NONE_OF = {"data_parallel_size": (1, None), "enable_expert_parallel": (False, None)}
"""What is not simulated: options, and the values that ask for nothing."""


class Options(NamedTuple):
    """Recorded options, as far as they are known here."""

    engine: dict[str, Any]
    """The section `engine` of a config."""
    capture_sizes: tuple[int, ...]
    notes: tuple[str, ...]


def settle(options: Mapping[str, Any], *, version: str, place: str) -> Options:
    """Recorded options as a config's section.

    Options that are null are left to their defaults. Unknown ones are named in `notes`: a
    newer engine has more of them, and most decide nothing here. Raises CaseError for values
    of known ones that are not simulated.
    """
    notes, engine = [], {}
    unknown = []
    for name, value in options.items():
        ours = _RENAMED.get(name, name)
        if name in _NONE_OF and value not in _NONE_OF[name]:
            raise CaseError(f"{place}: {name}: found {value!r}; allowed: {_NONE_OF[name][0]!r}")
        if value is None or name in _OTHERWISE or name in _WITHOUT_EFFECT or name in _NONE_OF:
            continue
        if ours in Engine.model_fields:
            engine[ours] = value
        else:
            unknown.append(f"{name}={value}")
    if unknown:
        notes.append(f"options that are not known here, and left out: {', '.join(unknown)}")
    kv_dtype = str(options.get("kv_cache_dtype") or "auto")
    engine["kv_cache_dtype"] = kv_dtype.partition("(")[0].strip()
    rules, said = choose_rules(version)
    engine["scheduler"] = {"kind": "vllm", "version": rules}
    if said:
        notes.append(said)
    if options.get("async_scheduling"):
        engine["async_scheduling"] = True
    stages = options.get("pipeline_parallel_size") or 1
    if stages != 1:
        engine["pipeline_parallel_size"] = stages
    return Options(engine, _read_capture_sizes(options, place), tuple(notes))


def choose_rules(version: str) -> tuple[str, str | None]:
    """Which of the matched versions decides as this one did: itself or the nearest older one.

    Returns its name, and what to say where it is another. Raises CaseError for no version.
    """
    found = _numbers(version)
    if found is None:
        raise CaseError(f"vllm_version: found {version!r}; allowed: numbers, as in 0.19.0")
    known = sorted(VERSIONS, key=lambda name: _numbers(name) or ())
    older = [name for name in known if (_numbers(name) or ()) <= found]
    chosen = older[-1] if older else known[0]
    if _numbers(chosen) == found:
        return chosen, None
    which = "nearest older" if older else "oldest"
    return chosen, f"vLLM {version} is scheduled by the rules of {chosen}, the {which} known ones"


def _numbers(version: str) -> tuple[int, int] | None:
    """Major and minor: patches change no rule."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return None if match is None else (int(match[1]), int(match[2]))


def _read_capture_sizes(options: Mapping[str, Any], place: str) -> tuple[int, ...]:
    """`1,2,4,8..256 step 8` or a list; nothing where the engine ran without graphs."""
    mode = str(options.get("cudagraph_mode") or "")
    if options.get("enforce_eager") or mode.upper().startswith("NONE"):
        return ()
    said = options.get("cudagraph_capture_sizes") or ()
    pieces = said.split(",") if isinstance(said, str) else [str(size) for size in said]
    sizes: list[int] = []
    for piece in pieces:
        match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+)(?: step (\d+))?)?\s*", piece)
        if match is None or int(match[1]) < 1 or match[3] == "0":
            raise CaseError(
                f"{place}: cudagraph_capture_sizes: found {piece!r}; allowed: sizes, as in"
                " 1,2,4,8..256 step 8"
            )
        last = int(match[2] or match[1])
        sizes += range(int(match[1]), last + 1, int(match[3] or 1))
    return tuple(sizes)
