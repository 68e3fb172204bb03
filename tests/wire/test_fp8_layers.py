"""A whole model whose weights stay in fp8 gives every bit of the same model in bf16, through every native loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support.expert_workers import Worker, load_everything, place, workers
from support.native_layers import Sides, both_sides, steps
from support.paged import Paged
from support.quantized_checkpoint import BLOCKS, is_linear, to_fp8, widened
from support.reference_dispatcher import ReferenceDispatcher
from support.tiny_checkpoint import make_checkpoint

from services.attention_worker.model import native_stack
from services.attention_worker.model.model import load_model
from services.checkpoint.device import CPU
from services.checkpoint.numerics import numerics_of
from services.checkpoint.reader import Checkpoint

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(bool(native_stack.unavailable()), reason="layers cannot run natively here"),
]
BF16 = torch.bfloat16
STEPS = 10


def some_experts(name: str) -> bool:
    """Experts of bf16 beside those in fp8, also in one launch."""
    return is_linear(name) and "experts.2." not in name and "experts.5." not in name


@pytest.fixture(scope="module", params=[is_linear, some_experts], ids=["all linears", "not all experts"])
def checkpoints(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Checkpoint]:
    """The model in fp8, and the same one in bf16."""
    folder: Path = tmp_path_factory.mktemp("models")
    fp8 = to_fp8(make_checkpoint(folder / "fp8", BLOCKS, dtype=BF16, seed=4), request.param)
    return Checkpoint.open(fp8), Checkpoint.open(widened(fp8, folder / "wide"))


@contextmanager
def serving(checkpoint: Checkpoint) -> Iterator[tuple[Sides, list[Worker]]]:
    """The model, and two workers whose launches need no Python."""
    with workers(checkpoint, BF16, 2) as two, both_sides(checkpoint, BF16) as sides:
        for worker in two:
            load_everything(worker.experts)
            worker.service.direct = True
            worker.service.native = worker.service.new_native(worker.state, worker.batcher, direct=True)
        sides.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [expert % 2]))
        yield sides, two


def test_logits_are_those_of_the_dequantized_model(checkpoints: tuple[Checkpoint, Checkpoint]) -> None:
    in_fp8, wide = checkpoints
    vocabulary, layers = wide.config.vocab_size, wide.config.num_layers
    reference = Paged(load_model(wide, BF16, lambda done, total: None), ReferenceDispatcher(wide, BF16), sequences=3)
    with serving(in_fp8) as (sides, two), serving(wide) as (wide_sides, _):
        for chunks in steps(vocabulary, 3, STEPS):
            logits = sides.native.feed(chunks)
            assert torch.equal(logits, sides.python.feed(chunks))
            assert torch.equal(logits, wide_sides.native.feed(chunks))
            assert torch.equal(logits, torch.cat(list(reference.feed(chunks).values())))
        assert sides.native.native_layers == STEPS * layers
        assert [worker.batcher.counters.launches for worker in two] == [0, 0], "no launch went through Python"
        for worker in two:
            assert worker.service.native is not None
            worker.service.native.take_counts()
            assert worker.batcher.counters.launches > 0


def test_weights_that_are_kept_otherwise_are_no_other_class(checkpoints: tuple[Checkpoint, Checkpoint]) -> None:
    """The class has no part that says how weights are kept; the golden digests of experts say that it needs none."""
    in_fp8, wide = (numerics_of(checkpoint, BF16, CPU).parts() for checkpoint in checkpoints)
    assert in_fp8.pop("weights") != wide.pop("weights"), "they are other files"
    assert in_fp8 == wide
