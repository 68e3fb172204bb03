"""Small models that learn from one mixture, and their losses on every kind of lesson."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from tokenizers import Tokenizer
from torch.nn import functional as F

from training.curriculum.stages import CurriculumRecipe, DataStage
from training.data.batches import batch
from training.data.chat import segments
from training.data.corpus import KINDS, Mixture, Source
from training.data.dialogues import HELD_OUT
from training.model.config import ModelConfig
from training.model.longcat_flash import LongcatFlash
from training.recipe import Recipe, TrunkRecipe
from training.trunk import Trunk

SMALL = ModelConfig(
    hidden_size=64, num_layers=1, q_lora_rank=32, kv_lora_rank=16, ffn_hidden_size=128, expert_ffn_hidden_size=32
)
CHARACTERS = 3.0  # of a token, about: the number of steps is part of the recipe, which is there before its tokenizer
BATCH = 8  # dialogues: many small steps, because most of a small model's are spent on beginning
SAMPLE = 128  # dialogues by which the length of a mixture's is estimated
HELD_OUT_DIALOGUES = 24  # of each kind


@dataclass(frozen=True)
class Proxy:
    """Trains each model on about `tokens` tokens, in a folder of its own below `path`."""

    path: Path
    tokens: int
    model: ModelConfig = SMALL

    def losses(self, name: str, mixture: Mixture, seed: int, console: Console) -> dict[str, float]:
        """Returns the held-out losses by kind; those of a model that is done are read again."""
        folder = self.path / name
        done = folder / "losses.json"
        recipe = self._recipe(mixture, seed)
        trunk = Trunk(folder, recipe)  # refuses the folder of another recipe
        if done.exists():
            kept: dict[str, float] = json.loads(done.read_text())
            return kept
        trunk.name = f"proxy {name}"
        trunk.run(console)
        found = losses_by_kind(trunk.model, trunk.tokenizer)
        done.write_text(json.dumps(found, indent=1) + "\n")
        return found

    def _recipe(self, mixture: Mixture, seed: int) -> Recipe:
        steps = max(2, round(self.tokens / (BATCH * mean_characters(mixture, seed) / CHARACTERS)))
        trunk = TrunkRecipe(
            steps=steps,
            batch_dialogues=BATCH,
            groups=4,
            warmup=max(1, steps // 10),
            rates=((0, 1.0), (steps // 2, 1.0), (steps, 0.1)),
            check_every=steps,
            check_dialogues=8,
            save_every=steps,
        )
        stage = DataStage("proxy", steps, mixture, 0.0, 2.0, self.model.rope_theta)
        return Recipe(seed=seed, model=self.model, trunk=trunk, curriculum=CurriculumRecipe((stage,)), mtp=None)


def mean_characters(mixture: Mixture, seed: int) -> float:
    dialogues = Source(mixture).dialogues(seed, 0, SAMPLE)
    return sum(len(text) for dialogue in dialogues for text, _ in segments(dialogue)) / SAMPLE


@torch.no_grad()
def losses_by_kind(model: LongcatFlash, tokenizer: Tokenizer) -> dict[str, float]:
    """Returns nats per token of held-out answers, for dialogues of each kind alone."""
    found = {}
    for kind in KINDS:
        held_out = list(Source(Mixture.of({kind: 1.0})).dialogues(HELD_OUT, 0, HELD_OUT_DIALOGUES))
        one = batch(tokenizer, held_out, 8)
        with torch.autocast("cpu", torch.bfloat16):
            logits_AV = model(one.ids_T, one.groups, one.wanted_A)
        loss_A = F.cross_entropy(logits_AV, one.target_A, reduction="none")
        found[kind] = float((loss_A * one.weight_A).sum() / one.weight_A.sum())
    return found
