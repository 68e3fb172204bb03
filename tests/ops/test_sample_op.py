"""sample: greedy, distribution, truncation, and no dependence on anything but (seed, position, logits)."""

from __future__ import annotations

import random

import pytest
import torch
from caracal_kernels import sample
from caracal_kernels.sample import sample_reference
from support.op_inputs import rand
from torch import Tensor


def draw(logits: Tensor, seeds: Tensor, *, heat: float = 1.0, k: int = 0, p: float = 1.0, m: float = 0.0) -> Tensor:
    rows = len(logits)
    fill = torch.full
    return sample(
        logits,
        seeds,
        torch.arange(rows),
        fill((rows,), heat),
        fill((rows,), k, dtype=torch.int32),
        fill((rows,), p),
        fill((rows,), m),
    )


def test_greedy_takes_the_lowest_of_equals() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0], [5.0, 5.0, 5.0, 5.0]])
    assert draw(logits, torch.zeros(2, dtype=torch.int64), heat=0.0).tolist() == [1, 0]


@pytest.mark.parametrize(
    "rule", [{}, {"heat": 0.6}, {"k": 5}, {"p": 0.8}, {"m": 0.2}, {"k": 20, "p": 0.9, "m": 0.05, "heat": 1.3}]
)
def test_agrees_with_the_reference(rule: dict[str, float]) -> None:
    logits, seeds = rand(60, 211, scale=2), torch.randint(-(2**62), 2**62, (60,))
    full = {"heat": 1.0, "k": 0, "p": 1.0, "m": 0.0} | rule
    columns = [torch.full((60,), float(full[name])) for name in ("heat", "k", "p", "m")]
    expected = sample_reference(logits, seeds, torch.arange(60), columns[0], columns[1].int(), columns[2], columns[3])
    assert torch.equal(draw(logits, seeds, **rule), expected)  # type: ignore[arg-type]


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    seeds = torch.arange(20000) * 7919
    counts = torch.bincount(draw(logits.expand(20000, 5).contiguous(), seeds), minlength=5).double()
    expected = torch.softmax(logits.double(), -1) * 20000
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 18.5, "1 in 1000 for 4 degrees of freedom; seeds are fixed, so this cannot flicker"


def test_truncation_keeps_only_what_it_should() -> None:
    logits = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04])).expand(3000, 5).contiguous()
    seeds = torch.arange(3000)
    assert set(draw(logits, seeds, k=2).tolist()) == {0, 1}
    assert set(draw(logits, seeds, p=0.75).tolist()) == {0, 1, 2}
    assert set(draw(logits, seeds, m=0.45).tolist()) == {0, 1, 2}
    assert set(draw(logits, seeds, p=1e-9).tolist()) == {0}


def test_a_draw_is_the_rows_own() -> None:
    random.seed(5)
    logits, seeds = rand(40, 1009), torch.randint(0, 2**62, (40,))
    position, ones = torch.randint(0, 5000, (40,)), torch.ones(40)
    zero = torch.zeros(40, dtype=torch.int32)
    alone = [sample(*(c[i : i + 1] for c in (logits, seeds, position, ones, zero, ones, ones * 0))) for i in range(40)]
    for _ in range(40):
        rows = random.sample(range(40), random.randint(1, 40))
        columns = (logits, seeds, position, ones, zero, ones, ones * 0)
        batch = sample(*(c[rows].contiguous() for c in columns))
        assert batch.tolist() == [int(alone[i]) for i in rows]
