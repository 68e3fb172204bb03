"""Adds the experts' replies up, in combine's order and roundings.

Legend: T tokens, K choices, A replies, D hidden.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from caracal_kernels.triton.rounding import round_to


@triton.jit
def combine_kernel(
    y_ptr, reply_index_ptr, weight_ptr, zero_ptr, h_ptr, residual_ptr, out_ptr, num_answers, D,
    K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = h_ptr.dtype.element_ty
    token = tl.program_id(0).to(tl.int64)
    d_D = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    acc_D = tl.zeros([BLOCK_D], tl.float32)
    for choice in tl.static_range(K):
        reply_index = tl.load(reply_index_ptr + token * K + choice).to(tl.int64)
        there = (reply_index >= 0) & (reply_index < num_answers)
        weight = tl.load(weight_ptr + token * K + choice)
        y_D = tl.load(y_ptr + reply_index * D + d_D, there & (d_D < D), 0.0).to(tl.float32)
        acc_D = tl.where(there, acc_D + weight * y_D, acc_D)  # adding 0 would turn -0 into 0
    at = token * D + d_D
    acc_D += tl.load(zero_ptr + token) * tl.load(h_ptr + at, d_D < D, 0.0).to(tl.float32)
    residual_D = tl.load(residual_ptr + at, d_D < D, 0.0).to(tl.float32)
    out_D = round_to(residual_D + round_to(acc_D, dtype).to(tl.float32), dtype)
    tl.store(out_ptr + at, out_D, d_D < D)


def combine_triton(
    y_AD: Tensor, reply_index_TK: Tensor, weights_TK: Tensor, zero_T: Tensor, h_TD: Tensor, residual_TD: Tensor
) -> Tensor:
    """As combine, bit for bit the reference.

    A reply_index without a reply is skipped, not an error: a kernel cannot raise without a wait for the device, so the
    host looks at the plan before it asks for replies.
    """
    (tokens, hidden), choices = h_TD.shape, reply_index_TK.shape[1]
    out_TD = torch.empty_like(h_TD)
    block = min(1024, triton.next_power_of_2(hidden))
    if tokens:
        combine_kernel[(tokens, triton.cdiv(hidden, block))](
            y_AD, reply_index_TK, weights_TK, zero_T, h_TD, residual_TD, out_TD, len(y_AD), hidden,
            K=choices, BLOCK_D=block, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    return out_TD
