"""The stage that trains the model but for its drafts: tokenizer, weights, and the bias of every router."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.batches import Batch, batch
from training.data.dialogues import HELD_OUT, dialogues
from training.data.tokenizer import train_tokenizer
from training.experiments.quality import score
from training.model.config import ModelConfig
from training.model.flops import chosen_experts, step_flops
from training.model.growth import depth, stacked
from training.model.longcat_flash import LongcatFlash, quiet
from training.optimizer.full_align import deviation_of
from training.recipe import Recipe
from training.stability.controller import Usage, adjust, usage_of
from training.stage import Stage, StepReport


@dataclass(frozen=True)
class TrunkReport(StepReport):
    """`right`: the share of answer tokens that were the most likely one. FFN experts per token: by layer.

    `flops`: of all steps so far, as `training/model/flops.py` counts them.
    """

    right: float
    flops: float
    mean: list[float]
    std: list[float]
    busiest: list[float]


def at_first(recipe: Recipe) -> ModelConfig:
    """Returns the sizes that a run begins with. Raises ValueError when its growth does not fit it."""
    growth, layers = recipe.growth, recipe.model.num_layers
    if growth is None:
        return recipe.model
    if growth.factor < 2 or layers % growth.factor:
        raise ValueError(f"growth: {layers} layers are not a shallow model's, stacked {growth.factor} times")
    if not 0 < growth.step < recipe.trunk.steps:
        raise ValueError(f"growth: step {growth.step} is not one between the first and the last, {recipe.trunk.steps}")
    return replace(recipe.model, num_layers=layers // growth.factor)


class Trunk(Stage):
    """The stage with its tokenizer and model. It depends on all of the recipe but for the MTP module's part."""

    name = "trunk"

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.tokenizer = train_tokenizer(recipe.seed, recipe.model.vocab_size, recipe.trunk.tokenizer_dialogues)
        self._build(at_first(recipe))
        self.model.initialise(recipe.seed, deviation_of(recipe.adam) if recipe.adam else quiet)
        self.flops = 0.0
        identity = {name: value for name, value in asdict(recipe).items() if name != "mtp"}
        super().__init__(path, identity, self.model, recipe.trunk, recipe.adam)

    def advance(self) -> TrunkReport:
        recipe, begun = self.recipe.trunk, time.perf_counter()
        self._grow_when_due()
        stream = dialogues(self.recipe.seed, self.step * recipe.batch_dialogues, recipe.batch_dialogues)
        step = batch(self.tokenizer, stream, recipe.groups)
        with self._precision():
            logits_AV = self.model(step.ids_T, step.groups, step.wanted_A)
        loss_A = F.cross_entropy(logits_AV, step.target_A, reduction="none")
        loss = (loss_A * step.weight_A).sum() / step.weight_A.sum()
        loss.backward()
        scale = self.optimizer.scale(self.step)
        self.optimizer.step(self.step)
        usage = self._control(step, scale)
        self.flops += step_flops(self.model, step.groups, len(step.wanted_A), chosen_experts(self.model))
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return TrunkReport(
            self.step,
            loss.item(),
            scale,
            self.seconds,
            (logits_AV.argmax(-1) == step.target_A).float().mean().item(),
            self.flops,
            [u.mean for u in usage],
            [u.std for u in usage],
            [u.busiest for u in usage],
        )

    def _precision(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.trunk.bfloat16)

    def _control(self, step: Batch, scale: float) -> list[Usage]:
        mixtures, controller = self.model.mixtures(), self.recipe.controller
        if controller is None:
            return [usage_of(moe, step.real_T) for moe in mixtures]
        rate = controller.bias_rate * max(scale, 0.1)
        return [adjust(moe, step.real_T, controller.ffn_experts, rate) for moe in mixtures]

    def _build(self, config: ModelConfig) -> None:
        self.model = LongcatFlash(config)

    def _grow_when_due(self) -> None:
        growth = self.recipe.growth
        if growth and self.step == growth.step and self.model.config.num_layers < self.recipe.model.num_layers:
            self.restore(stacked(self.tensors(), growth.factor))

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"flops": torch.tensor(self.flops, dtype=torch.float64)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from the tensors of a run before or after its growth."""
        if depth(tensors) > self.model.config.num_layers:
            self._build(self.recipe.model)
            self.adopt(self.model)
        super().restore(tensors)
        self.flops = tensors["flops"].item()

    def check(self, report: StepReport) -> str:
        """Logs held-out exactness and expert usage of the weights as they are, in the precision of training."""
        with self._precision():
            held_out = list(dialogues(HELD_OUT, 0, self.recipe.trunk.check_dialogues))
            result = score(self.model, self.tokenizer, held_out)
        usage = [asdict(layer) for layer in result.usage]
        shares = {kind: round(result.exact[kind] / n, 3) for kind, n in sorted(result.asked.items())}
        record = {"kind": "check", "step": self.step, "exact": result.share, "by_category": shares, "usage": usage}
        self.folder.log(record)
        means = " ".join(f"{layer.mean:.2f}±{layer.std:.2f}" for layer in result.usage)
        categories = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
        return f"held-out exact {result.share:.1%}, FFN experts per token {means}\n  {categories}"
