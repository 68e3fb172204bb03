"""The experiments on width and depth, and growth by command, each in a tiny form."""

from __future__ import annotations

import json

import pytest
from support.shell import Shell

from training.model.config import ModelConfig
from training.recipe import Recipe, TrunkRecipe
from training.trunk import Trunk

pytestmark = pytest.mark.processes


def test_experiment_of_transfer(shell: Shell) -> None:
    docs, run = shell.folder / "docs", shell.folder / "build" / "transfer"
    few = ("--powers", "-7", "--variances", "1", "--steps", "2", "--run", str(run))
    shell.run("python", "-m", "training.experiments.transfer", *few)
    result = json.loads((docs / "training" / "transfer.json").read_text())
    assert result["targets"]["plain"]["4"]["loss_above_best"] == 0.0
    assert result["size"]["steps"] == 2


def test_experiment_of_growth(shell: Shell) -> None:
    docs, run = shell.folder / "docs" / "training", shell.folder / "build" / "growth"
    shell.run("python", "-m", "training.experiments.growth", "--steps", "2", "--seeds", "1", "--run", str(run))
    result = json.loads((docs / "growth.json").read_text())
    assert result["layers"]["grown_at_step"] == 1
    assert result["flops"]["grown"][0] > 0


def test_grow(shell: Shell) -> None:
    """A run that was stopped goes on with twice as many layers, by the commands that docs/training/growth.md names."""
    run, to = shell.folder / "build" / "shallow", shell.folder / "build" / "deep"
    trunk = Trunk(run, Recipe(model=ModelConfig(num_layers=1), trunk=TrunkRecipe(steps=2), determinism=True))
    trunk.advance()
    trunk.save()
    words = shell.run("python", "-m", "training.grow", "--run", str(run), "--to", str(to))
    assert f"--run {to} --layers 2 --grow 1 2" in " ".join(words.split())
    made = [f"--{name}={shell.folder / 'build' / name}" for name in ("out", "docs")]
    command = ("--run", str(to), "--layers", "2", "--grow", "1", "2", "--steps", "2", "--without", "mtp")
    shell.run("python", "-m", "training", *command, *made)
    config = json.loads((shell.folder / "build" / "out" / "config.json").read_text())
    assert config["num_layers"] == 2
