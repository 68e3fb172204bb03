"""The first half of a SwiGLU MLP. Legend: T rows, D hidden, F inner width."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from caracal_kernels.backend import compiled, on_triton
from caracal_kernels.linear import accumulate_reference


def swiglu_inner_reference(x_TD: Tensor, gate_up_2FD: Tensor) -> Tensor:
    # fp64 here too: torch's fp32 exp gives other bits in the tail of a vector, so a shard's would differ.
    gate_TF, up_TF = accumulate_reference(x_TD, gate_up_2FD).double().chunk(2, dim=-1)
    return (silu(gate_TF) * up_TF).to(x_TD.dtype)


def swiglu_inner(x_TD: Tensor, gate_up_2FD: Tensor) -> Tensor:
    """[T, F] = silu(gate x) * up x, rounded once. `linear` of the whole of it is swiglu, bit for bit."""
    if compiled(x_TD):
        a: Tensor = torch.ops.caracal.swiglu_inner(x_TD, gate_up_2FD)
        return a
    if on_triton(x_TD):
        from caracal_kernels.triton.swiglu_inner import swiglu_inner_triton

        return swiglu_inner_triton(x_TD, gate_up_2FD)
    return swiglu_inner_reference(x_TD, gate_up_2FD)
