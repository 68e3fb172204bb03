"""The exchange with experts as the ranks see it: rank 0 has it, the others are told what came of it.

A broadcast carries the rows after the layer and one row more, whose first value says whether rank 0 gave the step up.
Legend: T tokens, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from services.attention_worker.model.interfaces import DispatcherLike, GateWeights, MoEHandleLike
from services.attention_worker.model.step import Step


class StepOver(Exception):
    """On the other ranks: rank 0 gave the step up."""


class GaveUp(Exception):
    """On rank 0: the step has no result, `why`, and every rank knows."""

    def __init__(self, why: Exception) -> None:
        super().__init__("rank 0 gave the step up")
        self.why = why


class Broadcasts(Protocol):
    """What is needed of the group."""

    def broadcast(self, tensor: Tensor) -> None: ...


@dataclass(frozen=True, slots=True)
class FailedHandle:
    """A start that failed: the others hear of it where they wait for the result."""

    error: Exception

    def finish(self, residual_TD: Tensor) -> Tensor:
        raise self.error


@dataclass(frozen=True, slots=True)
class Rank0Handle:
    """On rank 0: a result that the others wait for."""

    group: Broadcasts
    pending: MoEHandleLike

    def finish(self, residual_TD: Tensor) -> Tensor:
        flag_D = residual_TD.new_zeros((1, residual_TD.shape[1]))
        try:
            x_TD = self.pending.finish(residual_TD)
        except Exception as error:  # whatever it is, the other ranks must not go on waiting
            self.group.broadcast(torch.cat([residual_TD, flag_D + 1]))
            raise GaveUp(error) from error
        self.group.broadcast(torch.cat([x_TD, flag_D]))
        return x_TD


@dataclass(frozen=True, slots=True)
class FollowerHandle:
    """On the others: rank 0's result."""

    group: Broadcasts

    def finish(self, residual_TD: Tensor) -> Tensor:
        told = residual_TD.new_empty((len(residual_TD) + 1, residual_TD.shape[1]))
        self.group.broadcast(told)
        if told[-1, 0]:
            raise StepOver
        return told[:-1]


@dataclass(frozen=True, slots=True)
class Rank0Dispatcher:
    """Rank 0's: what is sent leaves at once, as without other ranks."""

    group: Broadcasts
    inner: DispatcherLike

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> MoEHandleLike:
        try:
            return Rank0Handle(self.group, self.inner.start(layer, h_TD, gate, step))
        except Exception as error:  # noqa: BLE001 - told in `finish`
            return Rank0Handle(self.group, FailedHandle(error))


@dataclass(frozen=True, slots=True)
class FollowerDispatcher:
    """Everybody else's."""

    group: Broadcasts

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> MoEHandleLike:
        return FollowerHandle(self.group)
