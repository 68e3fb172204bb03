"""One sequence, many ways to compute it: the bits of every position's logits are the same. No engine, no tolerance."""

from collections.abc import Iterator
from random import Random

import pytest
import torch
from support.paged import Paged, local_exchange
from support.tiny_checkpoint import UNEVEN, make_checkpoint
from torch import Tensor

from services.attention_worker.model.model import Model, load_model
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.moe_dispatcher import MoEDispatcher

LENGTH = 70  # five blocks of 16 keys, the last one short
Cluster = tuple[Model, MoEDispatcher]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("bits"), UNEVEN, seed=2))
    with local_exchange(checkpoint, request.param) as exchange:
        yield load_model(checkpoint, request.param, lambda done, total: None), exchange


@pytest.fixture(scope="module")
def whole(cluster: Cluster) -> Tensor:
    """Every position's logits, the sequence alone and in one piece."""
    logits_TV = Paged(*cluster).feed({0: sequence(0)})[0]
    assert logits_TV.dtype == torch.float32
    assert len(torch.unique(logits_TV, dim=0)) == LENGTH
    return logits_TV


def sequence(seed: int) -> list[int]:
    rng = Random(seed)
    return [rng.randrange(UNEVEN["vocab_size"]) for _ in range(LENGTH)]


def pieces(ids: list[int], sizes: list[int]) -> Iterator[list[int]]:
    """Cut into these sizes, over and over."""
    start = turn = 0
    while start < len(ids):
        yield ids[start : start + sizes[turn % len(sizes)]]
        start += sizes[turn % len(sizes)]
        turn += 1


@pytest.mark.parametrize("sizes", [[1], [7], [13, 1, 5], [16], [17], [69, 1]], ids=str)
def test_chunks(cluster: Cluster, whole: Tensor, sizes: list[int]) -> None:
    paged = Paged(*cluster)
    logits = [paged.feed({0: piece})[0] for piece in pieces(sequence(0), sizes)]
    assert torch.equal(torch.cat(logits), whole)


@pytest.mark.parametrize("page_size", [16, 32, 48, 64])
def test_pages(cluster: Cluster, whole: Tensor, page_size: int) -> None:
    paged = Paged(*cluster, page_size=page_size, shuffle=Random(page_size))
    logits = [paged.feed({0: piece})[0] for piece in pieces(sequence(0), [41, 3])]
    assert torch.equal(torch.cat(logits), whole)


@pytest.mark.parametrize("seed", range(3))
def test_company(cluster: Cluster, whole: Tensor, seed: int) -> None:
    """Prefill chunks and single tokens of four sequences in every order; ours is sequence 2."""
    rng = Random(seed)
    paged = Paged(*cluster, sequences=4, shuffle=rng)
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


def test_asked_rows_only(cluster: Cluster, whole: Tensor) -> None:
    """The last row alone through norm and head, as a decode step asks for it."""
    paged = Paged(*cluster)
    paged.feed({0: sequence(0)[:-1]})
    assert torch.equal(paged.feed({0: sequence(0)[-1:]})[0], whole[-1:])
