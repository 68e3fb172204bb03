"""The parts that keep a run stable: each does what its formula says, can be left out, and resumes bit for bit."""

from __future__ import annotations

import math
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from services.process.metrics_server import serve_metrics
from training.experiments.proxy import proxy
from training.export.write import export
from training.model.config import Architecture, ModelConfig
from training.model.longcat_flash import LongcatFlash
from training.model.moe import MoE
from training.recipe import BalanceRecipe, ControllerRecipe, DisturbanceRecipe, HiddenRecipe, MonitorRecipe, Recipe
from training.stability.balance import RouterBalance
from training.stability.hidden_z_loss import hidden_z_loss
from training.stability.metrics import TrainingMetrics
from training.stability.spikes import WINDOW, Spikes
from training.stability.suite import mean_cosine
from training.trunk import Trunk

SMALL = ModelConfig(vocab_size=320, num_layers=1, hidden_size=32, ffn_hidden_size=32, expert_ffn_hidden_size=16)


def tiny(steps: int = 4) -> Recipe:
    recipe = proxy(steps, scale=1)
    trunk = replace(recipe.trunk, tokenizer_dialogues=20, batch_dialogues=2, groups=1)
    return replace(recipe, model=SMALL, trunk=trunk, monitors=MonitorRecipe(every=1))


def random_moe() -> MoE:
    moe = MoE(SMALL)
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.2)
    return moe


def balance_loss(score_TG: Tensor, gate_TK: Tensor, real_T: Tensor, recipe: BalanceRecipe) -> Tensor:
    """Eq. 3 to 5 as they are printed, without α."""
    experts, tokens = SMALL.n_routed_experts, int(real_T.sum())
    size = experts // recipe.groups
    loss = torch.zeros(())
    for group in range(recipe.groups + 1):
        gates = range(group * size, (group + 1) * size) if group < recipe.groups else range(experts, SMALL.num_gates)
        chosen = sum(int((gate_TK[real_T] == gate).sum()) for gate in gates)
        share = recipe.groups / recipe.ffn_experts
        f = (share if group < recipe.groups else 1 / (SMALL.moe_topk - recipe.ffn_experts)) * chosen / tokens
        loss = loss + f * score_TG[real_T][:, list(gates)].sum() / tokens
    return loss


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_the_balance_gradient_is_that_of_the_printed_loss(weight: float) -> None:
    torch.manual_seed(0)
    moe, recipe = random_moe(), BalanceRecipe(weight=weight, gradient_ratio=None)
    x_TD = torch.randn(40, SMALL.hidden_size)
    real_T = torch.arange(40) < 33
    seen: list[tuple[Tensor, Tensor]] = []
    moe.observer = lambda score_TG, gate_TK: seen.append((score_TG, gate_TK))
    out_TD = moe(x_TD)
    printed = balance_loss(*seen[0], real_T, recipe)
    (out_TD[real_T].square().sum() + weight * printed).backward()
    weight_GD = moe.router.classifier.weight
    assert weight_GD.grad is not None
    expected_GD, weight_GD.grad = weight_GD.grad.clone(), None
    moe.observer = balance = RouterBalance(SMALL, recipe)
    balance.real_T = real_T
    moe(x_TD)[real_T].square().sum().backward()
    torch.testing.assert_close(weight_GD.grad, expected_GD)
    assert balance.loss == pytest.approx(float(printed.detach()), rel=1e-5)


def test_the_weight_of_the_balance_loss_keeps_the_ratio() -> None:
    torch.manual_seed(0)
    ratios = {}
    for limit in (None, 0.09):
        moe = random_moe()
        moe.observer = balance = RouterBalance(SMALL, BalanceRecipe(weight=1000.0, gradient_ratio=limit))
        balance.real_T = torch.ones(40, dtype=torch.bool)
        moe(torch.randn(40, SMALL.hidden_size)).square().sum().backward()
        ratios[limit] = balance.ratio
        assert (balance.weight < 1000.0) is (limit is not None)
    assert ratios[None] > 0.1
    assert ratios[0.09] == pytest.approx(0.09)


def test_an_even_choice_has_a_balance_loss_of_one() -> None:
    balance = RouterBalance(SMALL, BalanceRecipe())
    balance.real_T = torch.ones(24, dtype=torch.bool)
    score_TG = torch.full((24, SMALL.num_gates), 1 / SMALL.num_gates, requires_grad=True)
    choice = [[t % 16, (t + 4) % 16, (t + 8) % 16, (t + 12) % 16, 16 + t % 8, 16 + (t + 1) % 8] for t in range(24)]
    balance(score_TG, torch.tensor(choice))
    assert balance.loss == pytest.approx(1.0)


def test_bad_groups_and_targets_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 groups have to divide 16 experts"):
        RouterBalance(SMALL, BalanceRecipe(groups=5))
    with pytest.raises(ValueError, match=r"3\.0 and 4\.0"):
        Trunk(tmp_path, replace(tiny(), controller=ControllerRecipe(ffn_experts=3.0)))


def test_hidden_z_loss_by_hand() -> None:
    state_RD = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    expected = (math.log(math.exp(1) + math.exp(2)) ** 2 + math.log(1 + math.exp(3)) ** 2) / 2
    assert float(hidden_z_loss(state_RD)) == pytest.approx(expected)


def test_the_hidden_z_loss_keeps_the_last_output_small(tmp_path: Path) -> None:
    norms = {}
    for weight in (0.0, 10.0):
        trunk = Trunk(tmp_path / str(weight), replace(tiny(12), hidden=HiddenRecipe(weight)))
        reports = [trunk.advance() for _ in range(12)]
        assert reports[-1].readings is not None
        norms[weight] = reports[-1].readings.hidden_norm
    assert norms[10.0] < 0.95 * norms[0.0]


def test_the_cosine_of_router_rows() -> None:
    assert mean_cosine(torch.eye(4)) == pytest.approx(0.0, abs=1e-6)
    assert mean_cosine(torch.ones(4, 3)) == pytest.approx(1.0)
    assert mean_cosine(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0]])) == pytest.approx(-1 / 3)


def test_spikes_are_counted_and_end() -> None:
    spikes = Spikes()
    usual = [2.0 + 0.1 * (step % 3) for step in range(WINDOW + 4)]
    for loss in [*usual, 5.0, 4.0, math.nan, 2.1, 2.0, *usual, 9.0, 2.0]:
        spikes.see(loss)
    assert (spikes.count, spikes.steps, spikes.inside) == (2, 6, False)
    for loss in [2.3, 2.4, 2.5]:  # above the usual, but within the margin
        spikes.see(loss)
    assert spikes.count == 2


def test_suite_and_controller_resume_with_the_same_bits(tmp_path: Path) -> None:
    controller = ControllerRecipe(integral=0.1, derivative=0.5, every=3)
    recipe = replace(tiny(7), controller=controller, disturbance=DisturbanceRecipe((2,)))
    whole = Trunk(tmp_path / "whole", recipe)
    reports = [whole.advance() for _ in range(7)]
    first = Trunk(tmp_path / "halves", recipe)
    for _ in range(4):
        first.advance()
    first.save()
    second = Trunk(tmp_path / "halves", recipe)
    assert [second.advance().loss for _ in range(3)] == [report.loss for report in reports[4:]]
    saved = whole.suite.state()
    assert {"controller.layers.0.sum", "spikes.recent"} < saved.keys()
    for name, value in second.suite.state().items():
        assert torch.equal(value, saved[name]), name


def test_each_part_can_be_left_out(tmp_path: Path) -> None:
    bare = replace(tiny(), controller=None, balance=None, hidden=None, monitors=None)
    assert Trunk(tmp_path / "bare", bare).advance().readings is None
    without_balance = Trunk(tmp_path / "balance", replace(tiny(), balance=None)).advance()
    assert without_balance.readings is not None
    assert without_balance.readings.gradient_ratio == []


def test_a_disturbed_step_has_the_loss_of_guessing(tmp_path: Path) -> None:
    trunk = Trunk(tmp_path, replace(tiny(20), disturbance=DisturbanceRecipe((18,))))
    losses = [trunk.advance().loss for _ in range(20)]
    assert losses[18] > max(losses[17], losses[19]) + 0.5


def test_variants_of_the_architecture_differ_and_are_not_exported(tmp_path: Path) -> None:
    outputs = []
    for architecture in (
        Architecture(),
        Architecture(shortcut=False),
        Architecture(attention_alignment=False),
        Architecture(expert_alignment=False),
        Architecture(one_variance=True),
    ):
        model = LongcatFlash(SMALL, architecture)
        model.initialise(1)
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_EDF")):
                torch.nn.init.normal_(weight, 0.0, 0.1, generator=torch.Generator().manual_seed(2))
        outputs.append(model.states(torch.arange(20), [(1, 20)]))
        if architecture != Architecture():
            trunk = Trunk(tmp_path / "run", replace(tiny(), architecture=Architecture()))
            with pytest.raises(ValueError, match="not exported"):
                export(model, trunk.tokenizer, tmp_path)
    for number, one in enumerate(outputs):
        assert not any(torch.allclose(one, other) for other in outputs[:number])


def test_monitors_are_prometheus_metrics_and_a_table(tmp_path: Path) -> None:
    metrics = TrainingMetrics(CollectorRegistry())
    port = serve_metrics("127.0.0.1", 0, metrics.registry)
    trunk = Trunk(tmp_path, tiny())
    for _ in range(3):
        report = trunk.advance()
        table = metrics.show(report)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        lines = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#")
    assert report.readings is not None
    assert float(lines["caracal_training_step"]) == 3
    assert float(lines["caracal_training_loss"]) == report.loss
    assert float(lines['caracal_training_gradient_ratio{layer="0"}']) == report.readings.gradient_ratio[0]
    assert float(lines["caracal_training_loss_spikes_total"]) == 0
    assert table is not None
    assert len(table.columns) == 3
    assert table.row_count > 10
