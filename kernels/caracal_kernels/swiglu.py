"""A whole SwiGLU MLP. Legend: T rows, D hidden, F inner width."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.linear import linear_reference
from caracal_kernels.registry import define_op
from caracal_kernels.swiglu_inner import swiglu_inner_reference


def swiglu_reference(x_TD: Tensor, gate_up_2FD: Tensor, down_DF: Tensor, residual_TD: Tensor | None = None) -> Tensor:
    """down(silu(gate x) * up x), plus the residual when given. The inner product is rounded once, to x's dtype."""
    return linear_reference(swiglu_inner_reference(x_TD, gate_up_2FD), down_DF, residual_TD)


def _fake(x_TD: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x_TD)


swiglu = define_op(swiglu_reference, fake=_fake, triton="swiglu")
