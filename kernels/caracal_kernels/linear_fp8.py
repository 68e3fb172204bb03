"""y = x @ w.T with w in block-scaled e4m3. Legend: M rows, K inputs, N outputs, / 128 rounds up."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.linear import linear_reference
from caracal_kernels.quantize import dequantize_reference, quantize_reference
from caracal_kernels.registry import define_op


def linear_fp8_reference(
    x_MK: Tensor, w_NK: Tensor, scale: Tensor, residual_MN: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """As `linear`, with e4m3 weights and their fp32 scale [N/128, K/128]. x is quantised 1 x 128 on the way in.

    The products of 128 inputs are summed, scaled and added in fp32, in ascending order.
    """
    exact_MK = dequantize_reference(*quantize_reference(x_MK), rows=1)
    return linear_reference(exact_MK, dequantize_reference(w_NK, scale), residual_MN, out_dtype or x_MK.dtype)


def _fake(
    x_MK: Tensor, w_NK: Tensor, _: Tensor, __: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    return x_MK.new_empty((x_MK.shape[0], w_NK.shape[0]), dtype=out_dtype or x_MK.dtype)


linear_fp8 = define_op(linear_fp8_reference, fake=_fake, triton="linear_fp8")
