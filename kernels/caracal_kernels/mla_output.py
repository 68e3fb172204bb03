"""From attended latents to the residual stream. Legend: T rows, H heads, C kv_lora_rank, V value dims, D hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.backend import compiled
from caracal_kernels.linear import accumulate_reference, linear_reference


def mla_output_reference(o_THC: Tensor, w_uv_HVC: Tensor, o_proj_DE: Tensor, residual_TD: Tensor) -> Tensor:
    values = [accumulate_reference(o_THC[:, head], w_VC) for head, w_VC in enumerate(w_uv_HVC)]
    v_TE = torch.stack(values, dim=1).to(o_THC.dtype).flatten(1)
    return linear_reference(v_TE, o_proj_DE, residual_TD)


def mla_output(o_THC: Tensor, w_uv_HVC: Tensor, o_proj_DE: Tensor, residual_TD: Tensor) -> Tensor:
    """[T, D] = residual + o_proj(values of all heads, side by side)."""
    body = torch.ops.caracal.mla_output if compiled(o_THC) else mla_output_reference
    x_TD: Tensor = body(o_THC, w_uv_HVC, o_proj_DE, residual_TD)
    return x_TD
