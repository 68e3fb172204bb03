"""The stages of data: their order, their exits, their rope theta; and the search for mixtures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.curriculum.built_in import MIXTURES, curriculum, trunk_recipe
from training.curriculum.search import AIMS, FLOORS, LEAST, MOST, PowerLaws, choose, objective, raised, random_mixtures
from training.curriculum.stages import CurriculumRecipe, DataStage
from training.data.corpus import KINDS, Mixture
from training.model.config import ModelConfig
from training.recipe import Recipe, TrunkRecipe
from training.trunk import Trunk

SMALL = ModelConfig(num_layers=1, hidden_size=32, ffn_hidden_size=32, expert_ffn_hidden_size=16)
EASY = Mixture.of({"arithmetic": 1})
TRIED = TrunkRecipe(
    tokenizer_dialogues=100,
    steps=6,
    batch_dialogues=2,
    groups=2,
    warmup=2,
    check_every=1,
    check_dialogues=2,
    save_every=1,
)
RESULT = Path(__file__).parents[2] / "docs" / "training" / "mixtures.json"


def stages(exact: float) -> CurriculumRecipe:
    """Two stages of three steps; the first is left at its first check when `exact` is 0."""
    first = DataStage("first", 3, EASY, 0.0, exact, 10_000.0)
    return CurriculumRecipe((first, replace(first, name="second", exact=2.0, rope_theta=50_000.0)))


def recipe(exact: float) -> Recipe:
    return Recipe(model=SMALL, curriculum=stages(exact), trunk=TRIED)


def ended(trunk: Trunk) -> list[dict[str, Any]]:
    """Runs to the end, checking at every step, and returns the log."""
    while trunk.step < trunk.plan.steps:
        report = trunk.advance()
        trunk.folder.log({"kind": "step", "step": trunk.step})
        trunk.check(report)
        trunk.save()
    return [json.loads(line) for line in trunk.folder.log_path.read_text().splitlines()]


def test_the_built_in_curriculum_is_the_reports() -> None:
    made = curriculum()
    assert [stage.name for stage in made.stages] == list(AIMS)
    assert [stage.long_share for stage in made.stages] == [0.0, 0.0, 0.25, 0.1]
    thetas = [stage.rope_theta for stage in made.stages]
    assert thetas == sorted(thetas)
    assert thetas[2] > thetas[1]
    rates = trunk_recipe(made).rates
    assert rates[-1] == (made.steps, 0.0)
    factors = [factor for _, factor in rates]
    assert factors == sorted(factors, reverse=True)
    assert trunk_recipe(made.shortened(4)).rates[-1] == (4, 0.0)
    assert made.shortened(4).steps == 4


def test_steps_belong_to_stages() -> None:
    made = stages(2.0)
    assert [made.at(step).name for step in (0, 2, 3, 5, 6)] == ["first", "first", "second", "second", "second"]
    assert [made.end(step) for step in (0, 2, 3, 5)] == [3, 3, 6, 6]


def test_a_stage_without_success_takes_all_its_steps(tmp_path: Path) -> None:
    trunk = Trunk(tmp_path, recipe(2.0))
    log = ended(trunk)
    assert [one["step"] for one in log if one["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert not [one for one in log if one["kind"] == "stage"]
    assert trunk.model.config.rope_theta == 50_000.0


def test_a_stage_that_meets_its_criterion_is_left(tmp_path: Path) -> None:
    log = ended(Trunk(tmp_path, recipe(0.0)))
    assert [one["step"] for one in log if one["kind"] == "step"] == [1, 4, 5, 6]
    (left,) = [one for one in log if one["kind"] == "stage"]
    assert (left["left"], left["at"], left["step"]) == ("first", 1, 3)


def test_theta_is_the_stages_and_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    whole = Trunk(tmp_path / "whole", recipe(0.0))
    assert whole.model.config.rope_theta == 10_000.0
    ended(whole)
    first = Trunk(tmp_path / "halves", recipe(0.0))
    report = first.advance()
    first.check(report)
    first.save()
    second = Trunk(tmp_path / "halves", recipe(0.0))
    assert second.step == 3
    assert second.model.config.rope_theta == 10_000.0, "what it was trained with so far"
    ended(second)
    assert second.model.config.rope_theta == 50_000.0
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_random_mixtures_are_within_their_bounds() -> None:
    shares = random_mixtures(np.random.default_rng(1), 500)
    assert shares.shape == (500, len(KINDS))
    assert shares.min() >= LEAST
    assert shares.max() <= MOST
    assert np.allclose(shares.sum(1), 1)


def test_the_search_finds_the_mixture_that_helps() -> None:
    """Losses that fall where a kind has its share, all kinds alike but for `agent`, which hurts whatever it does."""
    rng = np.random.default_rng(2)
    shares = random_mixtures(rng, 40)
    effect = -np.eye(len(KINDS))
    effect[:, KINDS.index("agent")] = 0
    losses = np.exp(1 + np.log(shares * len(KINDS)) @ (effect / 5))
    assert np.allclose(PowerLaws.through(shares, losses, 1e-9).foretell(shares), losses, atol=1e-4)
    chosen = choose(rng, shares, losses, 1e-6)
    for stage, aims in AIMS.items():
        found = chosen[stage]["shares"]
        favourite = max(aims, key=lambda kind: aims[kind] if kind != "agent" else 0)
        assert found[favourite] > found["agent"], stage
        assert chosen[stage]["rank_correlation_left_out"] > 0.9
    assert objective(np.zeros((1, len(KINDS))), AIMS["pre-training"])[0] == 0


def test_floors_are_kept_and_the_others_give_what_they_take() -> None:
    shares = random_mixtures(np.random.default_rng(3), 200)
    for floors in (*FLOORS.values(), {}):
        for share_K in shares:
            found_K = raised(share_K, floors)
            assert found_K.sum() == pytest.approx(1.0)
            kinds = dict(zip(KINDS, zip(share_K, found_K, strict=True), strict=True))
            assert all(after == max(before, floors[kind]) for kind, (before, after) in kinds.items() if kind in floors)
            ratios = [after / before for kind, (before, after) in kinds.items() if kind not in floors]
            assert max(ratios) == pytest.approx(min(ratios))


def test_the_recipes_mixtures_are_those_of_the_committed_search() -> None:
    assert MIXTURES.exists() == RESULT.exists()
    if not MIXTURES.exists():
        assert {stage.mixture for stage in curriculum().stages} == {Mixture()}, "even without a search"
        return
    result = json.loads(RESULT.read_text())
    assert json.loads(MIXTURES.read_text()) == {name: found["shares"] for name, found in result["chosen"].items()}
    assert {name: found["aims"] for name, found in result["chosen"].items()} == AIMS
    assert {name: found["floors"] for name, found in result["chosen"].items() if found["floors"]} == FLOORS


def test_without_a_curriculum_the_small_dialogues_are_learned(tmp_path: Path) -> None:
    trunk = Trunk(tmp_path, replace(recipe(2.0), curriculum=None))
    trunk.advance()
    assert trunk.model.config.rope_theta == SMALL.rope_theta
    with pytest.raises(ValueError, match=r"recipe\.json"):
        Trunk(tmp_path, recipe(2.0))
