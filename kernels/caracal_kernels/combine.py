"""The answers' way home: fp32, in slot order. Legend: T tokens, K slots, P answers, D hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.backend import compiled, on_triton


def combine_reference(
    y_AD: Tensor, reply_index_TK: Tensor, weights_TK: Tensor, zero_T: Tensor, h_TD: Tensor, residual_TD: Tensor
) -> Tensor:
    if bool((reply_index_TK < -1).any()) or bool((reply_index_TK >= len(y_AD)).any()):
        raise RuntimeError("combine: home points at an answer that is not there")
    acc_TD = torch.zeros(h_TD.shape, dtype=torch.float32)
    for reply_index_T, weight_T in zip(reply_index_TK.T.long(), weights_TK.T, strict=True):
        there_T = reply_index_T >= 0
        acc_TD[there_T] += weight_T[there_T, None] * y_AD[reply_index_T[there_T]].float()
    acc_TD += zero_T[:, None] * h_TD.float()
    return (residual_TD.float() + acc_TD.to(h_TD.dtype).float()).to(h_TD.dtype)


def combine(
    y_AD: Tensor, reply_index_TK: Tensor, weights_TK: Tensor, zero_T: Tensor, h_TD: Tensor, residual_TD: Tensor
) -> Tensor:
    """round(residual + round(sum over slots of w * y[home] + zero * h)); home -1: a zero expert, -2: an error."""
    if compiled(h_TD):
        out: Tensor = torch.ops.caracal.combine(y_AD, reply_index_TK, weights_TK, zero_T, h_TD, residual_TD)
        return out
    if on_triton(h_TD):
        from caracal_kernels.triton.combine import combine_triton

        return combine_triton(y_AD, reply_index_TK, weights_TK, zero_T, h_TD, residual_TD)
    return combine_reference(y_AD, reply_index_TK, weights_TK, zero_T, h_TD, residual_TD)
