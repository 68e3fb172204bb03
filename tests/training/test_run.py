"""A training run can be interrupted and continued; the bias controller reaches its target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.model.config import ModelConfig
from training.model.moe import MoE
from training.recipe import ControllerRecipe, Recipe, TrunkRecipe
from training.stability.controller import Controller, Usage, usage_of
from training.trunk import Trunk

SMALL = ModelConfig(num_layers=1, hidden_size=32, ffn_hidden_size=32, expert_ffn_hidden_size=16)
RECIPE = Recipe(model=SMALL, trunk=TrunkRecipe(steps=4, batch_dialogues=2, groups=2, warmup=2))


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = Trunk(tmp_path / "whole", RECIPE)
    for _ in range(4):
        whole.advance()
    first = Trunk(tmp_path / "halves", RECIPE)
    first.advance()
    first.advance()
    first.save()
    second = Trunk(tmp_path / "halves", RECIPE)
    assert second.step == 2
    second.advance()
    second.advance()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_run_rejects_the_folder_of_another_recipe(tmp_path: Path) -> None:
    Trunk(tmp_path, RECIPE)
    with pytest.raises(ValueError, match=r"recipe\.json"):
        Trunk(tmp_path, replace(RECIPE, seed=2))


def test_without_the_controller_the_bias_stays_zero(tmp_path: Path) -> None:
    for name, recipe, moved in (("with", RECIPE, True), ("without", replace(RECIPE, controller=None), False)):
        trunk = Trunk(tmp_path / name, recipe)
        report = trunk.advance()
        assert 0 < report.mean[0] <= SMALL.moe_topk
        assert bool(trunk.model.mixtures()[0].router.e_score_correction_bias.any()) is moved


@pytest.mark.parametrize(
    "recipe",
    [
        ControllerRecipe(ffn_experts=3.0, bias_rate=0.1),
        ControllerRecipe(ffn_experts=3.0, bias_rate=0.1, integral=0.02, derivative=0.5),
        ControllerRecipe(ffn_experts=3.0, bias_rate=0.2, every=2),
    ],
    ids=["as printed", "integral and derivative", "every other step"],
)
def test_controller_brings_a_random_router_to_the_target(recipe: ControllerRecipe) -> None:
    torch.manual_seed(0)
    moe = MoE(ModelConfig())
    for parameter in moe.experts.parameters():
        torch.nn.init.zeros_(parameter)
    x_TD = torch.randn(512, 128) + 0.5 * torch.randn(128)
    everything_T = torch.ones(512, dtype=torch.bool)
    usage: list[Usage] = []
    controller = Controller([moe], recipe)
    for step in range(300):
        moe(x_TD)
        usage.append(usage_of(moe, everything_T))
        controller.adjust(everything_T, 1.0, step)
    assert abs(usage[0].mean - 3.0) > 0.5
    assert usage[-1].mean == pytest.approx(3.0, rel=0.02)
    assert usage[-1].busiest < 1.2 < usage[0].busiest
    assert usage[-1].std > 0.5
    assert not moe.router.e_score_correction_bias[16:].any()
