"""SwiGLU of many experts over sorted rows.

Legend: R rows, A (row, expert) assignments, G experts, D hidden, F inner.
"""

from __future__ import annotations

from torch import Tensor

from caracal_kernels.registry import define_op
from caracal_kernels.swiglu import swiglu_reference


def grouped_swiglu_reference(
    x_RD: Tensor, row_A: Tensor, expert_count_G: Tensor, gate_up: list[Tensor], down: list[Tensor]
) -> Tensor:
    """[A, D]: y[p] = swiglu of its expert on x[row_A[p]]; the first `expert_count_G[0]` assignments are the first's."""
    y_AD = x_RD.new_empty((len(row_A), x_RD.shape[1]))
    start = 0
    for count, gate_up_2FD, down_DF in zip(expert_count_G.tolist(), gate_up, down, strict=True):
        rows = row_A[start : start + count].long()
        y_AD[start : start + count] = swiglu_reference(x_RD[rows], gate_up_2FD, down_DF)
        start += count
    return y_AD


def _fake(x_RD: Tensor, row_A: Tensor, *_: object) -> Tensor:
    return x_RD.new_empty((row_A.shape[0], x_RD.shape[1]))


grouped_swiglu = define_op(grouped_swiglu_reference, fake=_fake, triton="grouped_swiglu")
