"""Single bits are flipped in a tiny run: what the watch covers is found, and the resumed run has the right bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support.ranks import start_ranks, wait_for
from torch import Tensor

from training.determinism.faults import Faults
from training.determinism.recorded import Recorded, same_bits
from training.determinism.watch import CorruptionFound, Watch, fingerprint
from training.distributed.replicas import minority
from training.distributed.team import ALONE, Team
from training.execution import Execution
from training.model.config import ModelConfig
from training.recipe import Recipe, TrunkRecipe
from training.trunk import Trunk

SIZES = {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "ffn_hidden_size": 16, "expert_ffn_hidden_size": 8}
TRUNK = TrunkRecipe(
    bfloat16=False,  # oneDNN compiles bf16 products for each new shape
    tokenizer_dialogues=5,
    steps=4,
    batch_dialogues=2,
    groups=1,
    warmup=2,
    check_every=9,
    check_dialogues=1,
    save_every=1,
)
RECIPE = Recipe(model=ModelConfig(**SIZES), trunk=TRUNK, determinism=True)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(folder: Path, watch: Watch, team: Team = ALONE, recipe: Recipe = RECIPE) -> dict[str, Tensor]:
    trunk = Trunk(folder, recipe, Execution(team, watch=watch))
    trunk.run(Console(quiet=True))
    return trunk.model.state_dict()


def test_a_clean_run_raises_no_alarm_and_keeps_its_bits(tmp_path: Path) -> None:
    watch = Watch(1, expert_share=1.0)
    watched = run(tmp_path / "watched", watch)
    assert watch.compared["attention"] == 4 * 2 * 2  # steps, attentions, and the padded group's repetition
    assert watch.compared["expert"] > 4 * 8
    assert watch.compared["padded group"] == 4
    assert watch.compared["at rest"] == 7  # before three steps and four checkpoints
    plain = run(tmp_path / "plain", Watch())
    assert all(torch.equal(value, watched[name]) for name, value in plain.items())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("attention output", "self_attn.*: output"),
        ("attention gradient", "self_attn.*: gradient of input 0"),
        ("expert output", "expert [0-9]+: .*: output"),
        ("expert gradient", "expert [0-9]+: .*: gradient of input 0"),
        ("dense output", "a padded group computed again"),
        ("weight", "changed between two steps: weight"),
        ("optimizer state", "changed between two steps: (adam|momentum)"),
    ],
)
def test_a_flipped_bit_is_found_and_the_run_resumes_with_the_right_ones(
    tmp_path: Path, kind: str, message: str
) -> None:
    faults = Faults(kind, first=2, last=2, seed=2)
    with pytest.raises(CorruptionFound, match=f"step 2: .*{message}"):
        run(tmp_path / "hit", Watch(2, 1.0, faults))
    assert len(faults.hits) == 1
    resumed = run(tmp_path / "hit", Watch())
    undisturbed = run(tmp_path / "undisturbed", Watch())
    assert all(torch.equal(value, undisturbed[name]) for name, value in resumed.items())


def test_a_flip_outside_the_interval_and_one_in_a_summed_gradient_are_not_found_by_one_rank(tmp_path: Path) -> None:
    undisturbed = run(tmp_path / "undisturbed", Watch())

    def changes_the_run(kind: str, step: int, seed: int) -> bool:
        faults = Faults(kind, first=step, last=step, seed=seed)
        hit = run(tmp_path / f"{kind} {seed}", Watch(2, 1.0, faults))
        assert len(faults.hits) == 1
        return any(not torch.equal(value, undisturbed[name]) for name, value in hit.items())

    for kind, step in (("dense output", 3), ("summed gradient", 2)):
        assert any(changes_the_run(kind, step, seed) for seed in range(1, 9))


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["summed gradient", "weight"])
def test_ranks_find_what_only_one_of_them_has(tmp_path: Path, kind: str) -> None:
    """Rank 1 is hit behind the comparison of step 0; the next is that of step 2."""
    recipe = replace(RECIPE, trunk=replace(TRUNK, groups=2, save_every=4))

    def work(team: Team) -> None:
        # Seed 7 hits a tensor that both ranks have. A watch without fingerprints: weights are hit between two looks.
        faults = Faults(kind, first=1, last=1, seed=7) if team.rank == 1 else None
        watch = Unremembering(2, 1.0, faults)
        with pytest.raises(CorruptionFound, match=r"ranks have other bits of the same tensor: .* of rank 0, 1"):
            run(tmp_path, watch, team, recipe)

    assert wait_for(start_ranks(2, None, work)) == [0, 0]


class Unremembering(Watch):
    def rest(self, tensors: dict[str, Tensor]) -> None:
        """Keeps no fingerprint: as if the flip had come before it was taken."""


def test_every_bit_changes_a_fingerprint() -> None:
    for tensor in (torch.randn(7), torch.randn(4, 6), torch.randn(8).bfloat16()):
        before = fingerprint(tensor)
        for bit in range(8 * tensor.element_size()):
            other = tensor.clone()
            size = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
            other.view(size).view(-1)[3] ^= 1 << bit if bit < 8 * tensor.element_size() - 1 else -(1 << bit)
            assert not torch.equal(before, fingerprint(other))


def test_bits_are_compared_and_not_values() -> None:
    assert same_bits(torch.tensor([torch.nan]), torch.tensor([torch.nan]))
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    done = Recorded(torch.mul, torch.ones(2), torch.ones(2))
    assert done.differences(torch.ones(2), (torch.ones(2), torch.full((2,), 2.0))) == ["gradient of input 1"]


def test_the_majority_is_right() -> None:
    assert minority([0, 1, 2, 3], [5, 5, 7, 5]) == [2]
    assert minority([0, 1], [5, 7]) == [0, 1]
