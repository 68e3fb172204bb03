"""sample in Triton: the reference's ids, truncated or not, and no dependence on company."""

from __future__ import annotations

import random

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels.sample import sample_reference
from caracal_kernels.triton.sample import sample_triton
from support.gpu_inputs import batch_sizes
from support.op_inputs import DEVICE, rand
from support.poisoned_memory import poisoned_memory
from torch import Tensor

INF = float("inf")
RULES: list[dict[str, float]] = [
    {},
    {"heat": 0.6},
    {"heat": 0.0, "k": 5, "p": 0.5},
    {"k": 5},
    {"k": 1},
    {"k": 10000},
    {"p": 0.8},
    {"p": 1e-9},
    {"p": 0.0},
    {"m": 0.2},
    {"k": 20, "p": 0.9, "m": 0.05, "heat": 1.3},
]


def columns(rows: int, rules: list[dict[str, float]]) -> list[Tensor]:
    full = [{"heat": 1.0, "k": 0, "p": 1.0, "m": 0.0} | rules[row % len(rules)] for row in range(rows)]
    heat, k, p, m = (torch.tensor([rule[name] for rule in full]).float() for name in ("heat", "k", "p", "m"))
    seeds, positions = torch.randint(-(2**62), 2**62, (rows,)), torch.randint(0, 1 << 17, (rows,))
    return [seeds, positions, heat, k.int(), p, m]


def drawn(logits: Tensor, given: list[Tensor]) -> list[int]:
    with poisoned_memory():
        return sample_triton(*(x.to(DEVICE) for x in (logits, *given))).tolist()


@pytest.mark.parametrize("vocabulary", [1, 2, 211, 9001])
def test_the_references_ids(vocabulary: int) -> None:
    """Rows of every rule side by side; 9001 is several blocks, the last one short."""
    rows = 3 * len(RULES) if vocabulary == 211 else len(RULES)
    logits, given = rand(rows, vocabulary, scale=2), columns(rows, RULES)
    assert drawn(logits, given) == sample_reference(logits, *given).tolist()


def test_fp64s_ids_at_random_sizes() -> None:
    """The reference works in fp64 throughout: probabilities, noise and scores."""
    random.seed(51)
    for rows in (1, *(random.randint(2, 14) for _ in range(5))):
        logits, rules = rand(rows, random.randint(1, 3000), scale=random.choice([0.5, 2, 6])), random.sample(RULES, 6)
        given = columns(rows, rules)
        assert drawn(logits, given) == sample_reference(logits, *given).tolist()


@pytest.mark.parametrize("rule", [{"k": 7}, {"p": 0.5}, {"k": 30, "p": 0.7}])
def test_equal_logits_are_kept_by_id(rule: dict[str, float]) -> None:
    logits = torch.randint(0, 3, (12, 60)).float()
    logits[:4] *= -1  # with -0, which ties with 0
    given = columns(12, [rule])
    assert drawn(logits, given) == sample_reference(logits, *given).tolist()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_the_lowest_of_equals_and_what_is_no_number() -> None:
    logits = torch.tensor([[0, 3, 3, 1], [5, 5, 5, 5], [-INF] * 4, [-INF, INF, 0, INF], [float("nan"), 1, 2, 0]])
    given = columns(5, [{"heat": 0.0}])
    assert drawn(logits, given) == [1, 0, 0, 1, 2]
    assert all(0 <= i < 4 for rule in RULES[3::3] for i in drawn(logits, columns(5, [rule])))
    given = columns(5, [{}, {"k": 2}])
    assert drawn(logits, given) == sample_reference(logits, *given).tolist()


@pytest.mark.parametrize("vocabulary", [300, 6000])
def test_a_draw_is_the_rows_own(vocabulary: int) -> None:
    """6000 is three blocks of 2048 where ids are drawn, two of 4096 where it is found what is kept."""
    random.seed(5)
    logits, given = rand(14, vocabulary), columns(14, RULES)
    alone = [drawn(logits[i : i + 1], [column[i : i + 1] for column in given])[0] for i in range(14)]
    assert (len({i // 2048 for i in alone}) > 1) == (vocabulary > 2048)
    for size in batch_sizes([1, 1, 2, 3]):
        rows = random.sample(range(14), size)
        assert drawn(logits[rows], [column[rows] for column in given]) == [alone[i] for i in rows]
    assert drawn(logits[:0], [column[:0] for column in given]) == []
