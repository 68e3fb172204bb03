"""What keeps a trunk's run in its bounds, and what watches it: the parts that the recipe has, around each step.

Legend: T tokens, R real ones (no padding), D hidden, G gates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.model.longcat_flash import LongcatFlash
from training.optimizer.muon_adamw import Optimizer
from training.recipe import Recipe
from training.stability.balance import RouterBalance
from training.stability.controller import Controller, Usage, usage_of
from training.stability.hidden_z_loss import hidden_z_loss
from training.stability.spikes import Spikes


@dataclass(frozen=True)
class Readings:
    """What the monitors read of one step. Lists are by layer; the balance's are empty without the balance loss."""

    gradient_ratio: list[float]  # R_g
    balance_weight: list[float]  # α of this step
    balance_loss: list[float]  # 1 where all groups have their share
    router_cosine: list[float]  # mean over couples of rows of a router
    hidden_norm: float  # of the last layer's output, before the final norm: mean over tokens
    hidden_max: float  # its largest activation
    gradient_rms: float  # of Adam's parameters, all and the least of one: ε has to be far below
    gradient_rms_least: float
    spikes: int
    spike_steps: int


@torch.no_grad()
def mean_cosine(weight_GD: Tensor) -> float:
    """Returns the mean cosine between two different rows."""
    row_GD = torch.nn.functional.normalize(weight_GD.float(), dim=-1)
    rows = len(row_GD)
    return float((row_GD.sum(0).square().sum() - rows) / (rows * (rows - 1)))


@torch.no_grad()
def hidden_size(state_RD: Tensor) -> tuple[float, float]:
    """Returns the mean norm of the last layer's outputs, and the largest activation."""
    state_RD = state_RD.float()
    return float(state_RD.norm(dim=-1).mean()), float(state_RD.abs().max())


class Suite:
    """The parts of one trunk. Observers stay with the model's mixtures."""

    def __init__(self, model: LongcatFlash, recipe: Recipe) -> None:
        self.recipe, self.mixtures = recipe, model.mixtures()
        self.controller = Controller(self.mixtures, recipe.controller) if recipe.controller else None
        self.balances: list[RouterBalance] = []
        self.spikes = Spikes()
        if recipe.balance:
            if recipe.controller and recipe.controller.ffn_experts != recipe.balance.ffn_experts:
                targets = f"{recipe.controller.ffn_experts} and {recipe.balance.ffn_experts}"
                raise ValueError(f"controller and balance loss want different FFN experts per token: {targets}")
            self.balances = [RouterBalance(recipe.model, recipe.balance) for _ in self.mixtures]
            for moe, balance in zip(self.mixtures, self.balances, strict=True):
                moe.observer = balance

    def begin(self, real_T: Tensor) -> None:
        """Says which tokens of the coming forward pass are no padding."""
        for balance in self.balances:
            balance.real_T = real_T

    def penalty(self, state_RD: Tensor) -> Tensor:
        """Returns what is added to the loss, given the last layer's output. The balance loss only adds a gradient."""
        if self.recipe.hidden is None:
            return torch.zeros(())
        return self.recipe.hidden.weight * hidden_z_loss(state_RD)

    def read(self, step: int, loss: float, hidden: tuple[float, float], optimizer: Optimizer) -> Readings | None:
        """Returns the readings of step `step` where they are due. Call it after the backward pass of every step."""
        if self.recipe.monitors is None:
            return None
        self.spikes.see(loss)
        if (step + 1) % self.recipe.monitors.every:
            return None
        return Readings(
            [balance.ratio for balance in self.balances],
            [balance.weight for balance in self.balances],
            [balance.loss for balance in self.balances],
            [mean_cosine(moe.router.classifier.weight) for moe in self.mixtures],
            *hidden,
            *optimizer.gradient_rms(),
            self.spikes.count,
            self.spikes.steps,
        )

    def control(self, real_T: Tensor, scale: float, step: int) -> list[Usage]:
        """Adjusts the biases after step `step`; returns what its forward pass used, by layer."""
        usage = [usage_of(moe, real_T) for moe in self.mixtures]
        if self.controller is not None:
            self.controller.adjust(real_T, scale, step)
        return usage

    def state(self) -> dict[str, Tensor]:
        """Returns every tensor needed to resume."""
        tensors = {f"spikes.{name}": value for name, value in self.spikes.state().items()}
        if self.controller is not None:
            tensors |= {f"controller.{name}": value for name, value in self.controller.state().items()}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores the tensors that `state` returned."""
        for name, value in self.state().items():
            value.copy_(tensors[name])
