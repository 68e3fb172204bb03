"""The stage that trains an exported model on accepted roll-outs, beside dialogues of the curriculum's last stage."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

from training.agentic.sampling import accepted
from training.data.batches import Batch, dealt
from training.data.corpus import Source
from training.data.dialogues import HELD_OUT, Dialogue
from training.distributed.engine import Engine
from training.execution import Execution
from training.experiments.quality import score
from training.export.read import digest, load_exported, read_tensors, trunk_of
from training.export.write import export
from training.model.longcat_flash import LongcatFlash
from training.recipe import AgenticRecipe
from training.stage import Stage, StepReport

REPLAYED = 1_000_000_000  # number of the first dialogue that is replayed: none of those that the trunk has seen
CHECKED = 60  # held-out dialogues


class Refine(Stage):
    """The stage on the checkpoint `model` and the roll-outs in `file`. The routers' biases stay as they are."""

    name = "agentic"

    def __init__(
        self, path: Path, model: Path, file: Path, source: Source, seed: int, recipe: AgenticRecipe, threads: int = 1
    ) -> None:
        """`threads` change no bit. Raises ValueError when no roll-out was accepted."""
        self.recipe, self.source, self.seed = recipe, source, seed
        self.model, self.tokenizer = load_exported(model, torch.float32)
        self.rollouts = accepted(file)
        if not self.rollouts:
            raise ValueError(f"{file}: no roll-out succeeded, so there is nothing to learn from")
        identity = {
            "trunk": digest(trunk_of(read_tensors(model))),
            "rollouts": hashlib.sha256(file.read_bytes()).hexdigest(),
            "source": asdict(source),
            "seed": seed,
            "agentic": asdict(recipe),
        }
        execution = Execution(threads=threads)
        self.engine = Engine(self.model, execution.team, threads, execution.watch)
        super().__init__(path, identity, self.model, recipe, execution=execution)

    def _dialogues(self) -> list[Dialogue]:
        recipe, rng = self.recipe, Random(f"caracal agentic {self.seed} {self.step}")
        replayed = round(recipe.batch_dialogues * recipe.replay)
        first = REPLAYED + self.step * replayed
        own = [rng.choice(self.rollouts) for _ in range(recipe.batch_dialogues - replayed)]
        return own + list(self.source.dialogues(self.seed, first, replayed))

    def advance(self) -> StepReport:
        begun = time.perf_counter()
        parts = dealt(self.tokenizer, self._dialogues(), self.recipe.groups)
        weight = torch.cat([part.weight_A for part in parts]).sum()

        def loss_of(model: LongcatFlash, part: Batch) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
            loss_A = F.cross_entropy(model(part.ids_T, part.groups, part.wanted_A), part.target_A, reduction="none")
            loss = (loss_A * part.weight_A).sum() / weight
            return loss, loss, lambda: torch.zeros(0)

        loss = self.engine.step(parts, loss_of).loss
        scale = self.optimizer.scale(self.step)
        self.optimizer.step(self.step)
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return StepReport(self.step, loss, scale, self.seconds)

    def check(self, report: StepReport) -> str:
        """Logs held-out exactness on the dialogues that are replayed: whether anything is forgotten."""
        result = score(self.model, self.tokenizer, list(self.source.dialogues(HELD_OUT, 0, CHECKED)))
        self.folder.log({"kind": "check", "step": self.step, "exact": result.share})
        return f"held-out exact {result.share:.1%}"

    def publish(self, out: Path) -> None:
        """Exports the model, without drafts."""
        export(self.model, self.tokenizer, out)
