"""y = x @ w.T with one fixed order over K. Legend: M rows, K inputs, N outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.pack_weights import outputs_of
from caracal_kernels.registry import define_op


def accumulate_reference(x_MK: Tensor, w_NK: Tensor) -> Tensor:
    """fp32 [M, N]: every row on its own in fp64, so that its rounding cannot depend on how many rows there are."""
    w64_NK = w_NK.double()
    if not len(x_MK):
        return x_MK.new_zeros((0, len(w_NK)), dtype=torch.float32)
    return torch.stack([torch.mv(w64_NK, x_K) for x_K in x_MK.double()]).float()


def linear_reference(
    x_MK: Tensor, w_NK: Tensor, residual_MN: Tensor | None = None, out_dtype: torch.dtype | None = None
) -> Tensor:
    """[M, N] = round(x @ w.T), or round(residual + round(x @ w.T)). Sums are fp32, `out_dtype` is x's by default."""
    y_MN = accumulate_reference(x_MK, w_NK).to(out_dtype or x_MK.dtype)
    return y_MN if residual_MN is None else (residual_MN.float() + y_MN.float()).to(y_MN.dtype)


def _fake(x_MK: Tensor, w_NK: Tensor, _: Tensor | None = None, out_dtype: torch.dtype | None = None) -> Tensor:
    return x_MK.new_empty((x_MK.shape[0], outputs_of(w_NK)), dtype=out_dtype or x_MK.dtype)


linear = define_op(linear_reference, fake=_fake, triton="linear")
