"""The stage that trains the model but for its drafts: tokenizer, weights, and the bias of every router."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from training.curriculum.lessons import Lessons
from training.data.batches import Batch, batch
from training.data.dialogues import HELD_OUT
from training.experiments.quality import score
from training.model.longcat_flash import LongcatFlash
from training.recipe import Recipe
from training.stability.controller import Usage, adjust, usage_of
from training.stage import Stage, StepReport


@dataclass(frozen=True)
class TrunkReport(StepReport):
    """`right`: the share of answer tokens that were the most likely one. FFN experts per token: by layer."""

    right: float
    mean: list[float]
    std: list[float]
    busiest: list[float]


class Trunk(Stage):
    """The stage with its tokenizer and model. It depends on all of the recipe but for the MTP module's part."""

    name = "trunk"

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.lessons = Lessons(recipe)
        self.tokenizer = self.lessons.tokenizer()
        self.model = LongcatFlash(recipe.model)
        self.model.initialise(recipe.seed)
        identity = {name: value for name, value in asdict(recipe).items() if name not in ("mtp", "agentic")}
        super().__init__(path, identity, self.model, recipe.trunk)
        self.lessons.enter(self.model, max(0, self.step - 1))

    def advance(self) -> TrunkReport:
        recipe, begun = self.recipe.trunk, time.perf_counter()
        self.lessons.enter(self.model, self.step)
        first = self.step * recipe.batch_dialogues
        stream = self.lessons.at(self.step, self.recipe.seed, first, recipe.batch_dialogues)
        step = batch(self.tokenizer, stream, recipe.groups)
        with torch.autocast("cpu", torch.bfloat16):
            logits_AV = self.model(step.ids_T, step.groups, step.wanted_A)
        loss_A = F.cross_entropy(logits_AV, step.target_A, reduction="none")
        loss = (loss_A * step.weight_A).sum() / step.weight_A.sum()
        loss.backward()
        scale = self.optimizer.scale(self.step)
        self.optimizer.step(self.step)
        usage = self._control(step, scale)
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return TrunkReport(
            self.step,
            loss.item(),
            scale,
            self.seconds,
            (logits_AV.argmax(-1) == step.target_A).float().mean().item(),
            [u.mean for u in usage],
            [u.std for u in usage],
            [u.busiest for u in usage],
        )

    def _control(self, step: Batch, scale: float) -> list[Usage]:
        mixtures, controller = self.model.mixtures(), self.recipe.controller
        if controller is None:
            return [usage_of(moe, step.real_T) for moe in mixtures]
        rate = controller.bias_rate * max(scale, 0.1)
        return [adjust(moe, step.real_T, controller.ffn_experts, rate) for moe in mixtures]

    def check(self, report: StepReport) -> str:
        """Logs held-out exactness and expert usage of the weights as they are, in the precision of training."""
        with torch.autocast("cpu", torch.bfloat16):
            held_out = list(self.lessons.at(self.step - 1, HELD_OUT, 0, self.recipe.trunk.check_dialogues))
            result = score(self.model, self.tokenizer, held_out)
        usage = [asdict(layer) for layer in result.usage]
        shares = {kind: round(result.exact[kind] / n, 3) for kind, n in sorted(result.asked.items())}
        record = {"kind": "check", "step": self.step, "exact": result.share, "by_category": shares, "usage": usage}
        self.folder.log(record)
        self.step, left = self.lessons.behind(self.step, result.share)
        if left:
            self.folder.log(left)
        means = " ".join(f"{layer.mean:.2f}±{layer.std:.2f}" for layer in result.usage)
        categories = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
        return f"held-out exact {result.share:.1%}, FFN experts per token {means}\n  {categories}"
