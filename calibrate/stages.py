"""Pipeline stages: which layers a GPU holds, and how many weights that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calibrate.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One of several GPUs (or tensor-parallel groups) that a token passes through in turn."""

    index: int
    stages: int
    layers: int

    @property
    def first(self) -> bool:
        """It holds the embedding."""
        return self.index == 0

    @property
    def last(self) -> bool:
        """It holds the output head, and samples."""
        return self.index == self.stages - 1

    def parameters(self, model: Model) -> int:
        """How many numbers its weights are. A head that is tied to the embedding is held a
        second time where the two lie on different stages. Raises ModelError where the model's
        weights are not counted."""
        if self.stages == 1:
            return model.parameters
        counted = model.weights or model.experts
        return (
            self.layers * counted.layer + self.first * counted.before + self.last * counted.behind
        )

    def describe(self) -> str:
        """In words; empty for the only one."""
        if self.stages == 1:
            return ""
        ends = [name for name, held in (("embedding", self.first), ("head", self.last)) if held]
        held = " and ".join([f"{self.layers} layer" + "s" * (self.layers > 1), *ends])
        return f", stage {self.index + 1} of {self.stages}: {held}"


def divide_layers(layers: int, stages: int) -> list[Stage]:
    """As vLLM does (get_pp_indices in vllm/distributed/utils.py): equal shares, and what is left
    over goes one by one to the last stage but one and those before it, as the last one has the
    head.

    Raises ValueError where a stage would have no layer.
    """
    if not 1 <= stages <= layers:
        raise ValueError(
            f"pipeline_parallel_size must lie between 1 and the model's {layers} layers, got"
            f" {stages}"
        )
    share, rest = divmod(layers, stages)
    return [
        Stage(
            index=index,
            stages=stages,
            layers=share + (stages - 1 - rest <= index < stages - 1),
        )
        for index in range(stages)
    ]
