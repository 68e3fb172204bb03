"""The first half of a SwiGLU MLP. Legend: T rows, D hidden, F inner width."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import silu

from caracal_kernels.linear import accumulate_reference
from caracal_kernels.pack_weights import outputs_of
from caracal_kernels.registry import define_op


def swiglu_inner_reference(x_TD: Tensor, gate_up_2FD: Tensor) -> Tensor:
    """[T, F] = silu(gate x) * up x, rounded once. `linear` of the whole of it is swiglu, bit for bit."""
    # fp64 here too: torch's fp32 exp gives other bits in the tail of a vector, so a shard's would differ.
    gate_TF, up_TF = accumulate_reference(x_TD, gate_up_2FD).double().chunk(2, dim=-1)
    return (silu(gate_TF) * up_TF).to(x_TD.dtype)


def _fake(x_TD: Tensor, gate_up_2FD: Tensor) -> Tensor:
    return x_TD.new_empty((x_TD.shape[0], outputs_of(gate_up_2FD) // 2))


swiglu_inner = define_op(swiglu_inner_reference, fake=_fake, triton="swiglu_inner")
