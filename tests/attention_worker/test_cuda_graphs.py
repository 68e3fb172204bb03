"""Segments replayed from CUDA graphs give the bits of eager ones. Without a GPU, a fake capture replays them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from random import Random

import pytest
import torch
from support.engine_driver import Driver, Received, limits
from support.reference_dispatcher import ReferenceDispatcher
from support.tiny_checkpoint import WIDE_TOP_K, make_checkpoint

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.golden import GoldenTokens
from services.attention_worker.model.cuda_graphs import (
    BUCKETS,
    CudaGraphCapture,
    GraphCapture,
    GraphRunner,
    SegmentRunner,
    Tensors,
    runner_for,
)
from services.attention_worker.model.load import Load
from services.attention_worker.model.model import Model
from services.checkpoint.reader import Checkpoint

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class FakeCapture:
    """Replays by running the work again and copying the results to where the first ones are, as a graph does."""

    def record(self, work: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        results = work()

        def replay() -> None:
            for place, value in zip(results, work(), strict=True):
                place.copy_(value)

        return replay, results


def capture() -> GraphCapture:
    return CudaGraphCapture() if DEVICE.type == "cuda" else FakeCapture()


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = make_checkpoint(tmp_path_factory.mktemp("segments"), WIDE_TOP_K, seed=5, dtype=request.param)
    return Checkpoint.open(path)


def model(checkpoint: Checkpoint, runs: SegmentRunner | None = None) -> Model:
    dtype: torch.dtype = getattr(torch, checkpoint.config.torch_dtype)
    return Model(Load(checkpoint, dtype, lambda done, total: None, device=DEVICE), runs or runner_for(DEVICE))


def answers(checkpoint: Checkpoint, runs: SegmentRunner | None) -> list[Received]:
    """Runs thirty requests of many lengths, prefilled in chunks beside decodes, some preempted. Of each eighth one the
    layers are observed, so that steps with and without observation follow one another."""
    served = model(checkpoint, runs)
    sizes = limits(max_batch_tokens=80, max_running=24, num_pages=40)
    driver, rng = Driver(served, ReferenceDispatcher(checkpoint, served.dtype), sizes), Random(3)
    received = []
    for number in range(30):
        prompt = [rng.randrange(3, 300) for _ in range(rng.randint(1, 60))]
        sampling = Sampling(max_tokens=rng.randint(1, 30), ignore_eos=True, seed=rng.getrandbits(60), temperature=0.8)
        received.append(driver.submit(prompt, sampling, layer_checksums=number % 8 == 0))
        for _ in range(rng.randint(0, 3)):
            driver.engine.step()
    driver.finish()
    return received


def test_captured_steps_give_the_same_bits(checkpoint: Checkpoint) -> None:
    runs = GraphRunner(DEVICE, capture())
    for one, other in zip(answers(checkpoint, runner_for(torch.device("cpu"))), answers(checkpoint, runs), strict=True):
        assert one.tokens == other.tokens
        assert torch.equal(torch.stack(one.rows), torch.stack(other.rows))
        assert one.key % 8 or any(token.layers for token in one.tokens)
    segments = 2 * checkpoint.config.num_layers
    widths = 4  # 1, 2, 4 and 8 pages of 16
    assert segments * 5 <= runs.graphs <= segments * len(BUCKETS) * widths, (
        "each batch size, page table width and segment is captured once"
    )


def test_other_caches_are_captured_again(checkpoint: Checkpoint) -> None:
    """A graph reads the caches it was captured with; a second engine on the same model has others."""
    runs = GraphRunner(DEVICE, capture())
    served = model(checkpoint, runs)
    dispatcher, sampling = ReferenceDispatcher(checkpoint, served.dtype), Sampling(max_tokens=4, ignore_eos=True)
    received = []
    for _ in range(2):
        driver = Driver(served, dispatcher, limits(num_pages=8))
        received.append(driver.submit([5, 6, 7], sampling))
        driver.finish()
    assert torch.equal(torch.stack(received[0].rows), torch.stack(received[1].rows))


def test_golden_tokens_between_steps_have_no_part_in_graphs(checkpoint: Checkpoint) -> None:
    runs = GraphRunner(DEVICE, capture())
    served = model(checkpoint, runs)
    golden, eager = (GoldenTokens(each, checkpoint.config, 16) for each in (served, model(checkpoint)))
    driver = Driver(served, ReferenceDispatcher(checkpoint, served.dtype), limits(num_pages=8))
    driver.submit([5, 6, 7], Sampling(max_tokens=12, ignore_eos=True))
    found, parts = [], chain.from_iterable(golden.parts() for _ in range(12))
    while driver.engine.step():
        graphs = runs.graphs
        with torch.inference_mode():
            found.append(next(parts))
        assert runs.graphs == graphs
    captured = 2 * checkpoint.config.num_layers
    assert runs.graphs <= 2 * captured, "the first steps' graphs, of a chunk and of one token, are still those in use"
    with torch.inference_mode():
        expected = list(eager.parts())
    assert found == (12 * expected)[: len(found)]


def test_steps_that_are_too_large_run_eagerly(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "model", WIDE_TOP_K))
    runs = GraphRunner(DEVICE, capture())
    served = model(checkpoint, runs)
    driver = Driver(served, ReferenceDispatcher(checkpoint, served.dtype), limits(max_batch_tokens=256, num_pages=32))
    driver.submit(list(range(3, 3 + BUCKETS[-1] + 1)), Sampling(max_tokens=1, ignore_eos=True))
    driver.finish()
    assert runs.graphs == 0


def test_a_cpu_and_several_ranks_capture_nothing() -> None:
    assert not isinstance(runner_for(torch.device("cpu")), GraphRunner)
    assert not isinstance(runner_for(torch.device("cuda", 0), ranks=2), GraphRunner)
