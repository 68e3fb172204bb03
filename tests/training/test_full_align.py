"""Adam LR Full Align: what is scaled and what is not; how far a wider model's first step goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.experiments.transfer import Grid, best, compared, sized
from training.model.longcat_flash import LongcatFlash
from training.optimizer.full_align import deviation_of, rate_of
from training.recipe import AdamRecipe
from training.trunk import Trunk

ADAM = AdamRecipe(rate=0.01, variance=0.5)


def test_rates_and_variances_by_kind() -> None:
    narrow, wide = (LongcatFlash(sized(width, 4, 1, ADAM).model) for width in (32, 128))
    for (name, one), (_, other) in zip(narrow.named_parameters(), wide.named_parameters(), strict=True):
        aligned, plain = replace(ADAM, scale=4.0), replace(ADAM, scale=4.0, aligned=False)
        kept = one.ndim == 1 or name == "embed_tokens.weight"
        assert rate_of(name, other, aligned) == (0.01 if kept else 0.0025)
        assert rate_of(name, other, plain) == rate_of(name, one, ADAM) == 0.01
        if one.ndim > 1:
            assert deviation_of(plain)(name, other) == pytest.approx(deviation_of(ADAM)(name, one))
            ratio = deviation_of(aligned)(name, other) / deviation_of(ADAM)(name, one)
            assert ratio == pytest.approx(1.0 if kept else 0.5)


def first_changes(folder: Path, scale: int, aligned: bool) -> tuple[float, float]:
    """Returns the mean square of the logits, and of what one step changes of them."""
    adam = AdamRecipe(rate=0.01, scale=float(scale), aligned=aligned)
    recipe = sized(32 * scale, 4, 1, adam)
    trunk = Trunk(folder, replace(recipe, trunk=replace(recipe.trunk, warmup=1)))
    ids_T, groups, wanted_A = torch.arange(60) + 4, [(2, 30)], torch.arange(60)
    with torch.no_grad():
        before_AV = trunk.model(ids_T, groups, wanted_A)
    trunk.advance()
    with torch.no_grad():
        changed_AV = trunk.model(ids_T, groups, wanted_A) - before_AV
    return before_AV.square().mean().item(), changed_AV.square().mean().item()


def test_with_the_rules_a_wider_model_begins_as_the_proxy_and_moves_no_further(tmp_path: Path) -> None:
    size, change = first_changes(tmp_path / "proxy", 1, True)
    wide_size, wide_change = first_changes(tmp_path / "wide", 4, True)
    plain_size, plain_change = first_changes(tmp_path / "plain", 4, False)
    assert wide_size == pytest.approx(size, rel=0.3)
    assert 0 < wide_change < 2 * change
    assert plain_size > 2.5 * wide_size
    assert plain_change > 5 * wide_change


def test_adam_alone_trains_every_parameter_with_state(tmp_path: Path) -> None:
    recipe = sized(32, 4, 1, ADAM)
    trunk = Trunk(tmp_path, replace(recipe, trunk=replace(recipe.trunk, save_every=2, weight_decay=0.1)))
    before = {name: value.clone() for name, value in trunk.model.named_parameters()}
    trunk.advance()
    trunk.advance()
    trunk.save()
    assert not trunk.optimizer.momentum
    assert all(not torch.equal(value, before[name]) for name, value in trunk.model.named_parameters())
    again = Trunk(tmp_path, trunk.recipe)
    for run in (trunk, again):
        run.advance()
        run.advance()
    for name, value in trunk.tensors().items():
        assert name == "progress" or torch.equal(value, again.tensors()[name]), name


def test_the_best_of_a_grid_and_how_far_a_choice_is_from_it() -> None:
    grid = Grid([0.1, 0.2, 0.4, 0.8], [0.5, 1.0, 2.0])
    losses = [[3.0, 2.0, float("nan"), 5.0], [3.0, 1.5, 1.0, 1.2], [9.0] * 4]
    assert best(losses) == (1, 2)
    found = compared(grid, losses, (0, 1))
    assert found["steps_from_choice_to_best"] == {"rate": 1, "variance": 1}
    assert found["within_one_step"] is True
    assert found["loss_above_best"] == 1.0
    assert compared(grid, losses, (1, 0))["within_one_step"] is False
