"""Weights in memory: a flipped bit is found within a round, an expert is read again, and nothing else is ever found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.tiny_checkpoint import PLAIN, make_checkpoint

from services.attention_worker.loading import open_model
from services.attention_worker.settings import AttentionSettings
from services.checkpoint.errors import CheckpointError
from services.checkpoint.reader import Checkpoint
from services.checkpoint.scrub import Region, Scrub, ScrubCounters, tensors_in
from services.expert_worker.experts import Experts, golden_row

BF16 = torch.bfloat16


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def flip(tensor: torch.Tensor, byte: int) -> None:
    tensor.view(-1).view(torch.uint8)[byte] ^= 1 << byte % 8


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("scrub"), PLAIN, dtype=BF16)


def test_a_flipped_bit_of_an_expert_is_found_and_read_again(path: Path) -> None:
    experts = Experts(Checkpoint.open(path), BF16)
    for expert in range(4):
        experts.load(1, expert)
    found: list[str] = []

    def repair(region: Region) -> None:
        found.append(region.name)
        experts.repair(region)

    x_RD, zero = golden_row(64, BF16), torch.zeros(1, dtype=torch.int32)
    before = experts.compute(1, x_RD, zero, zero + 2)
    scrub = Scrub(experts.regions, repair, 0.05)
    scrub.start()
    try:
        until(lambda: scrub.counters.rounds > 2)
        assert not found, "nothing has changed"
        flip(experts._weights[1][2].down_DF, 1001)
        until(lambda: experts.repaired)
        rounds = scrub.counters.rounds
        until(lambda: scrub.counters.rounds > rounds + 2)
        assert found == ["expert 2 of layer 1"]
        assert torch.equal(experts.compute(1, x_RD, zero, zero + 2), before)
        experts.drop(1, 2)
        assert len(experts.regions) == 3
    finally:
        scrub.stop()


def test_an_expert_that_is_another_in_the_checkpoint_is_not_repaired(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", PLAIN, dtype=BF16)
    experts = Experts(Checkpoint.open(path), BF16)
    experts.load(0, 0)
    make_checkpoint(tmp_path / "model", PLAIN, dtype=BF16, seed=9)
    with pytest.raises(CheckpointError, match="expert 0 of layer 0 has changed in memory, and in the checkpoint"):
        experts.repair(experts.regions[0, 0])


def test_rounds_go_on_after_something_that_nobody_expects(path: Path) -> None:
    experts, counters = Experts(Checkpoint.open(path), BF16), ScrubCounters()
    for expert in range(2):
        experts.load(0, expert)
    tried: list[str] = []

    def repair(region: Region) -> None:
        tried.append(region.name)
        if len(tried) == 1:
            raise RuntimeError("the disk is gone")
        experts.repair(region)

    scrub = Scrub(experts.regions, repair, 0.05, counters)
    flip(experts._weights[0][0].down_DF, 7)
    scrub.start()
    try:
        until(lambda: experts.repaired and scrub.counters.rounds > 2)
    finally:
        scrub.stop()
    assert tried == ["expert 0 of layer 0"] * 2
    assert counters.failures == 1


def test_every_weight_of_the_attention_side_is_compared(path: Path) -> None:
    model = open_model(AttentionSettings(model=path, kv_pages=4)).load()
    stored = Checkpoint.open(path)
    size = sum(tensor.nbytes for region in model.regions.values() for tensor in region.tensors)
    assert size >= 2 * sum(torch.Size(stored.shape(name)).numel() for name in stored.attention_names())
    places = [t.data_ptr() for region in model.regions.values() for t in tensors_in(region.tensors)]
    assert len(places) == len(set(places)), "none is compared twice"
    for region in model.regions.values():
        found = threading.Event()
        scrub = Scrub({(0, 0): region}, lambda _, found=found: found.set(), 0.01)  # type: ignore[misc]
        flip(region.tensors[-1], 3)
        scrub.start()
        assert found.wait(20), region.name
        scrub.stop()
