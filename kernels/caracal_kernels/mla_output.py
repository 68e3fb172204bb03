"""From attended latents to the residual stream. Legend: T rows, H heads, C kv_lora_rank, U value dims, D hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.linear import linear_reference
from caracal_kernels.mla_values import mla_values_reference
from caracal_kernels.registry import define_op


def mla_output_reference(o_THC: Tensor, w_uv_HUC: Tensor, o_proj_DO: Tensor, residual_TD: Tensor) -> Tensor:
    """[T, D] = residual + o_proj(values of all heads, side by side)."""
    return linear_reference(mla_values_reference(o_THC, w_uv_HUC), o_proj_DO, residual_TD)


def _fake(o_THC: Tensor, w_uv_HUC: Tensor, o_proj_DO: Tensor, residual_TD: Tensor) -> Tensor:
    return torch.empty_like(residual_TD)


mla_output = define_op(mla_output_reference, fake=_fake, triton="mla_output")
