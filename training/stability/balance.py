"""The device-level balance loss (report, Eq. 3 to 5), as a gradient at the router's outputs that is kept small there.

The loss is α * sum over groups of f_j * P_j. Its gradient at a token's score of gate i is α * f_j / T, of the group j
of gate i: so it is added where the language model's gradient arrives, and both norms are known there. α is as in the
recipe, or less where R_g = |α * its gradient| / |language model's gradient| would exceed the recipe's limit.
Legend: T tokens, G gates, J groups (D of FFN experts, then one of zero experts), K choices per token, R real tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.model.config import ModelConfig
from training.recipe import BalanceRecipe


class RouterBalance:
    """The loss of one layer: an observer of its MoE. The last step's `loss` (without α), `weight` (α) and `ratio` (R_g)
    are for monitors."""

    def __init__(self, config: ModelConfig, recipe: BalanceRecipe) -> None:
        experts, groups, ffn_experts = config.n_routed_experts, recipe.groups, recipe.ffn_experts
        if experts % groups or not 0 < ffn_experts < config.moe_topk:
            raise ValueError(
                f"balance loss: {groups} groups have to divide {experts} experts, and {ffn_experts} FFN experts per "
                f"token have to be between 0 and top-k {config.moe_topk}"
            )
        self.recipe = recipe
        gates = torch.arange(config.num_gates)
        self.group_G = torch.where(gates < experts, gates * groups // experts, groups)
        zero = config.moe_topk - ffn_experts
        self.even_J = torch.tensor([groups / ffn_experts] * groups + [1 / zero])  # 1 / choices per token of a group
        self.real_T = torch.ones(0, dtype=torch.bool)
        self.share = 1.0  # of the batch's real tokens that the forward pass has
        self.loss = self.weight = self.ratio = 0.0

    def __call__(self, score_TG: Tensor, gate_TK: Tensor) -> None:
        """Takes the scores and choices of a forward pass whose backward will come."""
        real_T = self.real_T
        tokens = int(real_T.sum())
        chosen_J = self.group_G[gate_TK[real_T]].flatten().bincount(minlength=len(self.even_J))
        f_G = (self.even_J * chosen_J / tokens)[self.group_G]
        self.loss = float((score_TG.detach()[real_T] * f_G).sum() / tokens)
        pull_TG = real_T[:, None] * f_G / tokens * self.share
        score_TG.register_hook(lambda gradient_TG: self._added(gradient_TG, pull_TG))

    def _added(self, gradient_TG: Tensor, pull_TG: Tensor) -> Tensor:
        language, pull = float(gradient_TG.norm()), float(pull_TG.norm())
        limit = self.recipe.gradient_ratio
        self.weight = self.recipe.weight if limit is None else min(self.recipe.weight, limit * language / pull)
        # In the very first step the head is zero, and so is the gradient behind it: there is nothing to compare with.
        self.ratio = self.weight * pull / language if language else 0.0
        return gradient_TG + self.weight * pull_TG
