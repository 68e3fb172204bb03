"""From attended latents to the residual stream. Legend: T rows, H heads, C kv_lora_rank, V value dims, D hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.backend import compiled, on_triton
from caracal_kernels.linear import linear_reference
from caracal_kernels.mla_values import mla_values_reference


def mla_output_reference(o_THC: Tensor, w_uv_HVC: Tensor, o_proj_DE: Tensor, residual_TD: Tensor) -> Tensor:
    return linear_reference(mla_values_reference(o_THC, w_uv_HVC), o_proj_DE, residual_TD)


def mla_output(o_THC: Tensor, w_uv_HVC: Tensor, o_proj_DE: Tensor, residual_TD: Tensor) -> Tensor:
    """[T, D] = residual + o_proj(values of all heads, side by side)."""
    if on_triton(o_THC):
        from caracal_kernels.triton.mla_output import mla_output_triton

        return mla_output_triton(o_THC, w_uv_HVC, o_proj_DE, residual_TD)
    body = torch.ops.caracal.mla_output if compiled(o_THC) else mla_output_reference
    x_TD: Tensor = body(o_THC, w_uv_HVC, o_proj_DE, residual_TD)
    return x_TD
