"""What the model needs of the dispatch to experts; it knows no more of it than this.

Legend: T tokens, D hidden, F FFN experts, W workers, L layers, N counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from caracal_kernels import GateConfig, GateWeights
from torch import Tensor

from services.attention_worker.model.step import Step

if TYPE_CHECKING:
    from services.attention_worker._native import InFlight


class MoEHandleLike(Protocol):
    """A MoE output that is being computed."""

    def finish(self, residual_TD: Tensor) -> Tensor:
        """residual + MoE(h); waits for the experts' replies."""
        ...


class DispatcherLike(Protocol):
    """Sends tokens to experts. `start` returns before anything has been answered."""

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> MoEHandleLike: ...


class ExchangeLike(Protocol):
    """What native code needs to exchange rows with experts by itself: one placement table, and the sessions with all of
    its workers. It holds as long as `scatterer` has this generation."""

    scatterer: object  # a capsule of services/transport/native/scatterer.h
    generation: int
    epoch: int
    serial_W: Tensor
    replica_offset_LF: list[Tensor]
    replica_worker_L: list[Tensor]
    gate: GateConfig
    drops_zero: bool
    wire_dtype: int
    timeout_s: float
    leaves_overdue: bool  # native code leaves a layer whose reply is overdue to `resume`
    count_LN: Tensor  # int64; native code adds to its rows, and to those of the next
    seconds_LN: Tensor  # float64
    shadow: Tensor  # int64 [1]: of 2^32, the share of layers' calls that native code hands to `keep`

    def count_calls(self, messages: int) -> None:
        """Counts messages that native code has sent."""
        ...

    def keep(self, layers: Sequence[InFlight]) -> None:
        """Takes layers whose calls are to be computed again elsewhere, and whose replies were all well."""
        ...

    def resume(self, layer: int, step: Step, interrupted: InFlight) -> MoEHandleLike:
        """What goes on with an interrupted layer: it asks again for what is missing."""
        ...


@runtime_checkable
class ExchangingDispatcher(DispatcherLike, Protocol):
    """A dispatcher that can leave the exchange to native code."""

    def exchange(self, tokens: int, dtype: torch.dtype) -> ExchangeLike | None:
        """The exchange for so many rows of a dtype, on the CPU; None when some of it needs Python now."""
        ...
