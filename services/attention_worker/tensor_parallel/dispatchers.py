"""Dispatchers of a tensor-parallel worker: rank 0 dispatches to the experts and broadcasts the result to the followers.

A broadcast carries the rows after the layer and one more row, whose first value is 1 when rank 0 aborted the step.
Legend: T tokens, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from caracal_kernels import GateWeights
from torch import Tensor

from services.attention_worker.model.interfaces import DispatcherLike, MoEHandleLike
from services.attention_worker.model.step import Step


class StepAborted(Exception):
    """Raised on followers: rank 0 has aborted the step."""


class DispatchFailed(Exception):
    """Raised on rank 0: the dispatch failed with `error`, and the followers have been notified."""

    def __init__(self, error: Exception) -> None:
        super().__init__("the dispatch failed, the step is aborted on every rank")
        self.error = error


class Broadcasts(Protocol):
    """What the dispatchers need of the ranks' group."""

    def broadcast(self, tensor: Tensor) -> None: ...


@dataclass(frozen=True, slots=True)
class FailedHandle:
    """A dispatch whose start failed: `finish` raises the error, since the followers wait there."""

    error: Exception

    def finish(self, residual_TD: Tensor) -> Tensor:
        raise self.error


@dataclass(frozen=True, slots=True)
class Rank0Handle:
    """A MoE output on rank 0, which `finish` broadcasts to the followers."""

    group: Broadcasts
    inner: MoEHandleLike

    def finish(self, residual_TD: Tensor) -> Tensor:
        flag_1D = residual_TD.new_zeros((1, residual_TD.shape[1]))
        try:
            x_TD = self.inner.finish(residual_TD)
        except Exception as error:  # of any kind: the followers must not go on waiting
            self.group.broadcast(torch.cat([residual_TD, flag_1D + 1]))
            raise DispatchFailed(error) from error
        self.group.broadcast(torch.cat([x_TD, flag_1D]))
        return x_TD


@dataclass(frozen=True, slots=True)
class FollowerHandle:
    """A MoE output on a follower, which `finish` receives from rank 0. It raises StepAborted."""

    group: Broadcasts

    def finish(self, residual_TD: Tensor) -> Tensor:
        received = residual_TD.new_empty((len(residual_TD) + 1, residual_TD.shape[1]))
        self.group.broadcast(received)
        if received[-1, 0]:
            raise StepAborted
        return received[:-1]


@dataclass(frozen=True, slots=True)
class Rank0Dispatcher:
    """Rank 0's dispatcher: it sends rows through `inner`. A handle's `finish` raises DispatchFailed."""

    group: Broadcasts
    inner: DispatcherLike

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> MoEHandleLike:
        try:
            return Rank0Handle(self.group, self.inner.start(layer, h_TD, gate, step))
        except Exception as error:  # noqa: BLE001 - raised in `finish`
            return Rank0Handle(self.group, FailedHandle(error))


@dataclass(frozen=True, slots=True)
class FollowerDispatcher:
    """A follower's dispatcher: it sends nothing and waits for rank 0's results."""

    group: Broadcasts

    def start(self, layer: int, h_TD: Tensor, gate: GateWeights, step: Step) -> MoEHandleLike:
        return FollowerHandle(self.group)
