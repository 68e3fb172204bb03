"""RMSNorm in Hugging Face's order: normalise in fp32, cast, then times the weight. Legend: T rows, D hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.backend import compiled, on_triton


def rms_norm_reference(x_TD: Tensor, w_D: Tensor, eps: float) -> Tensor:
    x32_TD = x_TD.float()
    normed_TD = x32_TD * torch.rsqrt(x32_TD.pow(2).mean(-1, keepdim=True) + eps)
    return w_D * normed_TD.to(x_TD.dtype)


def rms_norm(x_TD: Tensor, w_D: Tensor, eps: float) -> Tensor:
    """[T, D] in x's dtype."""
    if compiled(x_TD):
        y: Tensor = torch.ops.caracal.rms_norm(x_TD, w_D, eps)
        return y
    if on_triton(x_TD):
        from caracal_kernels.triton.rms_norm import rms_norm_triton

        return rms_norm_triton(x_TD, w_D, eps)
    return rms_norm_reference(x_TD, w_D, eps)
