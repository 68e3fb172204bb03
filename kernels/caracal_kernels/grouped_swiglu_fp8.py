"""SwiGLU of many experts, weights in block-scaled e4m3.

Legend: R rows, A (row, expert) assignments, G experts, D hidden, F inner, / 128 rounds up.
An op of its own beside `grouped_swiglu`: its numerics are another class, and its scales are never optional.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from caracal_kernels.linear import accumulate_reference
from caracal_kernels.linear_fp8 import linear_fp8_reference
from caracal_kernels.quantize import dequantize_reference, quantize_reference
from caracal_kernels.registry import define_op


def _swiglu_fp8(x_TD: Tensor, gate_up_2FD: Tensor, gate_up_scale: Tensor, down_DF: Tensor, scale: Tensor) -> Tensor:
    exact_TD = dequantize_reference(*quantize_reference(x_TD), rows=1)
    halves = zip(gate_up_2FD.chunk(2), gate_up_scale.chunk(2), strict=True)
    gate_TF, up_TF = (accumulate_reference(exact_TD, dequantize_reference(w, s)).double() for w, s in halves)
    return linear_fp8_reference((silu(gate_TF) * up_TF).to(x_TD.dtype), down_DF, scale)


def grouped_swiglu_fp8_reference(
    x_RD: Tensor,
    row_A: Tensor,
    expert_count_G: Tensor,
    gate_up: list[Tensor],
    gate_up_scale: list[Tensor],
    down: list[Tensor],
    down_scale: list[Tensor],
) -> Tensor:
    """[A, D] as `grouped_swiglu`, with e4m3 weights. x, and the inner product in x's dtype, are quantised 1 x 128.

    Scales are fp32: of gate_up [2 * (F/128), D/128], since gate and up are each cut into blocks of 128 x 128, of down
    [D/128, F/128]. The products of 128 inputs are summed, scaled and added in fp32, in ascending order.
    """
    rows_of = torch.split(row_A.long(), expert_count_G.tolist())
    experts = zip(rows_of, gate_up, gate_up_scale, down, down_scale, strict=True)
    parts = [_swiglu_fp8(x_RD[rows], *weights) for rows, *weights in experts]
    return torch.cat(parts) if parts else x_RD.new_empty((0, x_RD.shape[1]))


def _fake(x_RD: Tensor, row_A: Tensor, *_: object) -> Tensor:
    return x_RD.new_empty((row_A.shape[0], x_RD.shape[1]))


grouped_swiglu_fp8 = define_op(grouped_swiglu_fp8_reference, fake=_fake, triton="grouped_swiglu_fp8")
