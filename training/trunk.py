"""The stage that trains the model but for its drafts: tokenizer, weights, and the bias of every router."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from training.data.batches import Batch, batch
from training.data.dialogues import HELD_OUT, dialogues
from training.data.tokenizer import train_tokenizer
from training.experiments.quality import score
from training.model.longcat_flash import LongcatFlash
from training.recipe import Recipe
from training.stability.suite import Readings, Suite
from training.stage import Stage, StepReport


@dataclass(frozen=True)
class TrunkReport(StepReport):
    """`right`: the share of answer tokens that were the most likely one. FFN experts per token: by layer.

    `readings` are those of the monitors, at the steps where they are due.
    """

    right: float
    mean: list[float]
    std: list[float]
    busiest: list[float]
    readings: Readings | None


class Trunk(Stage):
    """The stage with its tokenizer and model. It depends on all of the recipe but for the MTP module's part."""

    name = "trunk"

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.tokenizer = train_tokenizer(recipe.seed, recipe.model.vocab_size, recipe.trunk.tokenizer_dialogues)
        self.model = LongcatFlash(recipe.model, recipe.architecture)
        self.model.initialise(recipe.seed)
        identity = {name: value for name, value in asdict(recipe).items() if name != "mtp"}
        self.suite = Suite(self.model, recipe)
        super().__init__(path, identity, self.model, recipe.trunk, {"suite": self.suite})

    def advance(self) -> TrunkReport:
        begun, step = time.perf_counter(), self._batch()
        self.suite.begin(step.real_T)
        with self._precision():
            state_TD = self.model.states(step.ids_T, step.groups)
            logits_AV = self.model.logits(state_TD[step.wanted_A])
        loss_A = F.cross_entropy(logits_AV, step.target_A, reduction="none")
        loss = (loss_A * step.weight_A).sum() / step.weight_A.sum()
        state_RD = state_TD[step.real_T]
        (loss + self.suite.penalty(state_RD)).backward()
        readings = self.suite.read(self.step, loss.item(), state_RD, self.optimizer)
        scale = self.optimizer.scale(self.step)
        self.optimizer.step(self.step)
        usage = self.suite.control(step.real_T, scale, self.step)
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
            readings,
        )

    def _batch(self) -> Batch:
        recipe = self.recipe.trunk
        stream = dialogues(self.recipe.seed, self.step * recipe.batch_dialogues, recipe.batch_dialogues)
        step = batch(self.tokenizer, stream, recipe.groups)
        if self.recipe.disturbance and self.step in self.recipe.disturbance.steps:
            rng = torch.Generator().manual_seed(self.step)
            step = replace(
                step, target_A=torch.randint(self.recipe.model.vocab_size, step.target_A.shape, generator=rng)
            )
        return step

    def _precision(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.trunk.bfloat16)

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
