"""What the model needs of the dispatch to experts; it knows no more of it than this."""

from __future__ import annotations

from typing import Protocol

from caracal_kernels import GateWeights
from torch import Tensor

from services.attention_worker.model.step import Step


class MoEHandleLike(Protocol):
    """A MoE output that is being computed."""

    def finish(self, residual_TD: Tensor) -> Tensor:
        """residual + MoE(h); waits for the experts' replies."""
        ...


class DispatcherLike(Protocol):
    """Sends tokens to experts. `start` returns before anything has been answered."""

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> MoEHandleLike: ...
