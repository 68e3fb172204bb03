"""The stage that trains the model but for its drafts: tokenizer, weights, and the bias of every router."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from training.curriculum.lessons import Lessons
from training.data.batches import Batch, batch, dealt
from training.data.dialogues import HELD_OUT, Dialogue
from training.distributed.engine import Engine
from training.distributed.group_step import Computed, GroupStep, Whole, part_of
from training.distributed.shards import keep_own_experts, whole_tensors
from training.distributed.team import InvalidTeam
from training.execution import Execution
from training.experiments.quality import score
from training.model.config import ModelConfig
from training.model.flops import chosen_experts, step_flops
from training.model.growth import depth, stacked
from training.model.longcat_flash import LongcatFlash
from training.optimizer.full_align import deviation_of
from training.recipe import Recipe
from training.stability.suite import Readings, Suite, hidden_size
from training.stage import Stage, StepReport


@dataclass(frozen=True)
class TrunkReport(StepReport):
    """`right`: the share of answer tokens that were the most likely one. FFN experts per token: by layer.

    `flops`: of all steps so far, on all ranks, as `training/model/flops.py` counts them. `readings` are those of the
    monitors, at the steps where they are due.
    """

    right: float
    flops: float
    mean: list[float]
    std: list[float]
    busiest: list[float]
    readings: Readings | None


def at_first(recipe: Recipe) -> ModelConfig:
    """Returns the sizes that a run begins with. Raises ValueError when its growth does not fit it."""
    growth, layers = recipe.growth, recipe.model.num_layers
    if growth is None:
        return recipe.model
    if growth.factor < 2 or layers % growth.factor:
        raise ValueError(f"growth: {layers} layers are not a shallow model's, stacked {growth.factor} times")
    if not 0 < growth.step < recipe.trunk.steps:
        raise ValueError(f"growth: step {growth.step} is not one between the first and the last, {recipe.trunk.steps}")
    if recipe.curriculum and growth.step > recipe.curriculum.steps - recipe.curriculum.stages[-1].steps:
        raise ValueError(f"growth: step {growth.step} is inside the last stage, which may be left before it")
    return replace(recipe.model, num_layers=layers // growth.factor)


def check_together(recipe: Recipe, execution: Execution) -> None:
    """Raises ValueError when parts of the recipe, or it and the way that it is computed, do not go together."""
    team = execution.team
    if not recipe.determinism and not execution.plain:
        raise InvalidTeam("several ranks or threads of the trunk's stage, or a watch, need the recipe's determinism")
    if recipe.adam and recipe.architecture.one_variance:
        raise ValueError("adam says what the variances at the beginning are, so one_variance would change nothing")
    if recipe.adam and team.sharing > 1:
        raise InvalidTeam(f"adam, which trains experts with all else, needs every expert on each rank: they are shared "
                          f"by {team.sharing} ranks; give 1 as the number that shares them")  # fmt: skip
    if recipe.determinism:
        team.check(recipe.trunk.groups, recipe.model.n_routed_experts)


class Trunk(Stage):
    """The stage with its tokenizer and model. It depends on all of the recipe but for the MTP module's part."""

    name = "trunk"

    def __init__(self, path: Path, recipe: Recipe, execution: Execution | None = None) -> None:
        self.recipe = recipe
        self.execution = execution or Execution()
        check_together(recipe, self.execution)
        self.lessons = Lessons(recipe)
        self.tokenizer = self.lessons.tokenizer()
        self.flops = 0.0
        self._build(at_first(recipe))
        identity = {name: value for name, value in asdict(recipe).items() if name not in ("mtp", "agentic")}
        parts = {"suite": self.suite}
        super().__init__(path, identity, self.model, recipe.trunk, parts, self.execution, recipe.adam)
        self.lessons.enter(self.model, max(0, self.step - 1))
        self.execution.team.agree(
            "tokenizer, recipe and step", f"{self.tokenizer.to_str()} {recipe} {self.step}".encode()
        )

    def advance(self) -> TrunkReport:
        begun = time.perf_counter()
        self._grow_when_due()
        self.lessons.enter(self.model, self.step)
        done = self._compute() if self.engine is None else self._compute_by_groups(self.engine)
        readings = self.suite.read(self.step, done.loss, done.hidden, self.optimizer)
        scale = self.optimizer.scale(self.step)
        self.optimizer.step(self.step)
        usage = self.suite.control(done.real_T, scale, self.step)
        self.flops += step_flops(self.model, done.groups, done.wanted, chosen_experts(self.model))
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return TrunkReport(
            self.step,
            done.loss,
            scale,
            self.seconds,
            done.right,
            self.flops,
            [u.mean for u in usage],
            [u.std for u in usage],
            [u.busiest for u in usage],
            readings,
        )

    def _compute(self) -> Computed:
        """Sets the gradients, of the batch as one."""
        trunk = self.recipe.trunk
        step = batch(self.tokenizer, self._stream(), trunk.groups, trunk.prompt_weight)
        if self._disturbed():
            step = disturbed(step, self.recipe.model.vocab_size, self.step)
        self.suite.begin(step.real_T)
        part = part_of(self.model, step, Whole(step.weight_A.sum(), int(step.real_T.sum())), self._precision())
        state_RD = part.state_TD[step.real_T]
        (part.loss + self.suite.penalty(state_RD)).backward()
        right, wanted = part.right / int(step.answer_A.sum()), len(step.wanted_A)
        return Computed(part.loss.item(), right, step.real_T, hidden_size(state_RD), step.groups, wanted)

    def _compute_by_groups(self, engine: Engine) -> Computed:
        """Does the same, by padded groups, on the threads and ranks of the execution."""
        trunk = self.recipe.trunk
        parts = dealt(self.tokenizer, self._stream(), trunk.groups, trunk.prompt_weight)
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

    def _build(self, config: ModelConfig) -> None:
        """Makes the model with its initial weights, and everything that refers to its modules."""
        recipe, execution = self.recipe, self.execution
        self.model = LongcatFlash(config, recipe.architecture)
        deviation = deviation_of(recipe.adam) if recipe.adam else None
        self.model.initialise(recipe.seed, deviation, recipe.trunk.embedding_mean)
        self.suite = Suite(self.model, recipe)
        self.engine: Engine | None = None
        if recipe.determinism:
            keep_own_experts(self.model, execution.team)
            self.model.to(execution.team.device)
            self.engine = Engine(self.model, execution.team, execution.threads, execution.watch)

    def _grow_when_due(self) -> None:
        """Stacks the layers; all ranks call it together. A stage that is left early may skip the very step."""
        growth = self.recipe.growth
        if growth and self.step >= growth.step and self.model.config.num_layers < self.recipe.model.num_layers:
            self.restore(stacked(self.tensors(), growth.factor))

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"flops": torch.tensor(self.flops, dtype=torch.float64)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes on from the tensors of a run before or after its growth."""
        if depth(tensors) > self.model.config.num_layers:
            self._build(self.recipe.model)
            self.adopt(self.model, {"suite": self.suite})
        super().restore(tensors)
        self.flops = tensors["flops"].item()

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
