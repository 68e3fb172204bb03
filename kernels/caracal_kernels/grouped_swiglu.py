"""SwiGLU of many experts over sorted rows. Legend: R rows, P (row, expert) pairs, G experts, D hidden, F inner."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.backend import compiled, on_triton
from caracal_kernels.swiglu import swiglu_reference


def grouped_swiglu_reference(
    x_RD: Tensor, row_A: Tensor, expert_count_G: Tensor, gate_up: list[Tensor], down: list[Tensor]
) -> Tensor:
    y_AD = x_RD.new_empty((len(row_A), x_RD.shape[1]))
    start = 0
    for count, gate_up_2FD, down_DF in zip(expert_count_G.tolist(), gate_up, down, strict=True):
        rows = row_A[start : start + count].long()
        y_AD[start : start + count] = swiglu_reference(x_RD[rows], gate_up_2FD, down_DF)
        start += count
    return y_AD


def grouped_swiglu(
    x_RD: Tensor, row_A: Tensor, expert_count_G: Tensor, gate_up: list[Tensor], down: list[Tensor]
) -> Tensor:
    """[P, D]: y[p] = swiglu of its expert on x[row_A[p]]; the first `expert_count_G[0]` pairs are the first's."""
    if compiled(x_RD):
        y: Tensor = torch.ops.caracal.grouped_swiglu(x_RD, row_A, expert_count_G, gate_up, down)
        return y
    if on_triton(x_RD):
        from caracal_kernels.triton.grouped_swiglu import grouped_swiglu_triton

        return grouped_swiglu_triton(x_RD, row_A, expert_count_G, gate_up, down)
    return grouped_swiglu_reference(x_RD, row_A, expert_count_G, gate_up, down)
