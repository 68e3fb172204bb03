"""The zero-expert bias controller (docs/longcat-flash.md, training) and the statistics that it uses.

Legend: G gates, N FFN experts, K choices per token, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.model.moe import MoE


@dataclass(frozen=True)
class Usage:
    """Statistics of FFN experts per token in one layer."""

    mean: float
    std: float
    busiest: float  # tokens of the most used FFN expert, relative to an even split
    histogram: list[int]  # tokens by number of FFN experts, 0..K

    @classmethod
    def of(cls, chosen_TK: Tensor, num_experts: int) -> Usage:
        number_T = (chosen_TK < num_experts).sum(-1)
        loads_N = chosen_TK.flatten().bincount(minlength=num_experts)[:num_experts].float()
        return cls(
            number_T.float().mean().item(),
            number_T.float().std().item(),
            (loads_N.max() / loads_N.mean()).item(),
            number_T.bincount(minlength=chosen_TK.shape[1] + 1).tolist(),
        )


def usage_of(moe: MoE, real_T: Tensor) -> Usage:
    """Returns what the last forward pass used; `real_T` says which of its tokens are no padding."""
    assert moe.chosen_TK is not None
    return Usage.of(moe.chosen_TK[real_T], moe.num_experts)


@torch.no_grad()
def adjust(moe: MoE, real_T: Tensor, ffn_experts: float, rate: float) -> Usage:
    """Updates the selection bias of one layer after a step; zero experts' entries stay zero.

    bias_i += rate * (K_e/K * 1/N - T_i/(K * T)) for each FFN expert i.
    """
    assert moe.chosen_TK is not None
    chosen_TK = moe.chosen_TK[real_T]
    tokens, choices = chosen_TK.shape
    experts = moe.num_experts
    load_N = chosen_TK.flatten().bincount(minlength=experts)[:experts].float() / (choices * tokens)
    moe.router.e_score_correction_bias[:experts] += rate * (ffn_experts / choices / experts - load_N)
    return usage_of(moe, real_T)
