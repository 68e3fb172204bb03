"""RMSNorm in Hugging Face's order: normalise in fp32, cast, then times the weight. Legend: T rows, D hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.registry import define_op


def rms_norm_reference(x_TD: Tensor, w_D: Tensor, eps: float) -> Tensor:
    """[T, D] in x's dtype."""
    x32_TD = x_TD.float()
    normed_TD = x32_TD * torch.rsqrt(x32_TD.pow(2).mean(-1, keepdim=True) + eps)
    return w_D * normed_TD.to(x_TD.dtype)


def _fake(x_TD: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x_TD)


rms_norm = define_op(rms_norm_reference, fake=_fake, triton="rms_norm")
