"""The zero-expert bias controller (docs/longcat-flash.md, training) and the statistics that it uses.

Legend: L layers, G gates, N FFN experts, K choices per token, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.model.moe import MoE
from training.recipe import ControllerRecipe


@dataclass(frozen=True)
class Usage:
    """Statistics of FFN experts per token in one layer."""

    mean: float
    std: float
    busiest: float  # tokens of the most used FFN expert, relative to an even split; 0 where none is used
    histogram: list[int]  # tokens by number of FFN experts, 0..K

    @classmethod
    def of(cls, chosen_TK: Tensor, num_experts: int) -> Usage:
        number_T = (chosen_TK < num_experts).sum(-1)
        loads_N = chosen_TK.flatten().bincount(minlength=num_experts)[:num_experts].float()
        return cls(
            number_T.float().mean().item(),
            number_T.float().std().item(),
            (loads_N.max() / loads_N.mean().clamp(min=1e-9)).item(),
            number_T.bincount(minlength=chosen_TK.shape[1] + 1).tolist(),
        )


def usage_of(moe: MoE, real_T: Tensor) -> Usage:
    """Returns what the last forward pass used; `real_T` says which of its tokens are no padding."""
    assert moe.chosen_TK is not None
    return Usage.of(moe.chosen_TK[real_T], moe.num_experts)


class Controller:
    """Moves the selection biases of all layers; zero experts' entries stay zero.

    With the error e_i = K_e/K * 1/N - T_i/(K * T) of FFN expert i, per adjustment:
    bias_i += rate * (e_i + integral * sum of all e_i so far + derivative * (e_i - the one before)).
    The report's rule (Eq. 2) is the first term.
    """

    def __init__(self, mixtures: Sequence[MoE], recipe: ControllerRecipe) -> None:
        self.mixtures, self.recipe = mixtures, recipe
        shape = (len(mixtures), mixtures[0].num_experts)
        self.count_LN, self.sum_LN, self.last_LN = (torch.zeros(shape) for _ in range(3))
        self.choices = torch.zeros((), dtype=torch.int64)  # counted since the last adjustment

    @torch.no_grad()
    def adjust(self, real_T: Tensor, scale: float, step: int) -> None:
        """Counts the last forward pass of step `step`, and adjusts where it is due. `scale`: of the learning rates."""
        for layer, moe in enumerate(self.mixtures):
            assert moe.chosen_TK is not None
            chosen_TK = moe.chosen_TK[real_T]
            self.count_LN[layer] += chosen_TK.flatten().bincount(minlength=moe.num_experts)[: moe.num_experts]
        self.choices += chosen_TK.numel()
        if (step + 1) % self.recipe.every:
            return
        recipe, (_, experts) = self.recipe, self.count_LN.shape
        error_LN = recipe.ffn_experts / chosen_TK.shape[1] / experts - self.count_LN / self.choices
        self.sum_LN += error_LN
        move_LN = error_LN + recipe.integral * self.sum_LN + recipe.derivative * (error_LN - self.last_LN)
        self.last_LN.copy_(error_LN)
        self.count_LN.zero_()
        self.choices.zero_()
        rate = recipe.bias_rate * max(scale, recipe.decay_floor)
        for moe, move_N in zip(self.mixtures, move_LN, strict=True):
            moe.router.e_score_correction_bias[:experts] += rate * move_N

    def state(self) -> dict[str, Tensor]:
        """Returns every tensor needed to resume, by layer, so that it can be stacked; the biases are the model's."""
        kinds = {"count": self.count_LN, "sum": self.sum_LN, "last": self.last_LN}
        rows = {f"layers.{layer}.{kind}": row_N for kind, rows in kinds.items() for layer, row_N in enumerate(rows)}
        return rows | {"choices": self.choices}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores the tensors that `state` returned."""
        for name, value in self.state().items():
            value.copy_(tensors[name])
