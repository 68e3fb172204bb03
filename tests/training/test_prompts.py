"""Prompts that are learned beside answers, and embeddings that begin with something in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.data.batches import batch, dealt, encode
from training.data.dialogues import dialogues
from training.model.config import ModelConfig
from training.recipe import Recipe, TrunkRecipe
from training.trunk import Trunk, TrunkReport

SMALL = ModelConfig(num_layers=1, hidden_size=32, ffn_hidden_size=32, expert_ffn_hidden_size=16)
RECIPE = Recipe(model=SMALL, trunk=TrunkRecipe(steps=4, batch_dialogues=4, groups=2, warmup=2))


def test_a_prompts_tokens_weigh_what_the_recipe_says(tmp_path: Path) -> None:
    tokenizer = Trunk(tmp_path, RECIPE).tokenizer
    some = list(dialogues(3, 0, 5))
    answers, whole = batch(tokenizer, some, 2), batch(tokenizer, some, 2, 0.25)
    lengths = [len(encode(tokenizer, one)[0]) for one in some]
    assert len(whole.target_A) == sum(lengths) - len(some), "all but the first of each dialogue"
    assert [int((whole.dialogue_A == number).sum()) for number in range(5)] == [length - 1 for length in lengths]
    assert torch.equal(whole.target_A, whole.ids_T[whole.wanted_A + 1])
    assert bool(answers.answer_A.all())
    for name in ("wanted_A", "target_A", "weight_A", "dialogue_A"):
        assert torch.equal(getattr(whole, name)[whole.answer_A], getattr(answers, name)), name
    assert set(whole.weight_A[~whole.answer_A].tolist()) == {0.25}
    parts = dealt(tokenizer, some, 2, 0.25)
    assert sum(len(part.target_A) for part in parts) == len(whole.target_A)


def first_step(folder: Path, recipe: Recipe) -> TrunkReport:
    """The first step's, of a model whose head is not zero."""
    trunk = Trunk(folder, recipe)
    with torch.no_grad():
        trunk.model.lm_head.weight.normal_(generator=torch.Generator().manual_seed(1))
    return trunk.advance()


@pytest.mark.parametrize("determinism", [False, True])
def test_learned_prompts_change_the_loss_and_not_the_count_of_right_answers(tmp_path: Path, determinism: bool) -> None:
    plain = replace(RECIPE, determinism=determinism, trunk=replace(RECIPE.trunk, batch_dialogues=32))
    learned = replace(plain, trunk=replace(plain.trunk, prompt_weight=0.25))
    reports = [first_step(tmp_path / str(number), recipe) for number, recipe in enumerate((plain, learned))]
    assert reports[0].loss != reports[1].loss
    assert reports[0].right == reports[1].right > 0, "of the same weights, on the same answers"


def test_embeddings_begin_with_what_the_recipe_says_in_common(tmp_path: Path) -> None:
    found = {}
    for mean in (0.0, 0.7):
        trunk = Trunk(tmp_path / str(mean), replace(RECIPE, trunk=replace(RECIPE.trunk, embedding_mean=mean)))
        found[mean] = trunk.model.embed_tokens.weight.detach()
    common_VD = found[0.7] - found[0.0]
    assert torch.allclose(common_VD, common_VD[:1].expand_as(common_VD), atol=1e-6)
    assert 0.4 < float(common_VD[0].square().mean().sqrt()) < 1.0
