"""One sequence computed in many ways: the bits of every position's logits are the same. No engine, no tolerance."""

from collections.abc import Iterator
from random import Random

import pytest
import torch
from support.paged import Paged, local_dispatcher
from support.tiny_checkpoint import UNEVEN, make_checkpoint
from torch import Tensor

from services.attention_worker.model.model import Model, load_model
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.moe_dispatcher import MoEDispatcher

LENGTH = 70  # five blocks of 16 keys, the last one short
ModelAndDispatcher = tuple[Model, MoEDispatcher]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def model_and_dispatcher(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelAndDispatcher]:
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("bits"), UNEVEN, seed=2))
    with local_dispatcher(checkpoint, request.param) as dispatcher:
        yield load_model(checkpoint, request.param, lambda done, total: None), dispatcher


@pytest.fixture(scope="module")
def whole(model_and_dispatcher: ModelAndDispatcher) -> Tensor:
    """Returns every position's logits, of the sequence alone and in one chunk."""
    logits_TV = Paged(*model_and_dispatcher).feed({0: sequence(0)})[0]
    assert logits_TV.dtype == torch.float32
    assert len(torch.unique(logits_TV, dim=0)) == LENGTH
    return logits_TV


def sequence(seed: int) -> list[int]:
    rng = Random(seed)
    return [rng.randrange(UNEVEN["vocab_size"]) for _ in range(LENGTH)]


def chunks_of(ids: list[int], sizes: list[int]) -> Iterator[list[int]]:
    """Yields `ids` cut into these sizes in turn."""
    start = turn = 0
    while start < len(ids):
        yield ids[start : start + sizes[turn % len(sizes)]]
        start += sizes[turn % len(sizes)]
        turn += 1


@pytest.mark.parametrize("sizes", [[1], [7], [13, 1, 5], [16], [17], [69, 1]], ids=str)
def test_chunks(model_and_dispatcher: ModelAndDispatcher, whole: Tensor, sizes: list[int]) -> None:
    paged = Paged(*model_and_dispatcher)
    logits = [paged.feed({0: chunk})[0] for chunk in chunks_of(sequence(0), sizes)]
    assert torch.equal(torch.cat(logits), whole)


@pytest.mark.parametrize("page_size", [16, 32, 48, 64])
def test_pages(model_and_dispatcher: ModelAndDispatcher, whole: Tensor, page_size: int) -> None:
    paged = Paged(*model_and_dispatcher, page_size=page_size, shuffle=Random(page_size))
    logits = [paged.feed({0: chunk})[0] for chunk in chunks_of(sequence(0), [41, 3])]
    assert torch.equal(torch.cat(logits), whole)


@pytest.mark.parametrize("seed", range(3))
def test_other_sequences(model_and_dispatcher: ModelAndDispatcher, whole: Tensor, seed: int) -> None:
    """Prefill chunks and single tokens of four sequences in random order; sequence 2 is compared."""
    rng = Random(seed)
    paged = Paged(*model_and_dispatcher, sequences=4, shuffle=rng)
    left = {row: sequence(0 if row == 2 else 10 * seed + row + 1) for row in range(4)}
    ours: list[Tensor] = []
    while left[2]:
        chosen = [2, *rng.sample([0, 1, 3], rng.randint(1, 3))]
        rng.shuffle(chosen)
        chunks = {row: left[row][: rng.choice([1, 1, 2, 9, 23])] for row in chosen if left[row]}
        for row, chunk in chunks.items():
            left[row] = left[row][len(chunk) :]
        ours.append(paged.feed(chunks)[2])
    assert torch.equal(torch.cat(ours), whole)


def test_sampled_rows_alone(model_and_dispatcher: ModelAndDispatcher, whole: Tensor) -> None:
    """The last row alone through norm and head, as in a decode step."""
    paged = Paged(*model_and_dispatcher)
    paged.feed({0: sequence(0)[:-1]})
    assert torch.equal(paged.feed({0: sequence(0)[-1:]})[0], whole[-1:])
