"""Experts are loaded and dropped one by one while others are computed; a bad one is never loaded."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from caracal_kernels import swiglu
from safetensors.torch import load_file, save_file
from support.tiny_checkpoint import PLAIN, make_checkpoint

from services.checkpoint.errors import CheckpointError
from services.checkpoint.reader import Checkpoint, load_expert
from services.expert_worker.experts import Experts, NotLoadedError, golden_row


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("plain"), dtype=request.param))


def dtype_of(checkpoint: Checkpoint) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, checkpoint.config.torch_dtype)
    return dtype


def rows(checkpoint: Checkpoint, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, checkpoint.config.hidden_size, generator=generator).to(dtype_of(checkpoint))


def assignments(*expert_row: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    expert_A, row_A = (torch.tensor(x, dtype=torch.int32) for x in zip(*expert_row, strict=True))
    return row_A, expert_A


def test_each_assignment_gets_its_expert_s_answer(checkpoint: Checkpoint) -> None:
    experts, x_RD = Experts(checkpoint, dtype_of(checkpoint)), rows(checkpoint, 4)
    for expert in (1, 5, 6):
        experts.load(1, expert)
    wanted = [(1, 0), (1, 3), (5, 2), (6, 0), (6, 1), (6, 3)]
    y_AD = experts.compute(1, x_RD, *assignments(*wanted))
    for (expert, row), y_D in zip(wanted, y_AD, strict=True):
        weights = load_expert(checkpoint, 1, expert, dtype_of(checkpoint))
        assert torch.equal(y_D, swiglu(x_RD[row : row + 1], weights.gate_up_2FD, weights.down_DF)[0])


def test_experts_that_are_not_loaded_are_named_and_nothing_is_computed(checkpoint: Checkpoint) -> None:
    experts = Experts(checkpoint, dtype_of(checkpoint))
    experts.load(0, 2)
    with pytest.raises(NotLoadedError, match="experts 3, 7 of layer 0 are not loaded here"):
        experts.compute(0, rows(checkpoint, 2), *assignments((2, 0), (3, 0), (7, 1)))
    with pytest.raises(NotLoadedError):
        experts.compute(1, rows(checkpoint, 2), *assignments((2, 0)))


def test_the_digest_is_the_expert_s_and_the_same_everywhere(checkpoint: Checkpoint) -> None:
    first, second = (Experts(checkpoint, dtype_of(checkpoint)) for _ in range(2))
    digests = {(layer, expert): first.load(layer, expert) for layer in range(2) for expert in range(8)}
    assert len(set(digests.values())) == 16
    assert {key: second.load(*key) for key in reversed(digests)} == digests
    assert first.loaded == frozenset(digests)
    first.drop(1, 3)
    first.drop(1, 3)
    assert first.loaded == frozenset(digests) - {(1, 3)}


@pytest.mark.parametrize(("layer", "expert"), [(2, 0), (0, 8), (-1, 0), (0, -1), (2**31, 2**31)])
def test_an_expert_that_the_model_does_not_have_is_an_error(checkpoint: Checkpoint, layer: int, expert: int) -> None:
    experts = Experts(checkpoint, dtype_of(checkpoint))
    with pytest.raises(CheckpointError, match="the model has no expert"):
        experts.load(layer, expert)
    assert not experts.loaded


def test_an_expert_whose_golden_answer_is_not_finite_is_an_error(tmp_path: Path) -> None:
    """Finite weights can give infinite answers, which only shows when the expert is run."""
    path = make_checkpoint(tmp_path, PLAIN, shards=1)
    shard = path / "model-00001-of-00001.safetensors"
    weights = load_file(shard)
    toward_D = golden_row(PLAIN["hidden_size"], torch.float32)[0].sign() * 1e30
    for part in ("gate", "up"):
        weights[f"model.layers.0.mlp.experts.3.{part}_proj.weight"][:] = toward_D
    save_file(weights, shard)
    experts = Experts(Checkpoint.open(path), torch.float32)
    with pytest.raises(CheckpointError, match="expert 3 of layer 0 answers the golden row"):
        experts.load(0, 3)
    assert experts.load(0, 2)
    assert experts.loaded == {(0, 2)}


def test_loading_and_dropping_never_disturbs_what_is_computed(checkpoint: Checkpoint) -> None:
    experts, x_RD = Experts(checkpoint, dtype_of(checkpoint)), rows(checkpoint, 3)
    wanted = assignments((0, 0), (1, 1), (1, 2))
    for expert in (0, 1):
        experts.load(0, expert)
    y_AD = experts.compute(0, x_RD, *wanted)
    done = threading.Event()

    def churn() -> None:
        for turn in range(100):
            experts.load(0, 2 + turn % 6)
            experts.drop(0, 2 + (turn + 3) % 6)
        done.set()

    thread = threading.Thread(target=churn)
    thread.start()
    while not done.is_set():
        assert torch.equal(experts.compute(0, x_RD, *wanted), y_AD)
    thread.join()
