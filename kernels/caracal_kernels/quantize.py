"""Rows as e4m3 with a scale for every 128 values, and back.

Legend: T rows, D hidden, S = ceil(D / 128) scales of a row, N outputs, K inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from caracal_kernels.registry import define_op

E4M3_MAX = 448.0
BLOCK = 128


def quantize_reference(x_TD: Tensor) -> tuple[Tensor, Tensor]:
    """(e4m3 [T, D], fp32 scale [T, S]): x is about q * scale, the largest value of a block is ±448.

    A block of zeros stays zeros. Checkpoints call this scale `weight_scale_inv`.
    """
    rows, width = x_TD.shape
    x_TSB = pad(x_TD.float(), (0, -width % BLOCK)).view(rows, -(-width // BLOCK), BLOCK)
    scale_TS = x_TSB.abs().amax(-1).clamp(min=1e-10) / E4M3_MAX
    q_TSB = (x_TSB / scale_TS[..., None]).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return q_TSB.flatten(1)[:, :width].contiguous(), scale_TS


def dequantize_reference(w_NK: Tensor, scale: Tensor, rows: int = BLOCK) -> Tensor:
    """fp64 [N, K] = w * scale, with a scale for `rows` x 128 values: [ceil(N / rows), ceil(K / 128)]."""
    outputs, inputs = w_NK.shape
    scale_NK = scale.double().repeat_interleave(rows, 0)[:outputs].repeat_interleave(BLOCK, 1)[:, :inputs]
    return w_NK.double() * scale_NK


def _fake(x_TD: Tensor) -> tuple[Tensor, Tensor]:
    rows, width = x_TD.shape
    scale_TS = x_TD.new_empty((rows, -(-width // BLOCK)), dtype=torch.float32)
    return torch.empty_like(x_TD, dtype=torch.float8_e4m3fn), scale_TS


quantize = define_op(quantize_reference, fake=_fake, triton="quantize")
