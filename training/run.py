"""One training run: a folder with its recipe, log and last checkpoint, from which an interrupted run resumes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from training.config import ModelConfig, Recipe
from training.data.batches import batch
from training.data.dialogues import dialogues
from training.data.tokenizer import train_tokenizer
from training.determinism.run_folder import RunFolder
from training.experiments.quality import Score, score
from training.model.longcat_flash import LongcatFlash
from training.optimizer.muon_adamw import Optimizer
from training.stability.controller import adjust

HELD_OUT = 1_000_000  # seeds from here on are never trained on; this one is watched during training


@dataclass(frozen=True)
class StepReport:
    step: int
    loss: float
    right: float  # share of answer tokens that were the most likely one
    mean: list[float]
    std: list[float]
    busiest: list[float]
    rate: float
    seconds: float


class Run:
    """State of a run."""

    def __init__(self, folder: RunFolder, config: ModelConfig, recipe: Recipe) -> None:
        self.folder, self.config, self.recipe = folder, config, recipe
        self.tokenizer: Tokenizer = train_tokenizer(recipe.seed, config.vocab_size, recipe.tokenizer_dialogues)
        self.model = LongcatFlash(config)
        self.model.initialise(recipe.seed)
        self.optimizer = Optimizer(self.model, recipe)
        self.step = 0
        self.seconds = 0.0

    @classmethod
    def open(cls, path: Path, config: ModelConfig, recipe: Recipe) -> Run:
        """Returns a new run, or resumes the one in `path`. Raises ValueError when that has another recipe."""
        folder = RunFolder(path, {"config": asdict(config), "recipe": asdict(recipe)})
        run = cls(folder, config, recipe)
        if (tensors := folder.load()) is not None:
            run._resume(tensors)
        folder.trim_log(run.step)
        return run

    def advance(self) -> StepReport:
        """Runs one step, on batch number `step` of the seed's stream."""
        recipe, begun = self.recipe, time.perf_counter()
        stream = dialogues(recipe.seed, self.step * recipe.batch_dialogues, recipe.batch_dialogues)
        step = batch(self.tokenizer, stream, recipe.groups)
        with torch.autocast("cpu", torch.bfloat16):
            logits_AV = self.model(step.ids_T, step.groups, step.wanted_A)
        loss_A = F.cross_entropy(logits_AV, step.target_A, reduction="none")
        loss = (loss_A * step.weight_A).sum() / step.weight_A.sum()
        loss.backward()
        scale = self.optimizer.scale(self.step)
        self.optimizer.step(self.step)
        rate = recipe.bias_rate * max(scale, 0.1)
        usage = [adjust(moe, step.real_T, recipe.ffn_experts, rate) for moe in self.model.mixtures()]
        self.step += 1
        self.seconds += time.perf_counter() - begun
        return StepReport(
            self.step,
            loss.item(),
            (logits_AV.argmax(-1) == step.target_A).float().mean().item(),
            [u.mean for u in usage],
            [u.std for u in usage],
            [u.busiest for u in usage],
            scale,
            self.seconds,
        )

    def check(self, count: int = 100) -> Score:
        """Held-out quality of the weights as they are, in the precision of training."""
        with torch.autocast("cpu", torch.bfloat16):
            return score(self.model, self.tokenizer, list(dialogues(HELD_OUT, 0, count)))

    def log(self, record: dict[str, Any]) -> None:
        self.folder.log(record)

    def save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()} | self.optimizer.state()
        self.folder.save(tensors | {"progress": torch.tensor([self.step, self.seconds], dtype=torch.float64)})

    def _resume(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.optimizer.load(tensors)
        step, self.seconds = tensors["progress"].tolist()
        self.step = int(step)
