"""y = x @ w.T in block-scaled e4m3. Legend: M rows, K inputs, N outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.triton.arguments import check
from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.quantize import quantize_triton
from caracal_kernels.triton.tiles import FP8_BLOCK


def linear_fp8_triton(
    x_MK: Tensor, w_NK: Tensor, scale: Tensor, residual_MN: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """As the op `linear_fp8`."""
    q_MK, scale_MS = quantize_triton(x_MK)
    check("linear_fp8", scale_MS, scale=(scale, (-(-len(w_NK) // FP8_BLOCK), scale_MS.shape[1])))
    return linear_triton(q_MK, w_NK, residual_MN, out_dtype or x_MK.dtype, (scale_MS, scale))
