"""What the model needs of the exchange with experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from services.attention_worker.model.step import Step


@dataclass(frozen=True, slots=True)
class GateWeights:
    """The router of one layer, fp32: classifier [E, D] and selection bias [E]."""

    classifier_ED: Tensor
    bias_E: Tensor


class MoEHandleLike(Protocol):
    """A MoE output on its way home."""

    def finish(self, residual_TD: Tensor) -> Tensor: ...


class DispatcherLike(Protocol):
    """Where tokens meet experts; `start` returns before anything has been answered."""

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> MoEHandleLike: ...
