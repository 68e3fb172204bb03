"""Attended latents to values: the first half of mla_output. Legend: T rows, H heads, C kv_lora_rank, U value dims."""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.linear import accumulate_reference
from caracal_kernels.pack_weights import outputs_of
from caracal_kernels.registry import define_op


def mla_values_reference(o_THC: Tensor, w_uv_HUC: Tensor) -> Tensor:
    """[T, H U]: the values of these heads, side by side. `linear` of all heads' values is mla_output, bit for bit."""
    values = [accumulate_reference(o_THC[:, head], w_UC) for head, w_UC in enumerate(w_uv_HUC)]
    return torch.stack(values, dim=1).to(o_THC.dtype).flatten(1)


def _fake(o_THC: Tensor, w_uv_HUC: Tensor) -> Tensor:
    return o_THC.new_empty((o_THC.shape[0], o_THC.shape[1] * outputs_of(w_uv_HUC, heads=True)))


mla_values = define_op(mla_values_reference, fake=_fake, triton="mla_output")
