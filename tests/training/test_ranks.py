"""Ranks, expert groups and threads in any number give the same bits of every tensor of a checkpoint, killed or not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from support.ranks import start_ranks, wait_for
from torch import Tensor
from torch.nn import functional as F

from training.data.batches import Batch, batch, dealt
from training.data.dialogues import dialogues
from training.determinism.mode import make_deterministic
from training.determinism.watch import Watch
from training.distributed.team import ALONE, Disagreement, InvalidTeam, Team
from training.execution import Execution
from training.model.config import ModelConfig
from training.model.longcat_flash import LongcatFlash
from training.recipe import AdamRecipe, GrowthRecipe, Recipe, TrunkRecipe
from training.trunk import Trunk

pytestmark = pytest.mark.processes
SIZES = {"vocab_size": 320, "hidden_size": 16, "num_layers": 2, "ffn_hidden_size": 16, "expert_ffn_hidden_size": 8}
TRUNK = TrunkRecipe(
    bfloat16=False,  # oneDNN compiles bf16 products for each new shape
    tokenizer_dialogues=5,
    steps=4,
    batch_dialogues=8,
    groups=8,
    warmup=2,
    check_every=3,
    check_dialogues=1,
    save_every=2,
)
RECIPE = Recipe(model=ModelConfig(**SIZES), trunk=TRUNK, determinism=True)


def train(folder: Path, team: Team, threads: int = 1, interval: int = 0, recipe: Recipe = RECIPE) -> None:
    make_deterministic()
    Trunk(folder, recipe, Execution(team, threads, Watch(interval))).run(Console(quiet=True))


def checkpoint(folder: Path) -> dict[str, Tensor]:
    tensors = load_file(folder / "checkpoint.safetensors")
    del tensors["progress"]
    return tensors


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name, value in one.items() if not torch.equal(value, other[name])]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    folder = tmp_path_factory.mktemp("alone")
    assert wait_for(start_ranks(1, None, lambda team: train(folder, team))) == [0]
    return checkpoint(folder)


@pytest.mark.parametrize(
    ("ranks", "sharing", "threads", "interval"),
    [(1, None, 3, 1), (2, None, 1, 0), (2, 1, 2, 0), (4, None, 1, 2), (4, 2, 1, 0)],
    ids=["threads and a watch", "two ranks", "replicas of all experts", "four ranks and a watch", "two expert groups"],
)
def test_same_bits(
    tmp_path: Path, alone: dict[str, Tensor], ranks: int, sharing: int | None, threads: int, interval: int
) -> None:
    assert len(alone) > 60
    done = wait_for(start_ranks(ranks, sharing, lambda team: train(tmp_path, team, threads, interval)))
    assert done == [0] * ranks
    assert_equal(alone, checkpoint(tmp_path))


def test_same_bits_in_bfloat16(tmp_path: Path) -> None:
    recipe = replace(RECIPE, trunk=replace(TRUNK, bfloat16=True, steps=1))
    for ranks in (1, 2):
        work = partial(train, tmp_path / str(ranks), recipe=recipe)
        assert wait_for(start_ranks(ranks, None, work)) == [0] * ranks
    assert_equal(checkpoint(tmp_path / "1"), checkpoint(tmp_path / "2"))


@pytest.mark.parametrize(("sharing", "adam"), [(2, None), (1, AdamRecipe())], ids=["shared experts", "AdamW alone"])
def test_a_run_grows_with_the_same_bits_on_ranks(tmp_path: Path, sharing: int, adam: AdamRecipe | None) -> None:
    """Its layers are stacked between two checkpoints; the second run begins with two ranks and ends with one."""
    recipe = replace(RECIPE, trunk=replace(TRUNK, save_every=3), growth=GrowthRecipe(2), adam=adam)
    assert wait_for(start_ranks(1, None, partial(train, tmp_path / "alone", recipe=recipe))) == [0]

    def part(team: Team) -> None:
        make_deterministic()
        trunk = Trunk(tmp_path / "ranks", recipe, Execution(team, 1, Watch(1)))
        for _ in range(3):
            trunk.begin()
            trunk.advance()
            trunk.remember()
        trunk.save()

    assert wait_for(start_ranks(2, sharing, part)) == [0, 0]
    assert wait_for(start_ranks(1, None, partial(train, tmp_path / "ranks", recipe=recipe))) == [0]
    grown = checkpoint(tmp_path / "ranks")
    assert_equal(checkpoint(tmp_path / "alone"), grown)
    assert "weight.layers.1.mlp.experts.down_EDF" in grown
    assert grown["flops"] > 0


def test_kills_of_any_rank_change_no_bit(tmp_path: Path, alone: dict[str, Tensor]) -> None:
    """A rank of two or four is killed, and the run goes on with another number; when it has ended, another begins."""
    rng, kills, run = Random(3), 0, 0
    began = time.perf_counter()
    assert wait_for(start_ranks(2, None, partial(train, tmp_path / "timed"))) == [0, 0]
    whole = time.perf_counter() - began
    while kills < 3:
        children = start_ranks(rng.choice((2, 4)), None, partial(train, tmp_path / str(run)))
        time.sleep(rng.uniform(0.0, 0.7 * whole))
        os.kill(rng.choice(children), signal.SIGKILL)
        codes = wait_for(children)
        if any(codes):
            kills += 1
        else:
            run, whole = run + 1, 0.7 * whole
    assert wait_for(start_ranks(1, None, partial(train, tmp_path / str(run)))) == [0]
    for folder in tmp_path.iterdir():
        assert_equal(alone, checkpoint(folder))


def test_gradients_are_those_of_one_backward_pass(tmp_path: Path) -> None:
    trunk = Trunk(tmp_path, replace(RECIPE, balance=None))
    stream = list(dialogues(1, 0, 8))

    def loss(model: LongcatFlash, part: Batch) -> Tensor:
        logits_AV = model(part.ids_T, part.groups, part.wanted_A)
        return F.cross_entropy(logits_AV, part.target_A, reduction="sum")

    def loss_of_group(model: LongcatFlash, part: Batch) -> tuple[Tensor, Tensor, Callable[[], Tensor]]:
        own = loss(model, part)
        return own, own, lambda: torch.zeros(1)

    assert trunk.engine
    for value in trunk.model.parameters():
        torch.nn.init.normal_(value, 0.0, 0.2, generator=torch.Generator().manual_seed(value.numel()))
    trunk.engine.step(dealt(trunk.tokenizer, stream, 8), loss_of_group)
    found = {name: value.grad for name, value in trunk.model.named_parameters()}
    trunk.model.zero_grad()
    loss(trunk.model, batch(trunk.tokenizer, stream, 8)).backward()
    for name, value in trunk.model.named_parameters():
        expected, got = value.grad, found[name]
        assert expected is not None
        assert got is not None
        assert (got - expected).norm() <= 1e-4 * expected.norm() + 1e-9, name


def test_teams_that_cannot_keep_the_order_are_rejected() -> None:
    ALONE.check(7, 13)
    for team, message in (
        (Team(0, 3, 3), "3 ranks"),
        (Team(0, 4, 4), "6 padded groups"),
        (Team(0, 2, 4), "expert groups of 4"),
    ):
        with pytest.raises(InvalidTeam, match=message):
            team.check(6 if "6" in message else 8, 16)
    with pytest.raises(InvalidTeam, match="12 experts cannot be shared by 8 ranks"):
        Team(0, 8, 8).check(8, 12)


def test_several_threads_of_a_rank_need_tags() -> None:
    """NCCL has none."""
    with pytest.raises(InvalidTeam, match="2 threads"):
        Execution(Team(0, 2, 2, torch.device("cuda")), threads=2)


def test_ranks_that_begin_with_different_values_stop() -> None:
    def disagree(team: Team) -> None:
        with pytest.raises(Disagreement, match=r"tokenizer: ranks \[1\] differ"):
            team.agree("tokenizer", b"one" if team.rank == 1 else b"other")

    assert wait_for(start_ranks(2, None, disagree)) == [0, 0]


def test_several_ranks_need_determinism(tmp_path: Path) -> None:
    plain = Recipe(model=RECIPE.model, trunk=TRUNK)
    with pytest.raises(InvalidTeam, match="determinism"):
        Trunk(tmp_path, plain, Execution(Team(0, 2, 2)))
