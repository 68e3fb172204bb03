"""Weights in e4m3 as the compiled CPU kernels read them: 8-bit in memory, with the bits of the dequantized weights.

A product turns a block's codes into round(code * scale) on their way to it, in bf16. So an op gives the same bits for
`pack_fp8(w, scale)` as for the dequantized matrix, packed or not, and takes the one wherever it takes the other.

Legend: H heads, N outputs, K inputs, n = N / 64 and k = K / 128 their counts of blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.backend import is_compiled
from caracal_kernels.pack_weights import BLOCK
from caracal_kernels.registry import define_op

FP8_OUTPUTS, FP8_DEPTH = BLOCK, 128  # of a block: kBlock and kFp8Depth of cpu/kernels.h
_HEADER = 64  # bytes: the scale in fp32, then zeros
_BLOCK_BYTES = _HEADER + FP8_OUTPUTS * FP8_DEPTH


def pack_fp8_reference(w: Tensor, scale: Tensor) -> Tensor:
    """[N, K] in e4m3 with fp32 scales [n, k] to uint8 [n, k, 64 + 64 * 128]; with heads, both and the result have H.

    A block: its scale; then, for every two inputs, the codes of 64 outputs, 4 outputs of one panel of 16 and 4 of the
    next in turn. No code may be NaN.
    """
    heads, (outputs, inputs) = w.shape[:-2], w.shape[-2:]
    blocks, depth = outputs // FP8_OUTPUTS, inputs // FP8_DEPTH
    # [H, n, 2 halves, their 2 panels, 4 times, 4 outputs, k, 64 steps, 2 inputs]
    parts = w.view(torch.uint8).reshape(-1, blocks, 2, 2, 4, 4, depth, FP8_DEPTH // 2, 2)
    codes = parts.permute(0, 1, 6, 7, 2, 4, 3, 5, 8).reshape(*heads, blocks, depth, -1)
    header = codes.new_zeros((*heads, blocks, depth, _HEADER))
    header[..., :4] = scale.contiguous().view(torch.uint8).view(*heads, blocks, depth, 4)
    return torch.cat([header, codes], dim=-1)


def _fake(w: Tensor, scale: Tensor) -> Tensor:
    return w.new_empty((*scale.shape, _BLOCK_BYTES), dtype=torch.uint8)


pack_fp8 = define_op(pack_fp8_reference, fake=_fake)


def takes_fp8(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this process's kernels take weights of `pack_fp8` for rows of `dtype` on the device."""
    return device.type == "cpu" and dtype == torch.bfloat16 and is_compiled()
