"""The runner of experiments: a case is run once, an interrupted one goes on, and another recipe is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from training.experiments.curves import difference, smooth, spread
from training.experiments.proxy import proxy
from training.experiments.runner import run_cases, trained
from training.model.config import ModelConfig
from training.recipe import Recipe
from training.trunk import Trunk

QUIET = Console(quiet=True)
TINY = ModelConfig(vocab_size=320, num_layers=1, hidden_size=32, ffn_hidden_size=32, expert_ffn_hidden_size=16)


def tiny(steps: int, seed: int = 1) -> Recipe:
    recipe = proxy(steps, scale=1, seed=seed)
    trunk = replace(recipe.trunk, tokenizer_dialogues=20, batch_dialogues=2, groups=1, log_every=1, save_every=1)
    return replace(recipe, model=TINY, trunk=replace(trunk, check_dialogues=2))


def test_a_case_that_has_ended_is_not_run_again(tmp_path: Path) -> None:
    cases = [trained("one", tiny(3)), trained("two words", replace(tiny(3, seed=2), controller=None))]
    first = run_cases(cases, tmp_path, QUIET)
    assert [len(first[variant][seed]["steps"]) for variant, seed in (("one", 1), ("two words", 2))] == [3, 3]
    assert "seconds" not in first["one"][1]["steps"][0]
    for checkpoint in tmp_path.rglob("checkpoint.safetensors"):
        checkpoint.unlink()  # a case that was run again would begin at step 0, and make new ones
    assert run_cases(cases, tmp_path, QUIET) == first
    assert not list(tmp_path.rglob("checkpoint.safetensors"))


def test_an_interrupted_case_goes_on_to_the_same_result(tmp_path: Path) -> None:
    whole = run_cases([trained("one", tiny(3))], tmp_path / "whole", QUIET)
    trunk = Trunk(tmp_path / "halves" / "one" / "1" / "run", tiny(3))
    trunk.advance()
    trunk.save()
    trunk.folder.log({"kind": "step", "step": 1, "loss": whole["one"][1]["steps"][0]["loss"]})
    halves = run_cases([trained("one", tiny(3))], tmp_path / "halves", QUIET)
    assert halves["one"][1]["held_out_loss"] == whole["one"][1]["held_out_loss"]
    assert [step["step"] for step in halves["one"][1]["steps"]] == [1, 2, 3]


def test_a_folder_with_another_recipe_is_refused(tmp_path: Path) -> None:
    run_cases([trained("one", tiny(2))], tmp_path, QUIET)
    with pytest.raises(ValueError, match=r"another recipe"):
        run_cases([trained("one", replace(tiny(2), controller=None))], tmp_path, QUIET)


def test_differences_are_taken_seed_by_seed() -> None:
    assert difference({1: 3.0, 2: 5.0}, {1: 2.0, 2: 4.5})["values"] == [1.0, 0.5]
    assert spread([1.0])["std"] == 0.0
    assert smooth([(0, 1.0), (1, 3.0), (2, 5.0)], 2) == [(0, 1.0), (1, 2.0), (2, 4.0)]
