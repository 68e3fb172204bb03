"""A run that trains the MTP module on an exported trunk; an interrupted one resumes.

Legend: T tokens of all groups, D hidden, A places whose next token is an answer's, N those of one pass, V vocabulary.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.dialogues import dialogues
from training.determinism.run_folder import RunFolder
from training.export.read import digest, load_exported, read_tensors, trunk_of
from training.mtp.batches import ordinals, own_batch
from training.mtp.head import MtpHead
from training.mtp.recipe import MtpRecipe
from training.optimizer.muon_adamw import Optimizer


@dataclass(frozen=True)
class StepReport:
    """`accepted`: by pass, the share of places at which the draft was the trunk's most likely token."""

    step: int
    loss: float
    accepted: list[float]
    rate: float
    seconds: float


class MtpRun:
    """State of a run. The trunk is the bf16 one that is served, and takes no gradient."""

    def __init__(self, folder: RunFolder, model: Path, recipe: MtpRecipe) -> None:
        self.folder, self.recipe = folder, recipe
        self.trunk, self.tokenizer = load_exported(model)
        self.trunk.requires_grad_(False)
        self.head = MtpHead(self.trunk.config)
        self.head.initialise(recipe.seed, self.trunk)
        self.optimizer = Optimizer(self.head, recipe)
        self.step = 0
        self.seconds = 0.0

    @classmethod
    def open(cls, path: Path, model: Path, recipe: MtpRecipe) -> MtpRun:
        """Returns a new run on the checkpoint `model`, or resumes the one in `path`.

        Raises ValueError when that has another recipe or another trunk.
        """
        folder = RunFolder(path, {"trunk": digest(trunk_of(read_tensors(model))), "recipe": asdict(recipe)})
        run = cls(folder, model, recipe)
        if (tensors := folder.load()) is not None:
            run._resume(tensors)
        folder.trim_log(run.step)
        return run

    def advance(self) -> StepReport:
        """Runs one step, on batch number `step` of the seed's stream."""
        recipe, begun = self.recipe, time.perf_counter()
        first = recipe.first_dialogue + self.step * recipe.batch_dialogues
        stream = list(dialogues(recipe.seed, first, recipe.batch_dialogues))
        rng = Random(f"caracal drafts {recipe.seed} {self.step}")
        batch = own_batch(self.trunk, self.tokenizer, stream, rng, recipe)
        with torch.no_grad():
            hidden_TD = self.trunk.norm(self.trunk.states(batch.ids_T, batch.groups))
            target_AV = self.trunk.lm_head(hidden_TD[batch.wanted_A]).float()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.head(self.trunk, batch.ids_T, hidden_TD, batch.groups, recipe.passes)
            loss, accepted = self._loss(outputs, target_AV, batch.wanted_A)
        loss.backward()
        scale = self.optimizer.scale(self.step)
        self.optimizer.step(self.step)
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return StepReport(self.step, loss.item(), accepted, scale, self.seconds)

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

    def save(self) -> None:
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()} | self.optimizer.state()
        self.folder.save(tensors | {"progress": torch.tensor([self.step, self.seconds], dtype=torch.float64)})

    def _resume(self, tensors: dict[str, Tensor]) -> None:
        self.head.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("head.")})
        self.optimizer.load(tensors)
        step, self.seconds = tensors["progress"].tolist()
        self.step = int(step)
