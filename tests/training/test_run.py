"""A training run can be interrupted and continued; the bias controller reaches its target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.config import ModelConfig, Recipe
from training.model.moe import MoE
from training.run import Run
from training.stability.controller import Usage, adjust

SMALL = ModelConfig(num_layers=1, hidden_size=32, ffn_hidden_size=32, expert_ffn_hidden_size=16)
RECIPE = Recipe(steps=4, batch_dialogues=2, groups=2, warmup=2)


def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = Run.open(tmp_path / "whole", SMALL, RECIPE)
    for _ in range(4):
        whole.advance()
    first = Run.open(tmp_path / "halves", SMALL, RECIPE)
    first.advance()
    first.advance()
    first.save()
    second = Run.open(tmp_path / "halves", SMALL, RECIPE)
    assert second.step == 2
    second.advance()
    second.advance()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_run_rejects_the_folder_of_another_recipe(tmp_path: Path) -> None:
    Run.open(tmp_path, SMALL, RECIPE)
    with pytest.raises(ValueError, match=r"recipe\.json"):
        Run.open(tmp_path, SMALL, Recipe(steps=5))


def test_controller_brings_a_random_router_to_the_target() -> None:
    torch.manual_seed(0)
    moe = MoE(ModelConfig())
    for parameter in moe.experts.parameters():
        torch.nn.init.zeros_(parameter)
    x_TD = torch.randn(512, 128) + 0.5 * torch.randn(128)
    everything_T = torch.ones(512, dtype=torch.bool)
    usage: list[Usage] = []
    for _ in range(300):
        moe(x_TD)
        usage.append(adjust(moe, everything_T, ffn_experts=3.0, rate=0.1))
    assert abs(usage[0].mean - 3.0) > 0.5
    assert usage[-1].mean == pytest.approx(3.0, rel=0.02)
    assert usage[-1].busiest < 1.2 < usage[0].busiest
    assert usage[-1].std > 0.5
    assert not moe.router.e_score_correction_bias[16:].any()
