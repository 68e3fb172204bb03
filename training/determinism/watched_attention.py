"""Attention whose output and gradient can be computed twice (legend: training/model/attention.py)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from training.determinism.recorded import Recorded
from training.determinism.watch import Watch
from training.model.attention import Groups, attend


class WatchedAttention:
    """Takes the place of `attend` in one attention."""

    def __init__(self, watch: Watch, name: str) -> None:
        self.watch, self.name = watch, name

    def __call__(self, q_THQ: Tensor, k_THQ: Tensor, v_THU: Tensor, groups: Groups) -> Tensor:
        if not self.watch.active:
            return attend(q_THQ, k_THQ, v_THU, groups)
        out: Tensor = _Attend.apply(q_THQ, k_THQ, v_THU, groups, self)  # type: ignore[no-untyped-call]
        return out


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, groups: Groups, by: WatchedAttention) -> Tensor:
        ctx.by = by
        ctx.done = by.watch.computed(Recorded(partial(attend, groups=groups), q, k, v), "attention", by.name)
        output: Tensor = ctx.done.output
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        by: WatchedAttention = ctx.by
        return *by.watch.gradients(ctx.done, grads[0], "attention", by.name), None, None
