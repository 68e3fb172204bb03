"""Muon for matrices, AdamW for everything else; or AdamW alone.

Muon: momentum, then the nearest orthogonal matrix by five Newton-Schulz steps (Jordan et al., 2024). Matrices of equal
shape are stacked, so that all layers need one batched product; experts by groups, which are the same for any number of
ranks that share them.
Legend: B matrices of M rows and N columns.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from training.model.moe import Experts
from training.optimizer.full_align import rate_of, reads_width
from training.recipe import AdamRecipe

MOMENTUM = 0.95


class Rates(Protocol):
    """The part of a recipe that the optimizers read."""

    @property
    def warmup(self) -> int: ...
    @property
    def rates(self) -> tuple[tuple[int, float], ...]: ...
    @property
    def matrix_rate(self) -> float: ...
    @property
    def vector_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def adam_epsilon(self) -> float: ...


def orthogonal(g_BMN: Tensor) -> Tensor:
    """Applies Newton-Schulz with the usual quintic coefficients, which brings singular values near 1."""
    a, b, c = 3.4445, -4.7750, 2.0315
    flip = g_BMN.shape[1] > g_BMN.shape[2]
    x_BMN: Tensor = g_BMN.mT if flip else g_BMN
    x_BMN = x_BMN / (x_BMN.norm(dim=(1, 2), keepdim=True) + 1e-12)
    for _ in range(5):
        xx_BMM = x_BMN @ x_BMN.mT
        x_BMN = a * x_BMN + (b * xx_BMM + c * xx_BMM @ xx_BMM) @ x_BMN
    return x_BMN.mT if flip else x_BMN


def _experts_in_group(module: nn.Module) -> int:
    found = {child.in_group for child in module.modules() if isinstance(child, Experts)}
    return found.pop() if found else 1


def _matrices(name: str, value: Tensor) -> Tensor:
    """Returns a parameter as a stack of matrices; gate and up of an expert are separate ones."""
    if name.endswith("gate_up_E2FD"):
        return value.view(2 * value.shape[0], -1, value.shape[2])
    return value if value.ndim == 3 else value[None]


class Optimizer:
    """Both optimizers, with all state in named tensors, so that a checkpoint is one safetensors file.

    `threads`: each makes matrices of one shape orthogonal at a time, so their number changes no bit.
    """

    def __init__(self, model: nn.Module, recipe: Rates, adam: AdamRecipe | None = None, threads: int = 1) -> None:
        self.recipe = recipe
        self._pool = ThreadPoolExecutor(threads, "muon", torch.set_num_threads, (1,)) if threads > 1 else None
        self.in_group = _experts_in_group(model)
        self.matrices: dict[str, nn.Parameter] = {}
        self.vectors: dict[str, nn.Parameter] = {}
        for name, value in model.named_parameters():
            own = value.ndim == 1 or "embed" in name or "lm_head" in name or "classifier" in name
            (self.vectors if own or adam else self.matrices)[name] = value
        self.momentum = {name: torch.zeros_like(value) for name, value in self.matrices.items()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
        for name, value in self.vectors.items():
            rate = rate_of(name, value, adam) if adam else recipe.vector_rate
            decay = recipe.weight_decay if adam and reads_width(name, value) else 0.0
            groups[rate, decay].append(value)
        self.rates = [rate for rate, _ in groups]
        parameters = [{"params": values, "weight_decay": decay} for (_, decay), values in groups.items()]
        self.adam = torch.optim.AdamW(parameters, betas=(0.9, 0.98), eps=recipe.adam_epsilon)

    def scale(self, step: int) -> float:
        """Returns the factor of the learning rates at a step."""
        warm = min(1.0, (step + 1) / self.recipe.warmup)
        for (before, high), (after, low) in pairwise(self.recipe.rates):
            if step < after:
                return warm * (high + (low - high) * (step - before) / (after - before))
        return 0.0

    def step(self, step: int) -> None:
        """Updates the parameters from their gradients, and clears these."""
        scale = self.scale(step)
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale
        self.adam.step()
        self._muon(self.recipe.matrix_rate * scale)
        for value in (*self.vectors.values(), *self.matrices.values()):
            value.grad = None

    @torch.no_grad()
    def _muon(self, rate: float) -> None:
        shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for name, value in self.matrices.items():
            assert value.grad is not None
            momentum = self.momentum[name].lerp_(value.grad, 1 - MOMENTUM)
            update = value.grad.lerp(momentum, MOMENTUM)
            size = self.in_group if ".experts." in name else len(value)
            for number, parts in enumerate(zip(value.data.split(size), update.split(size), strict=True)):
                value_BMN, update_BMN = (_matrices(name, part) for part in parts)
                shapes[number, *update_BMN.shape[1:]].append((value_BMN, update_BMN))
        in_turn = self._pool.map if self._pool else map
        list(in_turn(lambda updates: self._move(updates, rate), shapes.values()))

    @torch.no_grad()
    def _move(self, updates: list[tuple[Tensor, Tensor]], rate: float) -> None:
        """Moves the values, all of one shape, by what their updates are once they are orthogonal."""
        rows, columns = updates[0][1].shape[1:]
        update_BMN = orthogonal(torch.cat([update for _, update in updates])) * max(1.0, rows / columns) ** 0.5
        for (value_BMN, _), part in zip(updates, update_BMN.split([len(v) for v, _ in updates]), strict=True):
            value_BMN.mul_(1 - rate * self.recipe.weight_decay).add_(part, alpha=-rate)

    @torch.no_grad()
    def gradient_rms(self) -> tuple[float, float]:
        """Returns the RMS of the gradient over all of Adam's parameters, and the least one of a whole parameter."""
        grads = [value.grad for value in self.vectors.values() if value.grad is not None]
        squares = [float(grad.float().square().sum()) for grad in grads]
        sizes = [grad.numel() for grad in grads]
        least = min(square / size for square, size in zip(squares, sizes, strict=True))
        return (sum(squares) / sum(sizes)) ** 0.5, least**0.5

    def state(self) -> dict[str, Tensor]:
        """Returns every tensor needed to resume."""
        tensors = {f"momentum.{name}": value for name, value in self.momentum.items()}
        for name, value in self.vectors.items():
            for kind, state in self.adam.state[value].items():
                tensors[f"adam.{kind}.{name}"] = state
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restores the tensors that `state` returned."""
        for name, value in self.momentum.items():
            value.copy_(tensors[f"momentum.{name}"])
        for name, parameter in self.vectors.items():
            kinds = ("step", "exp_avg", "exp_avg_sq")
            self.adam.state[parameter] = {
                kind: tensors[f"adam.{kind}.{name}"].clone().to("cpu" if kind == "step" else parameter.device)
                for kind in kinds
            }
