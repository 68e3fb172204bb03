"""RMSNorm, one program a row. Legend: T rows, D hidden, B a tile's sizes."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from caracal_kernels.triton.arguments import check
from caracal_kernels.triton.rounding import round_to


@triton.jit
def rms_norm_kernel(x_ptr, w_ptr, y_ptr, D, eps, BD: tl.constexpr):
    d_BD = tl.arange(0, BD)
    at = tl.program_id(0).to(tl.int64) * D + d_BD
    x = tl.load(x_ptr + at, mask=d_BD < D, other=0.0).to(tl.float32)
    w = tl.load(w_ptr + d_BD, mask=d_BD < D, other=0.0).to(tl.float32)
    normed = round_to(x * tl.rsqrt(tl.sum(x * x, 0) / D + eps), y_ptr.dtype.element_ty)
    tl.store(y_ptr + at, round_to(w * normed.to(tl.float32), y_ptr.dtype.element_ty), mask=d_BD < D)


def rms_norm_triton(x_TD: Tensor, w_D: Tensor, eps: float, y_TD: Tensor | None = None) -> Tensor:
    """As the op `rms_norm`. `y_TD` receives the result."""
    rows, width = x_TD.shape
    check("rms_norm", x_TD, w=(w_D, (width,)))
    y_TD = x_TD.new_empty((rows, width)) if y_TD is None else y_TD
    if rows:
        block = triton.next_power_of_2(width)
        rms_norm_kernel[(rows,)](x_TD, w_D, y_TD, width, eps, BD=block, num_warps=8 if block >= 2048 else 4)
    return y_TD
