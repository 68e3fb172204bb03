"""Runs experts in fp8 and in the model's dtype together: checkpoints may exclude single experts from fp8.

Legend: R rows, A (row, expert) assignments sorted by expert, G experts, D hidden, F inner width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from caracal_kernels import grouped_swiglu, grouped_swiglu_fp8
from torch import Tensor

from services.checkpoint.reader import ExpertWeights


def compute(x_RD: Tensor, row_A: Tensor, counts: Sequence[int], weights: Sequence[ExpertWeights]) -> Tensor:
    """The experts' outputs, [A, D]. The first `counts[0]` assignments are the first expert's, and so on.

    All tensors are on the rows' device.
    """
    in_fp8 = [each.gate_up_scale is not None for each in weights]
    if len(set(in_fp8)) < 2:
        return _compute_one_kind(x_RD, row_A, counts, weights)
    y_AD = x_RD.new_empty((len(row_A), x_RD.shape[1]))
    sizes = torch.tensor(counts, device=row_A.device)
    fp8_A = torch.repeat_interleave(torch.tensor(in_fp8, device=row_A.device), sizes, output_size=len(row_A))
    for kind in (False, True):
        group = [g for g, each in enumerate(in_fp8) if each == kind]
        chosen_A = fp8_A == kind
        y_AD[chosen_A] = _compute_one_kind(
            x_RD, row_A[chosen_A], [counts[g] for g in group], [weights[g] for g in group]
        )
    return y_AD


def _compute_one_kind(x_RD: Tensor, row_A: Tensor, counts: Sequence[int], weights: Sequence[ExpertWeights]) -> Tensor:
    count_G = torch.tensor(counts, dtype=torch.int32, device=row_A.device)
    gate_up, down = [each.gate_up_2FD for each in weights], [each.down_DF for each in weights]
    gate_up_scale = [each.gate_up_scale for each in weights if each.gate_up_scale is not None]
    down_scale = [each.down_scale for each in weights if each.down_scale is not None]
    if gate_up_scale:
        return grouped_swiglu_fp8(x_RD, row_A, count_G, gate_up, gate_up_scale, down, down_scale)
    return grouped_swiglu(x_RD, row_A, count_G, gate_up, down)
