"""The stage that trains the model but for its drafts: tokenizer, weights, and the bias of every router."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from training.curriculum.lessons import Lessons
from training.data.batches import Batch, batch, dealt
from training.data.dialogues import HELD_OUT, Dialogue
from training.distributed.engine import Engine
from training.distributed.group_step import Computed, GroupStep, Whole, part_of
from training.distributed.shards import keep_own_experts, whole_tensors
from training.distributed.team import InvalidTeam
from training.execution import Execution
from training.experiments.quality import score
from training.model.longcat_flash import LongcatFlash
from training.recipe import Recipe
from training.stability.suite import Readings, Suite, hidden_size
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

    def __init__(self, path: Path, recipe: Recipe, execution: Execution | None = None) -> None:
        self.recipe = recipe
        self.lessons = Lessons(recipe)
        self.tokenizer = self.lessons.tokenizer()
        self.model = LongcatFlash(recipe.model, recipe.architecture)
        self.model.initialise(recipe.seed)
        identity = {name: value for name, value in asdict(recipe).items() if name not in ("mtp", "agentic")}
        execution = execution or Execution()
        if not recipe.determinism and not execution.plain:
            raise InvalidTeam(
                "several ranks or threads of the trunk's stage, or a watch, need the recipe's determinism"
            )
        self.suite = Suite(self.model, recipe)
        self.engine: Engine | None = None
        if recipe.determinism:
            execution.team.check(recipe.trunk.groups, recipe.model.n_routed_experts)
            keep_own_experts(self.model, execution.team)
            self.model.to(execution.team.device)
            self.engine = Engine(self.model, execution.team, execution.threads, execution.watch)
        super().__init__(path, identity, self.model, recipe.trunk, {"suite": self.suite}, execution)
        self.lessons.enter(self.model, max(0, self.step - 1))
        self.execution.team.agree(
            "tokenizer, recipe and step", f"{self.tokenizer.to_str()} {recipe} {self.step}".encode()
        )

    def advance(self) -> TrunkReport:
        begun = time.perf_counter()
        self.lessons.enter(self.model, self.step)
        done = self._compute() if self.engine is None else self._compute_by_groups(self.engine)
        readings = self.suite.read(self.step, done.loss, done.hidden, self.optimizer)
        scale = self.optimizer.scale(self.step)
        self.optimizer.step(self.step)
        usage = self.suite.control(done.real_T, scale, self.step)
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return TrunkReport(
            self.step,
            done.loss,
            scale,
            self.seconds,
            done.right,
            [u.mean for u in usage],
            [u.std for u in usage],
            [u.busiest for u in usage],
            readings,
        )

    def _compute(self) -> Computed:
        """Sets the gradients, of the batch as one."""
        step = batch(self.tokenizer, self._stream(), self.recipe.trunk.groups)
        if self._disturbed():
            step = disturbed(step, self.recipe.model.vocab_size, self.step)
        self.suite.begin(step.real_T)
        part = part_of(self.model, step, Whole(step.weight_A.sum(), int(step.real_T.sum())), self._precision())
        state_RD = part.state_TD[step.real_T]
        (part.loss + self.suite.penalty(state_RD)).backward()
        return Computed(part.loss.item(), part.right / len(step.target_A), step.real_T, hidden_size(state_RD))

    def _compute_by_groups(self, engine: Engine) -> Computed:
        """Does the same, by padded groups, on the threads and ranks of the execution."""
        parts = dealt(self.tokenizer, self._stream(), self.recipe.trunk.groups)
        if self._disturbed():
            parts = [disturbed(part, self.recipe.model.vocab_size, self.step) for part in parts]
        batches = [part.to(self.execution.team.device) for part in parts]
        return GroupStep(self.suite, self._precision).compute(engine, self.model, batches)

    def _stream(self) -> Iterable[Dialogue]:
        count = self.recipe.trunk.batch_dialogues
        return self.lessons.at(self.step, self.recipe.seed, self.step * count, count)

    def _disturbed(self) -> bool:
        return self.recipe.disturbance is not None and self.step in self.recipe.disturbance.steps

    def _precision(self) -> torch.autocast:
        device = self.execution.team.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.recipe.trunk.bfloat16, cache_enabled=False)

    def check(self, report: StepReport) -> str:
        """Logs held-out exactness and expert usage of the weights as they are, in the precision of training."""
        model = self.whole_model()
        if not self.folder.writes:
            return ""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.trunk.bfloat16):
            held_out = list(self.lessons.at(self.step - 1, HELD_OUT, 0, self.recipe.trunk.check_dialogues))
            result = score(model, self.tokenizer, held_out)
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

    def whole_model(self) -> LongcatFlash:
        """Returns the model with all experts on the CPU; all ranks call it together."""
        team = self.execution.team
        if team.sharing == 1 and team.device.type == "cpu":
            return self.model
        whole = LongcatFlash(self.model.config, self.recipe.architecture)
        whole.load_state_dict(whole_tensors(self.model.state_dict(), self.execution.team))
        return whole


def disturbed(step: Batch, vocabulary: int, seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return replace(step, target_A=torch.randint(vocabulary, step.target_A.shape, generator=rng))
