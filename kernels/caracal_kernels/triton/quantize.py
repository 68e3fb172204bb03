"""x as e4m3, an fp32 scale for every 128 values. Legend: T rows, D hidden, S scales of a row, B a tile's sizes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from caracal_kernels.triton.rounding import round_to
from caracal_kernels.triton.tiles import FP8_BLOCK

BS = 8  # scales that one program makes


@triton.jit
def quantize_kernel(x_ptr, q_ptr, scale_ptr, D, S, BLOCK: tl.constexpr, BS: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    s_BS = tl.program_id(1) * BS + tl.arange(0, BS)
    d = s_BS[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_ptr + t * D + d, mask=d < D, other=0.0).to(tl.float32)
    scale = tl.div_rn(tl.maximum(tl.max(tl.abs(x), 1), 1e-10), 448.0)
    q = tl.clamp(tl.div_rn(x, tl.broadcast_to(scale[:, None], x.shape)), -448.0, 448.0)
    tl.store(q_ptr + t * D + d, round_to(q, q_ptr.dtype.element_ty), mask=d < D)
    tl.store(scale_ptr + t * S + s_BS, scale, mask=s_BS < S)


def quantize_triton(x_TD: Tensor, out: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """As the op `quantize`. `out` receives the result."""
    rows, width = x_TD.shape
    scales = triton.cdiv(width, FP8_BLOCK)
    q_TD, scale_TS = out or (
        x_TD.new_empty((rows, width), dtype=torch.float8_e4m3fn),
        x_TD.new_empty((rows, scales), dtype=torch.float32),
    )
    if rows:
        quantize_kernel[(rows, triton.cdiv(scales, BS))](
            x_TD, q_TD, scale_TS, width, scales, BLOCK=FP8_BLOCK, BS=BS, num_warps=4
        )
    return q_TD, scale_TS
