"""What the GPUs of a tensor-parallel group tell one another, and how long that takes: a model.

A collective takes a latency and the time of its bytes on a ring::

    all-reduce of S bytes over p GPUs:  latency + 2 (p - 1)/p x S / (efficiency x bytes/s)
    all-gather, S bytes gathered:       latency +   (p - 1)/p x S / (efficiency x bytes/s)

which is the least that any algorithm has to send over one GPU's link (Patarasuk and Yuan, Bandwidth
optimal all-reduce algorithms for clusters of workstations, JPDC 69, 2009; "bus bandwidth" in
nccl-tests, doc/PERFORMANCE.md). NVLink SHARP, which adds within the switch, sends less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from calibrate import weights

if TYPE_CHECKING:
    from calibrate.device import Device
    from calibrate.model import Model
    from sim.latency import Counts

LINK_EFFICIENCY = 0.65
"""Share of a link's bytes/s that collectives reach.

Set on vLLM's all-reduce in CUDA graphs as aiconfigurator-core 0.12 measured it (2, 4 and 8 GPUs;
4,096 to 67 million numbers): with it the model takes 0.83 to 0.96 times as long in the median on
A100, H100, H200 and B200, from 0.33 to 1.44 times at the worst size. PCIe is slower with each
GPU: of L40S and RTX PRO 6000 two are within 0.84 to 1.06, but four take 4 and 1.5 times as long as
this says, eight 6 and 1.8 times (medians).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What connects the GPUs of one node."""

    name: str
    bytes_per_s: float
    """Of one GPU in one direction: half of what datasheets add up."""
    pair_ns: int
    """A collective of two GPUs that moves next to nothing."""
    further_gpu_ns: int
    """What each GPU after the second adds to that."""
    most_gpus: int
    """So many lie in one node; the links between nodes are not modelled."""
    peers: bool
    """Whether every pair of GPUs has its own way, as through an NVSwitch; else they share a bus."""
    source: str
    date: str
    """When the source was looked at."""


@dataclass(frozen=True, slots=True)
class Ring:
    """So many GPUs on one link. Raises ValueError for more than the link connects, and for an
    efficiency outside (0, 1]."""

    link: Link
    gpus: int
    efficiency: float = LINK_EFFICIENCY

    def __post_init__(self) -> None:
        if not 0 < self.efficiency <= 1:
            raise ValueError(f"link_efficiency must lie in (0, 1], got {self.efficiency}")
        if not 2 <= self.gpus <= self.link.most_gpus:
            raise ValueError(
                f"{self.link.name} connects 2 to {self.link.most_gpus} GPUs of a node, got"
                f" {self.gpus}; the link between nodes is not modelled"
            )

    @classmethod
    def of(cls, device: Device, gpus: int, *, efficiency: float = LINK_EFFICIENCY) -> Ring:
        """GPUs of one kind. Raises ValueError where their link is not known, too."""
        if device.link is None:
            raise ValueError(
                f"found {gpus} x {device.name}, between which no link is known; allowed:"
                " communication none, which takes no time"
            )
        return cls(device.link, gpus, efficiency)

    @property
    def latency_ns(self) -> int:
        """Of one collective, however little it moves."""
        return self.link.pair_ns + (self.gpus - 2) * self.link.further_gpu_ns

    @property
    def gathered_byte_ns(self) -> float:
        """Each byte of an all-gather's result; an all-reduce takes twice that."""
        share = (self.gpus - 1) / self.gpus
        return 1e9 * share / (self.efficiency * self.link.bytes_per_s)

    def all_reduce_ns(self, size: float) -> float:
        """Of so many bytes, which every GPU has before and after."""
        return self.latency_ns + 2 * self.gathered_byte_ns * size

    def all_gather_ns(self, size: float) -> float:
        """Of so many bytes, which every GPU has afterwards."""
        return self.latency_ns + self.gathered_byte_ns * size

    def describe(self) -> str:
        """The assumptions, in words, with what they are known to leave out."""
        link = self.link
        words = (
            f"{link.name}, {link.bytes_per_s / 1e9:g} GB/s a direction x {self.efficiency:g},"
            f" {self.latency_ns / 1e3:g} us a call"
        )
        if self.gpus > 2 and not link.peers:
            words += " (on a shared bus more than two GPUs were measured 1.5 to 6 times slower)"
        return words


class Communication(NamedTuple):
    """What a step's collectives take, in nanoseconds: constant, by token, by row of logits."""

    step_ns: float
    token_ns: float
    row_ns: float

    @classmethod
    def of(cls, model: Model, ring: Ring) -> Communication:
        """As vLLM divides a model: `all_reduces` of hidden states, one all-gather of logits."""
        calls = all_reduces(model)
        return cls(
            step_ns=(calls + 1) * ring.latency_ns,
            token_ns=calls * 2 * ring.gathered_byte_ns * token_bytes(model),
            row_ns=ring.gathered_byte_ns * row_bytes(model),
        )

    def at(self, tokens: Counts, rows: int) -> Any:
        """Nanoseconds of a step of so many tokens and rows of logits."""
        return self.step_ns + tokens * self.token_ns + rows * self.row_ns


NO_COMMUNICATION = Communication(0.0, 0.0, 0.0)


def all_reduces(model: Model) -> int:
    """In each layer behind attention and behind the MLP, and one behind the embedding, whose
    rows are divided, too (vLLM's VocabParallelEmbedding)."""
    return 2 * model.layers + 1


def token_bytes(model: Model) -> int:
    """What one all-reduce moves of a token: its hidden state."""
    return model.hidden_size * weights.BYTES


def row_bytes(model: Model) -> int:
    """What the all-gather makes of a row: logits of the whole vocabulary."""
    return model.vocab_size * weights.BYTES
