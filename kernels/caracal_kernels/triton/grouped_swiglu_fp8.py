"""SwiGLU of many experts in block-scaled e4m3: quantise, gate and up, quantise, down.

Legend: R rows, A (row, expert) assignments, G experts, D hidden, F inner width, S scales of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.triton.arguments import check, check_all
from caracal_kernels.triton.grouped_swiglu import down_launch, gate_up_launch
from caracal_kernels.triton.quantize import quantize_triton
from caracal_kernels.triton.tiles import FP8_BLOCK, Tile, tile_for


def _check(
    x: Tensor, gate_up: list[Tensor], gate_up_scale: list[Tensor], down: list[Tensor], scale: list[Tensor]
) -> None:
    op, d, f = "grouped_swiglu_fp8", x.shape[1], len(gate_up[0]) // 2
    d_blocks, f_blocks = -(-d // FP8_BLOCK), -(-f // FP8_BLOCK)
    check_all(op, gate_up[0], "gate_up", gate_up, (2 * f, d))
    check_all(op, gate_up_scale[0], "gate_up_scale", gate_up_scale, (2 * f_blocks, d_blocks))
    check_all(op, gate_up[0], "down", down, (d, f))
    check_all(op, gate_up_scale[0], "down_scale", scale, (d_blocks, f_blocks))
    if not len(gate_up) == len(gate_up_scale) == len(down) == len(scale):
        raise RuntimeError(f"{op}: gate_up, down and their scales are of different numbers of experts")


def grouped_swiglu_fp8_triton(
    x_RD: Tensor, row_A: Tensor, expert_count_G: Tensor,
    gate_up: list[Tensor], gate_up_scale: list[Tensor], down: list[Tensor], down_scale: list[Tensor],
    y_AD: Tensor | None = None, tile: Tile | None = None,
) -> Tensor:  # fmt: skip
    """As the op `grouped_swiglu_fp8`. `y_AD` receives the result; `tile` is for tests and tuning."""
    assignments, d = len(row_A), x_RD.shape[1]
    y_AD = x_RD.new_empty((assignments, d)) if y_AD is None else y_AD
    check("grouped_swiglu_fp8", x_RD, y=(y_AD, (assignments, d)))
    if not assignments:
        return y_AD
    _check(x_RD, gate_up, gate_up_scale, down, down_scale)
    f = down[0].shape[1]
    x_q_RD, x_scale_RS = quantize_triton(x_RD)
    inner_AF = x_RD.new_empty((assignments, f))
    rows = assignments // len(down)
    shape = tile or tile_for(f, d, torch.float8_e4m3fn, gate_up=True, rows=rows)
    gate_up_launch(x_q_RD, row_A, expert_count_G, gate_up, inner_AF, shape, (x_scale_RS, gate_up_scale))
    inner_q_PF, inner_scale_PS = quantize_triton(inner_AF)
    shape = tile or tile_for(d, f, torch.float8_e4m3fn, rows=rows)
    down_launch(inner_q_PF, expert_count_G, down, y_AD, shape, (inner_scale_PS, down_scale))
    return y_AD
