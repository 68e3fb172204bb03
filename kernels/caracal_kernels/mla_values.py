"""Attended latents to values: the first half of mla_output. Legend: T rows, H heads, C kv_lora_rank, V value dims."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.backend import compiled, on_triton
from caracal_kernels.linear import accumulate_reference


def mla_values_reference(o_THC: Tensor, w_uv_HVC: Tensor) -> Tensor:
    values = [accumulate_reference(o_THC[:, head], w_VC) for head, w_VC in enumerate(w_uv_HVC)]
    return torch.stack(values, dim=1).to(o_THC.dtype).flatten(1)


def mla_values(o_THC: Tensor, w_uv_HVC: Tensor) -> Tensor:
    """[T, H V]: the values of these heads, side by side. `linear` of all heads' values is mla_output, bit for bit."""
    if on_triton(o_THC):
        from caracal_kernels.triton.mla_output import mla_values_triton

        return mla_values_triton(o_THC, w_uv_HVC)
    body = torch.ops.caracal.mla_values if compiled(o_THC) else mla_values_reference
    v_TE: Tensor = body(o_THC, w_uv_HVC)
    return v_TE
