"""The stage that trains the MTP module on an exported trunk, and writes it into the trunk's checkpoint.

Legend: T tokens of all groups, D hidden, A places whose next token is an answer's, N those of one pass, V vocabulary.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.batches import Batch
from training.data.corpus import Source
from training.data.dialogues import dialogues
from training.export.read import digest, load_exported, read_tensors, trunk_of
from training.export.write import export_head
from training.mtp.batches import ordinals, own_batch
from training.mtp.head import MtpHead
from training.recipe import MtpRecipe
from training.stage import Stage, StepReport


@dataclass(frozen=True)
class Lesson:
    """Dialogues with answers of the trunk's own, its normed output, and its logits where an answer's token is next."""

    batch: Batch
    hidden_TD: Tensor
    target_AV: Tensor


@dataclass(frozen=True)
class MtpReport(StepReport):
    """`accepted`: by pass, the share of places at which the draft was the trunk's most likely token."""

    accepted: list[float]


class Mtp(Stage):
    """The stage on the checkpoint `model`. The trunk has the bf16 weights that are served, and takes no gradient.

    Products are fp32: shapes of answers change with each step, and oneDNN compiles those of bf16 for every new shape.
    """

    name = "MTP module"

    def __init__(
        self,
        path: Path,
        model: Path,
        seed: int,
        recipe: MtpRecipe,
        source: Source | None = None,
        threads: int = 1,
    ) -> None:
        """`source`: the dialogues that it learns from; without one, those of training/data/dialogues.

        With more than one of `threads`, which change no bit, the trunk answers the next step's dialogues during a step.
        """
        self.model, self.seed, self.recipe = model, seed, recipe
        self.trunk, self.tokenizer = load_exported(model, torch.float32)
        self.trunk.requires_grad_(False)
        self.head = MtpHead(self.trunk.config)
        self.head.initialise(seed, self.trunk)
        identity = {"trunk": digest(trunk_of(read_tensors(model))), "seed": seed, "mtp": asdict(recipe)}
        self._dialogues = source.dialogues if source else dialogues
        self._ahead: Future[Lesson] | None = None
        self._pool = ThreadPoolExecutor(1, "trunk", torch.set_num_threads, (1,)) if threads > 1 else None
        super().__init__(path, identity | ({"source": asdict(source)} if source else {}), self.head, recipe)

    def _lesson(self, step: int) -> Lesson:
        """Returns what a step learns from: a function of the trunk, the seed and the step."""
        recipe = self.recipe
        first = recipe.first_dialogue + step * recipe.batch_dialogues
        stream = list(self._dialogues(self.seed, first, recipe.batch_dialogues))
        batch = own_batch(self.trunk, self.tokenizer, stream, Random(f"caracal drafts {self.seed} {step}"), recipe)
        with torch.no_grad():
            hidden_TD = self.trunk.norm(self.trunk.states(batch.ids_T, batch.groups))
            return Lesson(batch, hidden_TD, self.trunk.lm_head(hidden_TD[batch.wanted_A]).float())

    def _next_lesson(self) -> Lesson:
        lesson = self._ahead.result() if self._ahead else self._lesson(self.step)
        more = self.step + 1 < self.recipe.steps
        self._ahead = self._pool.submit(self._lesson, self.step + 1) if self._pool and more else None
        return lesson

    def advance(self) -> MtpReport:
        recipe, begun = self.recipe, time.perf_counter()
        lesson = self._next_lesson()
        batch, hidden_TD = lesson.batch, lesson.hidden_TD
        outputs = self.head(self.trunk, batch.ids_T, hidden_TD, batch.groups, recipe.passes)
        loss, accepted = self._loss(outputs, lesson.target_AV, batch.wanted_A)
        loss.backward()
        scale = self.optimizer.scale(self.step)
        self.optimizer.step(self.step)
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return MtpReport(self.step, loss.item(), scale, self.seconds, accepted)

    def _loss(self, outputs: list[Tensor], target_AV: Tensor, wanted_A: Tensor) -> tuple[Tensor, list[float]]:
        """The cross entropy with the trunk's own distribution, averaged over passes; and acceptance by pass."""
        ordinal_A = ordinals(wanted_A)
        loss = torch.zeros(())
        accepted = []
        for number, out_TD in enumerate(outputs, 1):
            drafted_A = ordinal_A >= number
            logits_NV = self.trunk.lm_head(out_TD[wanted_A[drafted_A] - 1]).float()
            target_NV = target_AV[drafted_A]
            count = max(1, len(target_NV))  # short answers may have no place for a late draft
            loss = loss + F.cross_entropy(logits_NV, target_NV.softmax(-1), reduction="sum") / count / len(outputs)
            accepted.append(int((logits_NV.argmax(-1) == target_NV.argmax(-1)).sum()) / count)
        return loss, accepted

    def check(self, report: StepReport) -> str:
        """Needs nothing held out: every batch has dialogues that were not seen before."""
        assert isinstance(report, MtpReport)
        return "accepted by position " + " ".join(f"{share:.1%}" for share in report.accepted)

    def publish(self) -> None:
        """Adds the module to the checkpoint."""
        export_head(self.head, self.model)
