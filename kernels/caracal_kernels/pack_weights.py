"""Weights as the compiled CPU kernels read them: packed once when they are loaded.

A core reads a packed matrix as one stream, from huge pages, and sums nothing across lanes; a plain one is packed anew,
piece by piece, in every product. Both give the same bits. A packed tensor goes wherever the ops take that weight.

Legend: H heads, N outputs, K inputs, S values of one output that lie side by side: 2 in bf16, 1 in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.backend import is_compiled
from caracal_kernels.registry import define_op

PANEL, BLOCK = 16, 64  # kPanel and kBlock of cpu/kernels.h
_SIDE_BY_SIDE = {torch.bfloat16: 2, torch.float32: 1}


def pack_weights_reference(w: Tensor) -> Tensor:
    """[N, K] to [N / 16, K / S, 16, S], or [H, N, K] to [H, N / 16, K / S, 16, S]: the sizes, not the order.

    The order: blocks of 64 outputs, of which the last may be narrower; in a block, K / S steps of all outputs.
    """
    together = _SIDE_BY_SIDE[w.dtype]
    *heads, outputs, inputs = w.shape
    blocks = [
        block_HNK.unflatten(-1, (-1, together)).transpose(-3, -2).flatten(-3) for block_HNK in w.split(BLOCK, dim=-2)
    ]
    return torch.cat(blocks, dim=-1).view(*heads, outputs // PANEL, inputs // together, PANEL, together)


def outputs_of(w: Tensor, heads: bool = False) -> int:
    """N of a weight, packed or not; `heads`: whether it has one matrix per head."""
    first = int(heads)
    if w.dtype == torch.uint8:  # of pack_fp8
        return w.shape[first] * BLOCK
    return w.shape[first] * (PANEL if w.dim() > 2 + first else 1)


def _fake(w: Tensor) -> Tensor:
    together = _SIDE_BY_SIDE[w.dtype]
    return w.new_empty((*w.shape[:-2], w.shape[-2] // PANEL, w.shape[-1] // together, PANEL, together))


_pack_weights = define_op(pack_weights_reference, fake=_fake)


def pack_weights(w: Tensor) -> Tensor:
    """The weight [N, K], or [H, N, K] with heads, as this process's kernels read it fastest.

    It comes back as it is where nothing reads packed weights (on GPUs, on the reference ops), and when N is no multiple
    of 16 or K of S.
    """
    together = _SIDE_BY_SIDE.get(w.dtype)
    if w.device.type != "cpu" or together is None or not is_compiled():
        return w
    return w if w.shape[-2] % PANEL or w.shape[-1] % together or not w.numel() else _pack_weights(w.contiguous())
