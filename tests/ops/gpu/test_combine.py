"""combine in Triton: the reference's bits."""

from __future__ import annotations

import random

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels.combine import combine_reference
from caracal_kernels.triton.combine import combine_triton
from support.gpu_inputs import GROWN, HALF_ULP, batch_sizes, within
from support.op_inputs import DEVICE, DTYPES, i32, rand
from support.poisoned_memory import poisoned_memory
from torch import Tensor

Inputs = tuple[Tensor, ...]


def inputs(tokens: int, choices: int, answers: int, hidden: int, dtype: torch.dtype) -> Inputs:
    """Some choices are zero experts', some replies nobody's."""
    reply_index = i32([random.randrange(-1, answers) for _ in range(tokens * choices)]).view(tokens, choices)
    y, h, residual = (rand(n, hidden, dtype=dtype) for n in (answers, tokens, tokens))
    return y, reply_index, rand(tokens, choices), rand(tokens), h, residual


def combined(given: Inputs) -> Tensor:
    with poisoned_memory():
        return combine_triton(*(x.to(DEVICE) for x in given)).cpu()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "choices", "hidden"), [(0, 3, 8), (1, 1, 1), (7, 12, 1500), (5, 3, 72)])
def test_the_references_bits(tokens: int, choices: int, hidden: int, dtype: torch.dtype) -> None:
    random.seed(1)
    for answers in (0, 1, 40):
        given = inputs(tokens, choices, answers, hidden, dtype)
        assert torch.equal(combined(given), combine_reference(*given))


@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_fp64_at_random_sizes(dtype: torch.dtype) -> None:
    random.seed(3)
    for tokens in (0, 1, *(random.randint(2, 20 * GROWN) for _ in range(6))):
        choices, answers = random.randint(1, 13), random.randint(0, 60)
        y, reply_index, weights, zero, h, residual = given = inputs(
            tokens, choices, answers, random.randint(1, 2000), dtype
        )
        nothing = torch.zeros(1, h.shape[1])
        answer_TKD = torch.cat([y, nothing])[reply_index.long()].double()  # reply_index -1 is the row of zeros
        terms = torch.cat([weights.double()[..., None] * answer_TKD, (zero[:, None] * h.double())[:, None]], 1)
        error = (choices + 2) * 2**-23 * terms.abs().sum(1)
        error += HALF_ULP[dtype] * (terms.sum(1).abs() + error)  # the sum is rounded once before the residual is added
        assert within(combined(given), residual.double() + terms.sum(1), error)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tokens_bits_are_its_own(dtype: torch.dtype) -> None:
    random.seed(2)
    y, *rows = inputs(20, 4, 30, 72, dtype)
    whole = combined((y, *rows))
    for size in batch_sizes([1, 2, 5, 9]):
        mix = random.sample(range(20), size)
        assert torch.equal(combined((y, *(x[mix] for x in rows))), whole[mix])


def test_a_reply_index_without_a_reply_is_not_read() -> None:
    y, reply_index, *rest = inputs(4, 3, 5, 72, torch.float32)
    reply_index[1, 2], reply_index[2, 0], reply_index[3, 1] = -2, 5, 1 << 30
    skipped = torch.where((reply_index < 0) | (reply_index >= 5), -1, reply_index)
    assert torch.equal(combined((y, reply_index, *rest)), combine_reference(y, skipped, *rest))
