"""A whole SwiGLU MLP in two launches. Legend: T rows, D hidden, F inner width."""

from __future__ import annotations

from torch import Tensor

from caracal_kernels.triton.arguments import check
from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.swiglu_inner import swiglu_inner_triton
from caracal_kernels.triton.tiles import Tile


def swiglu_triton(
    x_TD: Tensor, gate_up_2FD: Tensor, down_DF: Tensor, residual_TD: Tensor | None = None, tile: Tile | None = None
) -> Tensor:
    """As the op `swiglu`. `tile` is for tests and tuning."""
    f = down_DF.shape[1]
    check("swiglu", x_TD, gate_up=(gate_up_2FD, (2 * f, x_TD.shape[1])), down=(down_DF, (x_TD.shape[1], f)))
    return linear_triton(swiglu_inner_triton(x_TD, gate_up_2FD, tile=tile), down_DF, residual_TD, tile=tile)
