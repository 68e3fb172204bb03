"""Which experts stay loaded when a prepare does not come to its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import layer_of
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


def table(state: PlacementState, epoch: int, here: set[tuple[int, int]]) -> Table:
    """A table that gives the worker these experts, and another one all others."""
    workers = [
        Endpoint(worker_id="v", boot_id="v", address="v:1"),
        Endpoint(worker_id="w", boot_id="boot", address="w:1"),
    ]
    layers = [
        layer_of([[int((layer, expert) in here)] for expert in range(state.experts.num_ffn)])
        for layer in range(state.experts.num_layers)
    ]
    return Table(epoch=epoch, numerics_class="class", workers=workers, layers=layers)


def test_a_leader_that_leads_no_more_does_not_unload_what_the_next_one_loads(state: PlacementState) -> None:
    state.prepare(1001, [(0, 0)], lambda done, total: None)
    state.prepare(2000, [(0, 1)], lambda done, total: None)
    state.commit(table(state, 1001, {(0, 0)}))
    assert state.experts.loaded == {(0, 0), (0, 1)}
    assert state.commit(table(state, 2000, {(0, 1)})) == (2000, 1)
    assert state.experts.loaded == {(0, 1)}


def test_what_was_prepared_for_a_table_that_never_came_goes_with_the_next_one(state: PlacementState) -> None:
    state.prepare(5, [(0, 0), (0, 1)], lambda done, total: None)
    state.prepare(6, [(0, 1)], lambda done, total: None)
    state.commit(table(state, 7, {(0, 0)}))
    assert state.experts.loaded == {(0, 0)}
