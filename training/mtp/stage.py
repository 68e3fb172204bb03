"""The stage that trains the MTP module on an exported trunk, and writes it into the trunk's checkpoint.

Legend: T tokens of all groups, D hidden, A places whose next token is an answer's, N those of one pass, V vocabulary.
"""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.batches import Batch, dealt
from training.data.corpus import Source
from training.data.dialogues import dialogues
from training.export.read import digest, load_exported, read_tensors, trunk_of
from training.export.write import export_head
from training.mtp.batches import ordinals
from training.mtp.head import MtpHead
from training.recipe import MtpRecipe
from training.stage import Stage, StepReport


@dataclass(frozen=True)
class Learned:
    """What a step takes from a part of it. `right`: by pass, how often the draft was the trunk's most likely token."""

    loss: float
    gradients: tuple[Tensor, ...]
    right: list[int]


@dataclass(frozen=True)
class MtpReport(StepReport):
    """`accepted`: by pass, the share of places at which the draft was the trunk's most likely token."""

    accepted: list[float]


class Mtp(Stage):
    """The stage on the checkpoint `model`. The trunk has the bf16 weights that are served, and takes no gradient.

    Drafts are learned at every token of an answer but the first, behind the dialogue as it is: the trunk's distribution
    there is what it would draw from, for nearly all answers are its own too. Products are fp32: shapes of answers
    change with each step, and oneDNN compiles those of bf16 for every new shape.
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

        `threads`: padded groups computed at once; they change no bit.
        """
        self.model, self.seed, self.recipe = model, seed, recipe
        self.trunk, self.tokenizer = load_exported(model, torch.float32)
        self.trunk.requires_grad_(False)
        self.head = MtpHead(self.trunk.config)
        self.head.initialise(seed, self.trunk)
        identity = {"trunk": digest(trunk_of(read_tensors(model))), "seed": seed, "mtp": asdict(recipe)}
        self._dialogues = source.dialogues if source else dialogues
        self._pool = ThreadPoolExecutor(threads, "part", torch.set_num_threads, (1,))
        super().__init__(path, identity | ({"source": asdict(source)} if source else {}), self.head, recipe)

    def _parts(self) -> list[Batch]:
        """Returns what this step learns from: a function of the seed and the step."""
        recipe = self.recipe
        first = recipe.first_dialogue + self.step * recipe.batch_dialogues
        stream = self._dialogues(self.seed, first, recipe.batch_dialogues)
        return dealt(self.tokenizer, stream, recipe.groups)

    def advance(self) -> MtpReport:
        begun = time.perf_counter()
        parts = self._parts()
        ordinals_A = torch.cat([ordinals(part.wanted_A) for part in parts])
        counts = [max(1, int((ordinals_A >= number).sum())) for number in range(1, self.recipe.passes + 1)]
        learned = list(self._pool.map(self._learn, parts, repeat(counts)))
        gradients = zip(*(one.gradients for one in learned), strict=True)
        for parameter, summands in zip(self.head.parameters(), gradients, strict=True):
            parameter.grad = functools.reduce(torch.add, summands)
        scale = self.optimizer.scale(self.step)
        self.optimizer.step(self.step)
        self.step += 1
        self.seconds += time.perf_counter() - begun
        right = [sum(passes) for passes in zip(*(one.right for one in learned), strict=True)]
        accepted = [found / count for found, count in zip(right, counts, strict=True)]
        return MtpReport(self.step, sum(one.loss for one in learned), scale, self.seconds, accepted)

    def _learn(self, part: Batch, counts: list[int]) -> Learned:
        """The cross entropy with the trunk's own distribution, averaged over a pass's places and over passes."""
        with torch.no_grad():
            hidden_TD = self.trunk.norm(self.trunk.states(part.ids_T, part.groups))
            target_AV = self.trunk.lm_head(hidden_TD[part.wanted_A]).float()
        ordinal_A = ordinals(part.wanted_A)
        behind_A = ordinal_A > 0  # no draft precedes an answer's first token
        ordinal_A, target_AV, rows_A = ordinal_A[behind_A], target_AV[behind_A], part.wanted_A[behind_A] - 1
        outputs = self.head(self.trunk, part.ids_T, hidden_TD, part.groups, rows_A, len(counts))
        loss = torch.zeros(())
        right = []
        for number, (out_AD, count) in enumerate(zip(outputs, counts, strict=True), 1):
            drafted_A = ordinal_A >= number
            logits_NV = self.trunk.lm_head(out_AD[drafted_A]).float()
            target_NV = target_AV[drafted_A]
            loss = loss + F.cross_entropy(logits_NV, target_NV.softmax(-1), reduction="sum") / count / len(outputs)
            right.append(int((logits_NV.argmax(-1) == target_NV.argmax(-1)).sum()))
        return Learned(loss.item(), torch.autograd.grad(loss, list(self.head.parameters())), right)

    def check(self, report: StepReport) -> str:
        """Needs nothing held out: every batch has dialogues that were not seen before."""
        assert isinstance(report, MtpReport)
        return "accepted by position " + " ".join(f"{share:.1%}" for share in report.accepted)

    def publish(self) -> None:
        """Adds the module to the checkpoint."""
        export_head(self.head, self.model)
