"""The stage that trains the model but for its drafts: tokenizer, weights, and the bias of every router."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from training.curriculum.stages import EVERYTHING, DataStage
from training.data.batches import Batch, batch
from training.data.dialogues import HELD_OUT, Dialogue, dialogues
from training.data.tokenizer import train_tokenizer
from training.experiments.quality import Score, score
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
        source = EVERYTHING.dialogues if recipe.curriculum else dialogues
        self.tokenizer = train_tokenizer(recipe.seed, recipe.model.vocab_size, recipe.trunk.tokenizer_dialogues, source)
        self.model = LongcatFlash(recipe.model)
        self.model.initialise(recipe.seed)
        identity = {name: value for name, value in asdict(recipe).items() if name not in ("mtp", "agentic")}
        super().__init__(path, identity, self.model, recipe.trunk)
        self._stage(self.step)

    def _stage(self, step: int) -> DataStage | None:
        """The curriculum's stage at a step; the model's positions are rotated as it says."""
        if self.recipe.curriculum is None:
            return None
        stage = self.recipe.curriculum.at(step)
        self.model.config = replace(self.recipe.model, rope_theta=stage.rope_theta)
        return stage

    def dialogues(self, step: int, seed: int, start: int, count: int) -> Iterable[Dialogue]:
        """Dialogues of a seed's stream, of the kind that is learned at a step."""
        stage = self._stage(step)
        return (stage.source.dialogues if stage else dialogues)(seed, start, count)

    def advance(self) -> TrunkReport:
        recipe, begun = self.recipe.trunk, time.perf_counter()
        stream = self.dialogues(self.step, self.recipe.seed, self.step * recipe.batch_dialogues, recipe.batch_dialogues)
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
            held_out = list(self.dialogues(self.step - 1, HELD_OUT, 0, self.recipe.trunk.check_dialogues))
            result = score(self.model, self.tokenizer, held_out)
        usage = [asdict(layer) for layer in result.usage]
        shares = {kind: round(result.exact[kind] / n, 3) for kind, n in sorted(result.asked.items())}
        record = {"kind": "check", "step": self.step, "exact": result.share, "by_category": shares, "usage": usage}
        self.folder.log(record)
        means = " ".join(f"{layer.mean:.2f}±{layer.std:.2f}" for layer in result.usage)
        categories = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
        return f"held-out exact {result.share:.1%}, FFN experts per token {means}\n  {categories}{self._leave(result)}"

    def _leave(self, result: Score) -> str:
        """Goes on at the next stage's first step when the stage's exit criterion is met. A step counts once, or not."""
        curriculum, stage, done = self.recipe.curriculum, self._stage(self.step - 1), self.step
        if curriculum is None or stage is None or not stage.left_at(result.share):
            return ""
        self.step = curriculum.end(done - 1)
        self.folder.log({"kind": "stage", "step": self.step, "left": stage.name, "at": done, "exact": result.share})
        return f"\n  {stage.name} is left at step {done}: {stage.exact:.0%} is reached"
