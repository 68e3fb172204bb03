"""The stage that trains the model but for its drafts: tokenizer, weights, and the bias of every router."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.batches import Batch, batch, dealt
from training.data.dialogues import HELD_OUT, Dialogue, dialogues
from training.data.tokenizer import train_tokenizer
from training.distributed.engine import Engine
from training.distributed.shards import keep_own_experts, whole_tensors
from training.distributed.team import InvalidTeam
from training.execution import Execution
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

    def __init__(self, path: Path, recipe: Recipe, execution: Execution | None = None) -> None:
        self.recipe = recipe
        self.tokenizer = train_tokenizer(recipe.seed, recipe.model.vocab_size, recipe.trunk.tokenizer_dialogues)
        self.model = LongcatFlash(recipe.model)
        self.model.initialise(recipe.seed)
        identity = {name: value for name, value in asdict(recipe).items() if name != "mtp"}
        self.engine: Engine | None = None
        execution = execution or Execution()
        if not recipe.determinism and not execution.plain:
            raise InvalidTeam(
                "several ranks or threads of the trunk's stage, or a watch, need the recipe's determinism"
            )
        if recipe.determinism:
            execution.team.check(recipe.trunk.groups, recipe.model.n_routed_experts)
            keep_own_experts(self.model, execution.team)
            self.model.to(execution.team.device)
            self.engine = Engine(self.model, execution.team, execution.threads, execution.watch)
        super().__init__(path, identity, self.model, recipe.trunk, execution)
        self.execution.team.agree(
            "tokenizer, recipe and step", f"{self.tokenizer.to_str()} {recipe} {self.step}".encode()
        )

    def advance(self) -> TrunkReport:
        recipe, begun = self.recipe.trunk, time.perf_counter()
        stream = dialogues(self.recipe.seed, self.step * recipe.batch_dialogues, recipe.batch_dialogues)
        compute = self._compute if self.engine is None else self._compute_by_groups
        loss, right, real_T = compute(list(stream))
        scale = self.optimizer.scale(self.step)
        self.optimizer.step(self.step)
        usage = self._control(real_T, scale)
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return TrunkReport(
            self.step,
            loss,
            scale,
            self.seconds,
            right,
            [u.mean for u in usage],
            [u.std for u in usage],
            [u.busiest for u in usage],
        )

    def _compute(self, stream: list[Dialogue]) -> tuple[float, float, Tensor]:
        """Sets the gradients. Returns the loss, the share of right answer tokens, and which tokens are no padding."""
        step = batch(self.tokenizer, stream, self.recipe.trunk.groups)
        numbers = numbers_of(self.model, step, step.weight_A.sum(), self._precision())
        numbers[0].backward()
        loss, right = numbers.tolist()
        return loss, right / len(step.target_A), step.real_T

    def _compute_by_groups(self, stream: list[Dialogue]) -> tuple[float, float, Tensor]:
        """Does the same, by padded groups, on the threads and ranks of the execution."""
        assert self.engine is not None
        device = self.execution.team.device
        batches = [part.to(device) for part in dealt(self.tokenizer, stream, self.recipe.trunk.groups)]
        total = torch.cat([part.weight_A for part in batches]).sum()
        outcome = self.engine.step(batches, lambda model, part: numbers_of(model, part, total, self._precision()))
        for moe, chosen_TK in zip(self.model.mixtures(), outcome.chosen_TK, strict=True):
            moe.chosen_TK = chosen_TK
        loss, right = outcome.numbers
        real_T = torch.cat([part.real_T for part in batches])
        return loss, right / sum(len(part.target_A) for part in batches), real_T

    def _precision(self) -> torch.autocast:
        device = self.execution.team.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.recipe.trunk.bfloat16, cache_enabled=False)

    def _control(self, real_T: Tensor, scale: float) -> list[Usage]:
        mixtures, controller = self.model.mixtures(), self.recipe.controller
        if controller is None:
            return [usage_of(moe, real_T) for moe in mixtures]
        rate = controller.bias_rate * max(scale, 0.1)
        return [adjust(moe, real_T, controller.ffn_experts, rate) for moe in mixtures]

    def check(self, report: StepReport) -> str:
        """Logs held-out exactness and expert usage of the weights as they are, in the precision of training."""
        model = self.whole_model()
        if not self.folder.writes:
            return ""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.trunk.bfloat16):
            held_out = list(dialogues(HELD_OUT, 0, self.recipe.trunk.check_dialogues))
            result = score(model, self.tokenizer, held_out)
        usage = [asdict(layer) for layer in result.usage]
        shares = {kind: round(result.exact[kind] / n, 3) for kind, n in sorted(result.asked.items())}
        record = {"kind": "check", "step": self.step, "exact": result.share, "by_category": shares, "usage": usage}
        self.folder.log(record)
        means = " ".join(f"{layer.mean:.2f}±{layer.std:.2f}" for layer in result.usage)
        categories = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
        return f"held-out exact {result.share:.1%}, FFN experts per token {means}\n  {categories}"

    def whole_model(self) -> LongcatFlash:
        """Returns the model with all experts on the CPU; all ranks call it together."""
        team = self.execution.team
        if team.sharing == 1 and team.device.type == "cpu":
            return self.model
        whole = LongcatFlash(self.recipe.model)
        whole.load_state_dict(whole_tensors(self.model.state_dict(), self.execution.team))
        return whole


def numbers_of(model: LongcatFlash, step: Batch, total: Tensor, precision: torch.autocast) -> Tensor:
    """Returns a batch's part of the loss, and how many answer tokens were the most likely one."""
    with precision:
        logits_AV = model(step.ids_T, step.groups, step.wanted_A)
    loss_A = F.cross_entropy(logits_AV, step.target_A, reduction="none")
    right = (logits_AV.detach().argmax(-1) == step.target_A).sum()
    return torch.stack([(loss_A * step.weight_A).sum() / total, right.float()])
