"""Which experts stay loaded when a prepare does not come to its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_checkpoint import make_checkpoint

from services.checkpoint.reader import Checkpoint
from services.expert_worker.experts import Experts
from services.expert_worker.placement_state import CallerGone, PlacementState


@pytest.fixture
def state(tmp_path: Path) -> PlacementState:
    checkpoint = Checkpoint.open(make_checkpoint(tmp_path / "model"))
    return PlacementState(Experts(checkpoint, torch.float32), "w", "boot", "class")


def fails_after_two(error: Exception, done: int) -> None:
    if done == 2:
        raise error


def test_what_is_loaded_stays_when_the_caller_leaves(state: PlacementState) -> None:
    with pytest.raises(CallerGone):
        state.prepare(1, [(0, 0), (0, 1), (0, 2)], lambda done, total: fails_after_two(CallerGone("gone"), done))
    assert state.experts.loaded == {(0, 0), (0, 1)}
    assert len(state.prepare(2, [(0, 1), (1, 1)], lambda done, total: None)) == 2


def test_nothing_new_stays_when_memory_is_short(state: PlacementState) -> None:
    state.prepare(1, [(0, 0)], lambda done, total: None)
    with pytest.raises(MemoryError):
        state.prepare(1, [(0, 0), (0, 1), (0, 2)], lambda done, total: fails_after_two(MemoryError(), done))
    assert state.experts.loaded == {(0, 0)}
