"""Adds the experts' replies up: fp32, by ascending expert id. Legend: T tokens, K choices, A replies, D hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.registry import define_op


def combine_reference(
    y_AD: Tensor, reply_index_TK: Tensor, weights_TK: Tensor, zero_T: Tensor, h_TD: Tensor, residual_TD: Tensor
) -> Tensor:
    """round(residual + round(sum over choices of w * y[reply_index] + zero * h)).

    A reply_index of -1 is a zero expert; -2 or one past the replies raises RuntimeError.
    """
    if bool((reply_index_TK < -1).any()) or bool((reply_index_TK >= len(y_AD)).any()):
        raise RuntimeError("combine: reply_index points at a reply that is not there")
    acc_TD = torch.zeros(h_TD.shape, dtype=torch.float32)
    for reply_index_T, weight_T in zip(reply_index_TK.T.long(), weights_TK.T, strict=True):
        there_T = reply_index_T >= 0
        acc_TD[there_T] += weight_T[there_T, None] * y_AD[reply_index_T[there_T]].float()
    acc_TD += zero_T[:, None] * h_TD.float()
    return (residual_TD.float() + acc_TD.to(h_TD.dtype).float()).to(h_TD.dtype)


def _fake(y_AD: Tensor, reply_index_TK: Tensor, weights_TK: Tensor, zero_T: Tensor, h_TD: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(h_TD)


combine = define_op(combine_reference, fake=_fake, triton="combine")
