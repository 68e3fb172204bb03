"""Trains a few steps and writes what came out, bit for bit, and how long they took; torchrun starts it for ranks.

`python -m training.experiments.trial OUT` with options; training/experiments/determinism.py calls it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import torch

from training.determinism.mode import make_deterministic
from training.determinism.watch import Watch
from training.distributed.shards import whole_tensors
from training.distributed.team import join_team, leave_team
from training.execution import Execution
from training.experiments.runner import ROOT
from training.freed_memory import keep_freed_memory
from training.model.config import ModelConfig
from training.recipe import Recipe, TrunkRecipe
from training.trunk import Trunk


def add_size(parser: argparse.ArgumentParser) -> None:
    """Adds the options that decide the bits."""
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=int, default=1, choices=range(1, 65), metavar="N", help="N times the layers")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--layers", type=int, default=ModelConfig.num_layers, help="at scale 1")
    parser.add_argument("--dialogues", type=int, default=TrunkRecipe.batch_dialogues, help="of a step")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")


def recipe_of(given: argparse.Namespace, determinism: bool) -> Recipe:
    model = ModelConfig(num_layers=given.layers * given.scale)
    trunk = TrunkRecipe(batch_dialogues=given.dialogues, tokenizer_dialogues=500, bfloat16=given.precision == "bf16")
    return Recipe(seed=given.seed, model=model, trunk=trunk, mtp=None, determinism=determinism)


def train(trunk: Trunk, steps: int) -> dict[str, Any]:
    """Returns digests of losses and of parameters and optimizer state, seconds by step, and the share waited.

    That is the share of the time in which the first rank waited within layers for others.
    """
    seconds, losses = [], hashlib.sha256()
    for _ in range(steps):
        begun = time.perf_counter()
        report = trunk.advance()
        seconds.append(time.perf_counter() - begun)
        losses.update(report.loss.hex().encode())
    tensors = {f"weight.{name}": value for name, value in trunk.model.state_dict().items()} | trunk.optimizer.state()
    bits = hashlib.sha256()
    for name, value in sorted(whole_tensors(tensors, trunk.execution.team).items()):
        bits.update(name.encode() + value.detach().reshape(-1).cpu().view(torch.uint8).numpy().tobytes())
    waited = trunk.engine.waited_s() if trunk.engine else 0.0
    return {
        "losses": losses.hexdigest(),
        "bits": bits.hexdigest(),
        "seconds": seconds,
        "loss": report.loss,
        "waited_share": waited / sum(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.experiments.trial", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--run", type=Path, default=ROOT / "training" / "runs" / "trial")
    parser.add_argument("--without-determinism", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--expert-ranks", type=int)
    add_size(parser)
    given = parser.parse_args()
    keep_freed_memory()
    recipe = recipe_of(given, not given.without_determinism)
    if recipe.determinism:
        make_deterministic()
    else:
        torch.set_num_threads(given.threads)
    team = join_team("cpu", given.expert_ranks)
    trunk = Trunk(given.run, recipe, Execution(team, given.threads if recipe.determinism else 1, Watch()))
    result = train(trunk, given.steps)
    if team.first:
        given.out.write_text(json.dumps(result))
    leave_team(team)


if __name__ == "__main__":
    main()
