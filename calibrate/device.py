"""Devices as data: what a GPU can hold, move and compute, each with its source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from calibrate.host_link import HostLink
from calibrate.link import Link
from calibrate.naming import did_you_mean

_VENDOR_WORDS = ("nvidia", "geforce")


class DeviceError(ValueError):
    """A device that is not in devices.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One GPU. Rates are peaks for dense matrices, from the datasheet."""

    name: str
    cuda_name: str
    """What CUDA calls it; vLLM's defaults look for "a100" in it."""
    aliases: tuple[str, ...]
    memory_bytes: int
    """Total memory as CUDA reports it, less than the nameplate says."""
    nameplate_gb: int
    multiprocessors: int
    l2_bytes: int
    bandwidth_bytes_per_s: float
    bf16_flop_per_s: float
    fp8_flop_per_s: float | None
    """None where the tensor cores have no fp8."""
    int8_op_per_s: float
    link: Link | None
    """To the other GPUs of its node. None where it is not known: GeForce cards, whose drivers
    refuse peers, send through the host's memory."""
    host_link: HostLink
    source: str
    date: str
    """When the source was looked at."""

    @property
    def ridge_flop_per_byte(self) -> float:
        """The arithmetic intensity above which bf16 work is bound by compute, not memory."""
        return self.bf16_flop_per_s / self.bandwidth_bytes_per_s


def shipped_devices() -> Iterator[Device]:
    """All of them, in the order of devices.json."""
    rows = json.loads(files("calibrate").joinpath("devices.json").read_text(encoding="utf-8"))
    for name, row in rows.items():
        link = None if row["link"] is None else Link(**row["link"])
        host_link = HostLink(**row["host_link"])
        aliases = tuple(row["aliases"])
        yield Device(
            name=name, **(row | {"aliases": aliases, "link": link, "host_link": host_link})
        )


def load_device(name: str) -> Device:
    """The device of that name, in any spelling: `H200`, `nvidia h200`, `rtx4090`, `RTX 4090`.

    Raises DeviceError, with the nearest names and all known ones.
    """
    wanted = _key(name)
    devices = list(shipped_devices())
    for device in devices:
        if wanted in map(_key, (device.name, device.cuda_name, *device.aliases)):
            return device
    known = {_key(device.name): device.name for device in devices}
    raise DeviceError(f"unknown device {name!r}; {did_you_mean(wanted, known)}")


def _key(name: str) -> str:
    """A spelling reduced to what tells devices apart."""
    letters = "".join(c for c in name.casefold() if c.isalnum())
    for word in _VENDOR_WORDS:
        letters = letters.replace(word, "")
    return letters
