"""From attended latents to the residual stream. Legend: T rows, H heads, C kv_lora_rank, U value dims, D hidden."""

from __future__ import annotations

from torch import Tensor

from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.per_head import per_head


def mla_values_triton(o_THC: Tensor, w_uv_HUC: Tensor) -> Tensor:
    v_THU = o_THC.new_empty((*o_THC.shape[:2], w_uv_HUC.shape[1]))
    per_head(o_THC, w_uv_HUC, v_THU)
    return v_THU.flatten(1)


def mla_output_triton(o_THC: Tensor, w_uv_HUC: Tensor, o_proj_DO: Tensor, residual_TD: Tensor) -> Tensor:
    return linear_triton(mla_values_triton(o_THC, w_uv_HUC), o_proj_DO, residual_TD)
