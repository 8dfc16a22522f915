"""On what it is measured: device, software, clocks, load."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from calibrate.measure.errors import MeasureError

_KERNELS = Path(__file__).parents[1] / "kernels"
_ASKED = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit")
_NOW = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_event_reasons.active")
_CPU_SHARE = 4
_CPU_MOST = 4 << 30
_CUDA_SHARE = 0.9


def find_device(name: str) -> torch.device:
    """cpu, cuda or cuda:1. Raises MeasureError for what torch does not see."""
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["cpu", *(["cuda"] if seen else []), *(f"cuda:{index}" for index in range(seen))]
    if name not in known:
        raise MeasureError(
            f"--device: found {name}, which torch {torch.__version__} does not see; allowed:"
            f" {', '.join(known)}"
        )
    return torch.device(name)


def free_bytes(device: torch.device) -> int:
    """Memory that weights and KV cache may take: most of a GPU's, a part of a host's."""
    if device.type == "cuda":
        return int(_CUDA_SHARE * torch.cuda.mem_get_info(device)[0])
    try:
        told = Path("/proc/meminfo").read_text(encoding="ascii")
        available = next(line for line in told.splitlines() if line.startswith("MemAvailable"))
        return min(_CPU_MOST, int(available.split()[1]) * 1024 // _CPU_SHARE)
    except (OSError, StopIteration):
        return _CPU_MOST // _CPU_SHARE


def describe(device: torch.device) -> dict[str, Any]:
    """What a header says of the machine, as it is now."""
    cuda = device.type == "cuda"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    settings: dict[str, Any] = {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    if cuda and torch.version.cuda:
        versions["cuda"] = torch.version.cuda
    if find_spec("triton") is not None:
        import triton

        versions["triton"] = triton.__version__
    for name, value in (_ask_driver(device, _ASKED) if cuda else {}).items():
        (versions if name == "driver_version" else settings)[name] = value
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu ({_cpu_name()})",
        "versions": versions,
        "settings": settings | {"kernel_hash": hash_kernels()},
        "date": time.strftime("%Y-%m-%d"),
    }


def hash_kernels() -> str:
    """Sha256 (16 hex digits) of the kernels' sources."""
    digest = hashlib.sha256()
    for path in sorted(_KERNELS.rglob("*")):
        if path.suffix in (".py", ".cpp", ".cu"):
            digest.update(path.relative_to(_KERNELS).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_clocks(device: torch.device) -> dict[str, str]:
    """How fast a GPU runs at this moment, and what holds it back (a bit mask of NVML's)."""
    return _ask_driver(device, _NOW) if device.type == "cuda" else {}


def _ask_driver(device: torch.device, fields: tuple[str, ...]) -> dict[str, str]:
    """What nvidia-smi says; nothing where it is not there."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        line = done.stdout.splitlines()[device.index or 0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return {}
    return dict(zip(fields, (value.strip() for value in line.split(",")), strict=False))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
