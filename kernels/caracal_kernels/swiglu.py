"""A whole SwiGLU MLP. Legend: T rows, D hidden, F inner width."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.backend import compiled, on_triton
from caracal_kernels.linear import linear_reference
from caracal_kernels.swiglu_inner import swiglu_inner_reference


def swiglu_reference(x_TD: Tensor, gate_up_2FD: Tensor, down_DF: Tensor, residual_TD: Tensor | None = None) -> Tensor:
    return linear_reference(swiglu_inner_reference(x_TD, gate_up_2FD), down_DF, residual_TD)


def swiglu(x_TD: Tensor, gate_up_2FD: Tensor, down_DF: Tensor, residual_TD: Tensor | None = None) -> Tensor:
    """down(silu(gate x) * up x), plus the residual when given. The inner product is rounded once, to x's dtype."""
    if compiled(x_TD):
        y: Tensor = torch.ops.caracal.swiglu(x_TD, gate_up_2FD, down_DF, residual_TD)
        return y
    if on_triton(x_TD):
        from caracal_kernels.triton.swiglu import swiglu_triton

        return swiglu_triton(x_TD, gate_up_2FD, down_DF, residual_TD)
    return swiglu_reference(x_TD, gate_up_2FD, down_DF, residual_TD)
