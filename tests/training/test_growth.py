"""A run that grows: what stacking keeps; by command or in the run, interrupted or not, the bits are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from training.curriculum.stages import CurriculumRecipe, DataStage
from training.data.corpus import Mixture
from training.distributed.team import InvalidTeam, Team
from training.execution import Execution
from training.grow import grow
from training.model.config import Architecture, ModelConfig
from training.model.growth import depth, stacked
from training.model.longcat_flash import LongcatFlash
from training.recipe import AdamRecipe, ControllerRecipe, GrowthRecipe, Recipe, TrunkRecipe
from training.trunk import Trunk

SIZES = ModelConfig(vocab_size=320, num_layers=4, hidden_size=32, ffn_hidden_size=32, expert_ffn_hidden_size=16)
PLAN = TrunkRecipe(
    tokenizer_dialogues=20, steps=6, batch_dialogues=2, groups=1, warmup=2, bfloat16=False, check_dialogues=2
)
DEEP = Recipe(model=SIZES, trunk=PLAN, mtp=None, growth=GrowthRecipe(step=3, factor=2))
SHALLOW = replace(DEEP, model=replace(SIZES, num_layers=2), growth=None)
QUIET = Console(quiet=True)


def advanced(trunk: Trunk, steps: int) -> Trunk:
    for _ in range(steps):
        trunk.advance()
    return trunk


def assert_same(one: Trunk, other: Trunk) -> None:
    mine, theirs = one.tensors(), other.tensors()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items() if name != "progress")
    assert mine["progress"][0] == theirs["progress"][0]


@pytest.mark.parametrize("adam", [None, AdamRecipe()])
def test_stacking_keeps_weights_biases_moments_and_counters(tmp_path: Path, adam: AdamRecipe | None) -> None:
    trunk = advanced(Trunk(tmp_path, replace(DEEP, adam=adam)), 3)
    assert trunk.model.config.num_layers == 2
    before = trunk.tensors()
    trunk._grow_when_due()
    assert trunk.model.config.num_layers == 4
    after = trunk.tensors()
    assert depth(before) == 2
    assert depth(after) == 4
    for name, value in after.items():
        origin = name.replace("layers.2.", "layers.0.").replace("layers.3.", "layers.1.")
        assert torch.equal(value, before[origin]), name
    state = "adam.exp_avg_sq" if adam else "momentum"
    assert after[f"{state}.layers.3.mlps.1.down_proj.weight"].any()
    assert after["weight.layers.2.mlp.router.e_score_correction_bias"].any()
    assert after["adam.step.layers.3.mlp.router.classifier.weight"] == 3.0
    assert trunk.step == 3  # the counter of the schedule and of the samples


def test_the_first_half_of_a_grown_model_computes_what_the_shallow_one_did() -> None:
    """All that stacking preserves of the function: embedding, the first layers, and what they route where."""
    shallow = LongcatFlash(SHALLOW.model)
    shallow.initialise(1, lambda name, weight: 0.2)
    deep = LongcatFlash(SIZES)
    deep.load_state_dict(stacked(shallow.state_dict(), 2))
    ids_T = torch.arange(40) % 300
    outputs: list[torch.Tensor] = []
    hook = deep.layers[1].register_forward_hook(lambda module, given, output: outputs.append(output))
    last_TD = deep.states(ids_T, [(2, 20)])
    hook.remove()
    assert torch.equal(outputs[0], shallow.states(ids_T, [(2, 20)]))
    assert not torch.equal(outputs[0], last_TD)
    for mine, theirs in zip(deep.mixtures(), shallow.mixtures(), strict=False):
        assert mine.chosen_TK is not None
        assert theirs.chosen_TK is not None
        assert torch.equal(mine.chosen_TK, theirs.chosen_TK)


def test_layers_that_add_nothing_leave_the_function_as_it_is() -> None:
    """Weights that write to the residual stream begin at zero; so does what stacking makes of the first bits."""
    shallow, deep = LongcatFlash(SHALLOW.model), LongcatFlash(SIZES)
    shallow.initialise(1)
    for moe in shallow.mixtures():
        moe.router.e_score_correction_bias[SIZES.n_routed_experts :] = -10.0  # no zero expert, which adds its input
    deep.load_state_dict(stacked(shallow.state_dict(), 2))
    ids_T = torch.arange(40) % 300
    assert torch.equal(deep.states(ids_T, [(2, 20)]), shallow.states(ids_T, [(2, 20)]))


def test_a_grown_run_goes_on_from_before_and_behind_its_growth(tmp_path: Path) -> None:
    whole = advanced(Trunk(tmp_path / "whole", DEEP), 6)
    for stop in (2, 3, 4):
        folder = tmp_path / str(stop)
        advanced(Trunk(folder, DEEP), stop).save()
        again = Trunk(folder, DEEP)
        assert again.model.config.num_layers == (4 if stop > 3 else 2)
        assert_same(advanced(again, 6 - stop), whole)


def test_a_grown_run_by_padded_groups_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    """The threads' lanes and the suite are the deep model's after the growth, and after a restart behind it."""
    plan = replace(PLAN, batch_dialogues=4, groups=2)
    recipe = replace(DEEP, trunk=plan, determinism=True, controller=ControllerRecipe(integral=0.1))
    whole = advanced(Trunk(tmp_path / "whole", recipe), 6)
    assert len(whole.suite.mixtures) == len(whole.suite.balances) == 4
    advanced(Trunk(tmp_path / "threads", recipe, Execution(threads=2)), 4).save()
    assert_same(advanced(Trunk(tmp_path / "threads", recipe), 2), whole)


def test_the_controllers_state_is_stacked(tmp_path: Path) -> None:
    trunk = advanced(Trunk(tmp_path, replace(DEEP, controller=ControllerRecipe(integral=0.1))), 3)
    assert trunk.suite.controller
    before_LN = trunk.suite.controller.sum_LN
    assert before_LN.any()
    trunk._grow_when_due()
    assert torch.equal(trunk.suite.controller.sum_LN, torch.cat([before_LN, before_LN]))


def test_a_stage_that_is_left_early_does_not_skip_the_growth(tmp_path: Path) -> None:
    first = DataStage("first", 4, Mixture.of({"arithmetic": 1}), 0.0, 0.0, 10_000.0)
    second = replace(first, name="second", steps=2, rope_theta=50_000.0)
    recipe = replace(DEEP, curriculum=CurriculumRecipe((first, second)))
    trunk = Trunk(tmp_path / "run", recipe)
    trunk.check(trunk.advance())
    assert (trunk.step, trunk.model.config.num_layers) == (4, 2)
    trunk.advance()
    assert (trunk.model.config.num_layers, trunk.model.config.rope_theta) == (4, 50_000.0)
    with pytest.raises(ValueError, match="inside the last stage"):
        Trunk(tmp_path / "wrong", replace(recipe, growth=GrowthRecipe(5)))


def test_operations_are_counted_alike_with_and_without_determinism(tmp_path: Path) -> None:
    """As one batch, and dealt in padded groups that are computed one by one."""
    plan = replace(PLAN, batch_dialogues=4, groups=4)
    one, dealt = (
        advanced(Trunk(tmp_path / str(flag), replace(DEEP, trunk=plan, balance=None, determinism=flag)), 1).flops
        for flag in (False, True)
    )
    assert 0 < one <= dealt < 1.5 * one  # a group that is computed alone is padded to a multiple of 16


def test_what_does_not_go_with_adam_alone_is_refused(tmp_path: Path) -> None:
    recipe = replace(DEEP, adam=AdamRecipe(), determinism=True, trunk=replace(PLAN, groups=2))
    with pytest.raises(InvalidTeam, match="they are shared by 2 ranks"):
        Trunk(tmp_path, recipe, Execution(Team(0, 2, 2)))
    with pytest.raises(ValueError, match="one_variance"):
        Trunk(tmp_path, replace(recipe, architecture=Architecture(one_variance=True)))


def test_growing_by_command_is_growing_in_the_run(tmp_path: Path) -> None:
    whole = Trunk(tmp_path / "whole", DEEP)
    whole.run(QUIET)
    shallow = advanced(Trunk(tmp_path / "shallow", SHALLOW), 3)
    shallow.folder.log({"kind": "step", "step": 3, "loss": 1.0})
    shallow.save()
    for _ in range(2):  # the second time there is nothing to do
        grow(tmp_path / "shallow", tmp_path / "deep", 2)
    deep = Trunk(tmp_path / "deep", DEEP)
    assert deep.step == 3
    assert '"loss": 1.0' in deep.folder.log_path.read_text()
    deep.run(QUIET)
    assert_same(deep, whole)


def test_what_cannot_grow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run with a checkpoint"):
        grow(tmp_path / "none", tmp_path / "to", 2)
    ended = Trunk(tmp_path / "ended", SHALLOW)
    ended.run(QUIET)
    with pytest.raises(ValueError, match="ended with step 6"):
        grow(tmp_path / "ended", tmp_path / "to", 2)
    advanced(Trunk(tmp_path / "deep", DEEP), 4).save()
    with pytest.raises(ValueError, match="grows at step 3 already"):
        grow(tmp_path / "deep", tmp_path / "to", 2)
    advanced(Trunk(tmp_path / "begun", SHALLOW), 1).save()
    with pytest.raises(ValueError, match="stacking its layers 1 times"):
        grow(tmp_path / "begun", tmp_path / "to", 1)
    for growth, words in ((GrowthRecipe(3, 3), "stacked 3 times"), (GrowthRecipe(6, 2), "step 6")):
        with pytest.raises(ValueError, match=words):
            Trunk(tmp_path / "wrong", replace(DEEP, growth=growth))
