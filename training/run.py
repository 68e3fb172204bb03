"""One training run: a folder with its recipe, log and last checkpoint, from which an interrupted run resumes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn import functional as F

from training.batches import batch
from training.config import ModelConfig, Recipe
from training.controller import adjust
from training.dialogues import dialogues
from training.model import LongcatFlash
from training.optimizer import Optimizer
from training.quality import Score, score
from training.tokenizer import train_tokenizer

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
    """State of a run. `folder` contains recipe.json, log.jsonl and checkpoint.safetensors."""

    def __init__(self, folder: Path, config: ModelConfig, recipe: Recipe) -> None:
        self.folder, self.config, self.recipe = folder, config, recipe
        self.tokenizer: Tokenizer = train_tokenizer(recipe.seed, config.vocab_size)
        self.model = LongcatFlash(config)
        self.model.initialise(recipe.seed)
        self.optimizer = Optimizer(self.model, recipe)
        self.step = 0
        self.seconds = 0.0

    @classmethod
    def open(cls, folder: Path, config: ModelConfig, recipe: Recipe) -> Run:
        """Returns a new run, or resumes the one in `folder`. Raises ValueError when that has another recipe."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"config": asdict(config), "recipe": asdict(recipe)}, indent=1) + "\n"
        path = folder / "recipe.json"
        if path.exists() and path.read_text() != text:
            raise ValueError(f"{path}: the run there has another recipe; choose another --run or remove it")
        path.write_text(text)
        run = cls(folder, config, recipe)
        if (folder / "checkpoint.safetensors").exists():
            run._resume()
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
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()} | self.optimizer.state()
        tensors["progress"] = torch.tensor([self.step, self.seconds], dtype=torch.float64)
        partial = self.folder / "checkpoint.partial"
        save_file(tensors, partial)
        partial.rename(self.folder / "checkpoint.safetensors")

    def _resume(self) -> None:
        tensors = load_file(self.folder / "checkpoint.safetensors")
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.optimizer.load(tensors)
        step, self.seconds = tensors["progress"].tolist()
        self.step = int(step)
        self._trim_log()

    def _trim_log(self) -> None:
        """Drops log lines after the checkpoint, which the run will write again."""
        path = self.folder / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        path.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= self.step))
