"""What is sent and counted: nothing for zero experts, a row once per worker, one row back per assignment.

Legend: T tokens, K choices of a token, G gate outputs, D hidden.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from caracal_kernels import GateWeights, route
from support.expert_workers import (
    Worker,
    gates,
    open_dispatcher,
    place,
    random_batch,
    run,
)
from support.reference_dispatcher import ReferenceDispatcher
from support.tiny_checkpoint import WIDE_TOP_K, make_checkpoint

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.links import Connect

DTYPE = torch.bfloat16


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("wide"), WIDE_TOP_K, dtype=DTYPE)


def biased(gate: GateWeights, ffn: int, by: float) -> GateWeights:
    """Returns the gate with a bias toward the zero experts."""
    bias_G = gate.bias_G.clone()
    bias_G[ffn:] += by
    return GateWeights(gate.classifier_GD, bias_G)


def test_tokens_of_zero_experts_alone_send_nothing(checkpoint: Checkpoint, connect: Connect, two: list[Worker]) -> None:
    zero = biased(gates(checkpoint)[0], checkpoint.config.n_routed_experts, 100.0)
    with open_dispatcher(checkpoint, connect) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [expert % 2]))
        for number in range(5):
            batch = random_batch(number, checkpoint.config.hidden_size, DTYPE)
            out_TD = run(dispatcher, 0, zero, batch)
            assert torch.equal(out_TD, run(ReferenceDispatcher(checkpoint, DTYPE), 0, zero, batch))
            assert not torch.equal(out_TD, batch.residual_TD), "zero experts return their input"
        stats = dispatcher.stats.layers[0]
    assert not any(worker.service.calls for worker in two)
    assert stats.tokens_all_zero == stats.tokens > 0
    assert stats.bytes_sent == stats.bytes_received == stats.messages_sent == stats.ffn_choices == 0


def test_zero_experts_of_type_drop_add_nothing(checkpoint: Checkpoint, two: list[Worker]) -> None:
    zero = biased(gates(checkpoint)[0], checkpoint.config.n_routed_experts, 100.0)
    dropping = replace(checkpoint.config, zero_expert_type="drop")
    with open_dispatcher(_Configured(dropping)) as dispatcher:  # type: ignore[arg-type]
        batch = random_batch(0, checkpoint.config.hidden_size, DTYPE)
        assert torch.equal(run(dispatcher, 0, zero, batch), batch.residual_TD)


class _Configured:
    def __init__(self, config: object) -> None:
        self.config = config


@pytest.mark.parametrize("workers_used", [1, 2])
def test_every_count_is_what_the_workers_saw(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker], workers_used: int
) -> None:
    config = checkpoint.config
    gate = biased(gates(checkpoint)[1], config.n_routed_experts, 0.05)
    tokens = assignments = all_zero = 0
    with open_dispatcher(checkpoint, connect) as dispatcher:
        ends = [w.endpoint for w in two][:workers_used]
        dispatcher.apply(place(1, checkpoint, ends, lambda layer, expert: [expert % workers_used]))
        for number in range(20):
            batch = random_batch(number, config.hidden_size, DTYPE)
            run(dispatcher, 1, gate, batch)
            ids_TK, _, _ = route(
                batch.h_TD, gate.classifier_GD, gate.bias_G, config.moe_topk, config.n_routed_experts, 1.0
            )
            ffn_TK = ids_TK < config.n_routed_experts
            tokens += len(ids_TK)
            assignments += int(ffn_TK.sum())
            all_zero += int((~ffn_TK.any(1)).sum())
        stats = dispatcher.stats.layers[1]
    calls = [call for worker in two for call in worker.service.calls]
    row_bytes = config.hidden_size * DTYPE.itemsize
    assert 0 < all_zero < tokens
    assert 0 < assignments < tokens * config.moe_topk
    assert (stats.layer_calls, stats.tokens, stats.tokens_all_zero) == (20, tokens, all_zero)
    assert (stats.choices, stats.ffn_choices) == (tokens * config.moe_topk, assignments)
    assert stats.messages_sent == len(calls)
    assert stats.rows_sent == sum(call.rows for call in calls)
    assert stats.assignments_sent == assignments == sum(len(call.row) // 4 for call in calls)
    assert stats.bytes_sent == stats.rows_sent * row_bytes
    assert sum(len(call.x.data) for call in calls) == sum(call.rows * row_bytes for call in calls if not call.p2p_group)
    assert stats.bytes_received == assignments * row_bytes
    # Exact, since all rows have one size.
    assert stats.bytes_received * stats.choices == stats.bytes_if_all_ffn * stats.ffn_choices
    if workers_used == 1:
        assert stats.rows_sent == tokens - all_zero, "a row is sent once to a worker, for any number of its experts"


def test_waiting_is_counted_where_it_happens(checkpoint: Checkpoint, connect: Connect, two: list[Worker]) -> None:
    gate = gates(checkpoint)[0]
    for overlap in (True, False):
        with open_dispatcher(checkpoint, connect, overlap=overlap) as dispatcher:
            dispatcher.apply(place(1, checkpoint, [two[0].endpoint], lambda layer, expert: [0]))
            batch = random_batch(3, checkpoint.config.hidden_size, DTYPE, tokens=8)
            pending = dispatcher.start(0, batch.h_TD, gate, batch)
            waits = dispatcher.stats.layers[0].exposed_s > 0
            assert waits is not overlap, "start waits only without overlap"
            pending.finish(batch.residual_TD)
            stats = dispatcher.stats.layers[0]
            assert 0 < stats.exposed_s <= stats.round_trip_s < 5, "the wait is part of the round trip"
            assert dispatcher.stats.total().round_trip_s == stats.round_trip_s
