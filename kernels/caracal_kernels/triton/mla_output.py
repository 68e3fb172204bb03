"""From attended latents to the residual stream. Legend: T rows, H heads, C kv_lora_rank, V value dims, D hidden."""

from __future__ import annotations

from torch import Tensor

from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.per_head import per_head


def mla_values_triton(o_THC: Tensor, w_uv_HVC: Tensor) -> Tensor:
    v_THV = o_THC.new_empty((*o_THC.shape[:2], w_uv_HVC.shape[1]))
    per_head(o_THC, w_uv_HVC, v_THV)
    return v_THV.flatten(1)


def mla_output_triton(o_THC: Tensor, w_uv_HVC: Tensor, o_proj_DE: Tensor, residual_TD: Tensor) -> Tensor:
    return linear_triton(mla_values_triton(o_THC, w_uv_HVC), o_proj_DE, residual_TD)
