"""Block-scaled fp8 checkpoints: where scales are, and dequantization.

Weights are e4m3 in blocks of 128 x 128, each with an fp32 scale in `<weight>_scale_inv`: value = stored * scale.
A linear that config.json does not exclude from fp8 may still be in bf16 or fp32; an excluded one is never in fp8.
Legend: N outputs, K inputs, n and k their counts of blocks of 128, rounded up.
Source: docs/longcat-flash.md, FP8 checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor

from services.checkpoint.quantization import BLOCK

FP8_NAME = "F8_E4M3"
SCALE_SUFFIX = "_scale_inv"


def scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a weight's scales: one per block, also for the smaller blocks at the edges."""
    return tuple(-(-size // BLOCK) for size in shape)


def dequantize(weight_NK: Tensor, scale_nk: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns [N, K] in `dtype`: each value times its block's scale in fp32, rounded once."""
    out_NK = torch.empty(weight_NK.shape, dtype=dtype, device=weight_NK.device)
    columns = weight_NK.shape[1]
    for block, scale_k in enumerate(scale_nk):  # a row of blocks at a time, to keep the fp32 copy small
        rows = slice(block * BLOCK, (block + 1) * BLOCK)
        out_NK[rows] = (weight_NK[rows].float() * scale_k.repeat_interleave(BLOCK)[:columns]).to(dtype)
    return out_NK
