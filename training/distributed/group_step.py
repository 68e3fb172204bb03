"""A batch's loss, and the same by padded groups with the parts of the recipe that look at a forward pass.

Each group counts by its share of the batch's real tokens. The balance loss is that of the group's own
counts, and its weight and ratio are the group's, so that no group has to wait for the others. Monitors show averages.
Legend: T tokens, A tokens that are learned, D hidden, V vocabulary, R real tokens, U padded groups, N numbers of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.batches import Batch
from training.distributed.engine import Engine
from training.model.attention import Groups
from training.model.longcat_flash import LongcatFlash
from training.stability.balance import RouterBalance
from training.stability.suite import Suite, hidden_size


@dataclass(frozen=True)
class Computed:
    """A step's loss, the share of right answer tokens, which tokens are no padding, and the last layer's size.

    And how many rows of which length were computed, and logits of how many tokens.
    """

    loss: float
    right: float
    real_T: Tensor
    hidden: tuple[float, float]
    groups: Groups
    wanted: int


@dataclass(frozen=True)
class Whole:
    """The batch's sum of weights, and its real tokens."""

    weight: Tensor
    tokens: int


@dataclass(frozen=True)
class Part:
    """What a batch, or one padded group of it, adds to the loss; its right answer tokens; the last layer's output."""

    loss: Tensor
    right: float
    state_TD: Tensor


def part_of(model: LongcatFlash, step: Batch, whole: Whole, precision: torch.autocast) -> Part:
    with precision:
        state_TD = model.states(step.ids_T, step.groups)
        logits_AV = model.logits(state_TD[step.wanted_A])
    loss_A = F.cross_entropy(logits_AV, step.target_A, reduction="none")
    likely_A = logits_AV.detach()[step.answer_A].argmax(-1)
    right = float((likely_A == step.target_A[step.answer_A]).sum())
    return Part((loss_A * step.weight_A).sum() / whole.weight, right, state_TD)


@dataclass(frozen=True)
class GroupStep:
    suite: Suite
    precision: Callable[[], torch.autocast]

    def compute(self, engine: Engine, model: LongcatFlash, batches: list[Batch]) -> Computed:
        real_T = torch.cat([part.real_T for part in batches])
        whole = Whole(torch.cat([part.weight_A for part in batches]).sum(), int(real_T.sum()))
        outcome = engine.step(batches, lambda lane, part: self._group(lane, part, whole))
        for moe, chosen_TK in zip(model.mixtures(), outcome.chosen_TK, strict=True):
            moe.chosen_TK = chosen_TK
        right_U, norm_U, largest_U, *balances = outcome.numbers_UN.unbind(1)
        for number, balance in enumerate(self.suite.balances):
            means = (float(column_U.sum()) for column_U in balances[3 * number : 3 * number + 3])
            balance.loss, balance.weight, balance.ratio = means
        answers, wanted = sum(int(part.answer_A.sum()) for part in batches), sum(len(part.target_A) for part in batches)
        hidden = float(norm_U.sum()), float(largest_U.max())
        groups = [group for part in batches for group in part.groups]
        return Computed(outcome.loss, float(right_U.sum()) / answers, real_T, hidden, groups, wanted)

    def _group(self, model: LongcatFlash, group: Batch, whole: Whole) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
        """Returns the group's loss, what is differentiated, and what gives its other numbers after that."""
        share = int(group.real_T.sum()) / whole.tokens
        balances = [moe.observer for moe in model.mixtures() if isinstance(moe.observer, RouterBalance)]
        for balance in balances:
            balance.real_T, balance.share = group.real_T, share
        part = part_of(model, group, whole, self.precision())
        state_RD = part.state_TD[group.real_T]
        penalty = self.suite.penalty(state_RD) * share

        def numbers() -> Tensor:
            norm, largest = hidden_size(state_RD)
            found = [part.right, norm * share, largest]
            for balance in balances:
                found += [balance.loss * share, balance.weight * share, balance.ratio * share]
            return torch.tensor(found, device=group.ids_T.device)

        return part.loss, part.loss + penalty, numbers
