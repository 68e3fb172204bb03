"""What is sent and counted: nothing for zero experts, a row once per worker, one row back per pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from caracal_kernels import route
from support.expert_fleet import (
    LINKS,
    Gate,
    Worker,
    connecting,
    exchange,
    gates,
    load_everything,
    place,
    random_batch,
    run,
    workers,
)
from support.reference_dispatcher import PlainExchange
from support.tiny_checkpoint import WIDE_TOP_K, make_checkpoint

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.links import Connect

DTYPE = torch.bfloat16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path: Path = make_checkpoint(tmp_path_factory.mktemp("wide"), WIDE_TOP_K, dtype=DTYPE)
    return Checkpoint.open(path)


@pytest.fixture(params=LINKS)
def connect(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Connect:
    return connecting(request.param, checkpoint, DTYPE)


@pytest.fixture
def two(checkpoint: Checkpoint) -> Iterator[list[Worker]]:
    with workers(checkpoint, DTYPE, 2) as running:
        for worker in running:
            load_everything(worker.experts)
        yield running


def leaning(gate: Gate, ffn: int, by: float) -> Gate:
    """The gate with its choice pushed toward the zero experts."""
    bias_E = gate.bias_E.clone()
    bias_E[ffn:] += by
    return Gate(gate.classifier_ED, bias_E)


def test_tokens_of_zero_experts_alone_send_nothing(checkpoint: Checkpoint, connect: Connect, two: list[Worker]) -> None:
    zero = leaning(gates(checkpoint)[0], checkpoint.config.n_routed_experts, 100.0)
    with exchange(checkpoint, connect) as linked:
        linked.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [expert % 2]))
        for number in range(5):
            batch = random_batch(number, checkpoint.config.hidden_size, DTYPE)
            out_TD = run(linked, 0, zero, batch)
            assert torch.equal(out_TD, run(PlainExchange(checkpoint, DTYPE), 0, zero, batch))
            assert not torch.equal(out_TD, batch.residual_TD), "zero experts return their input"
        stats = linked.stats.layers[0]
    assert not any(worker.service.calls for worker in two)
    assert stats.tokens_all_zero == stats.tokens > 0
    assert stats.bytes_sent == stats.bytes_received == stats.messages_sent == stats.ffn_choices == 0


def test_zero_experts_of_type_drop_add_nothing(checkpoint: Checkpoint, two: list[Worker]) -> None:
    zero = leaning(gates(checkpoint)[0], checkpoint.config.n_routed_experts, 100.0)
    dropping = replace(checkpoint.config, zero_expert_type="drop")
    with exchange(_Configured(dropping)) as linked:  # type: ignore[arg-type]
        batch = random_batch(0, checkpoint.config.hidden_size, DTYPE)
        assert torch.equal(run(linked, 0, zero, batch), batch.residual_TD)


class _Configured:
    def __init__(self, config: object) -> None:
        self.config = config


@pytest.mark.parametrize("workers_used", [1, 2])
def test_every_count_is_what_the_workers_saw(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker], workers_used: int
) -> None:
    config = checkpoint.config
    gate = leaning(gates(checkpoint)[1], config.n_routed_experts, 0.05)
    tokens = pairs = all_zero = 0
    with exchange(checkpoint, connect) as linked:
        ends = [w.endpoint for w in two][:workers_used]
        linked.apply(place(1, checkpoint, ends, lambda layer, expert: [expert % workers_used]))
        for number in range(20):
            batch = random_batch(number, config.hidden_size, DTYPE)
            run(linked, 1, gate, batch)
            ids_TK, _, _ = route(
                batch.h_TD, gate.classifier_ED, gate.bias_E, config.moe_topk, config.n_routed_experts, 1.0
            )
            ffn_TK = ids_TK < config.n_routed_experts
            tokens += len(ids_TK)
            pairs += int(ffn_TK.sum())
            all_zero += int((~ffn_TK.any(1)).sum())
        stats = linked.stats.layers[1]
    calls = [call for worker in two for call in worker.service.calls]
    row_bytes = config.hidden_size * DTYPE.itemsize
    assert 0 < all_zero < tokens
    assert 0 < pairs < tokens * config.moe_topk
    assert (stats.layer_calls, stats.tokens, stats.tokens_all_zero) == (20, tokens, all_zero)
    assert (stats.choices, stats.ffn_choices) == (tokens * config.moe_topk, pairs)
    assert stats.messages_sent == len(calls)
    assert stats.rows_sent == sum(call.rows for call in calls)
    assert stats.assignments_sent == pairs == sum(len(call.row) // 4 for call in calls)
    assert stats.bytes_sent == stats.rows_sent * row_bytes
    assert sum(len(call.x.data) for call in calls) == sum(call.rows * row_bytes for call in calls if not call.p2p_group)
    assert stats.bytes_received == pairs * row_bytes
    # The wire figure: exact, since both sides count rows of one size.
    assert stats.bytes_received * stats.choices == stats.bytes_if_all_ffn * stats.ffn_choices
    if workers_used == 1:
        assert stats.rows_sent == tokens - all_zero, "a row goes once to a worker, however many experts want it"


def test_waiting_is_counted_where_it_happens(checkpoint: Checkpoint, connect: Connect, two: list[Worker]) -> None:
    gate = gates(checkpoint)[0]
    for overlap in (True, False):
        with exchange(checkpoint, connect, overlap=overlap) as linked:
            linked.apply(place(1, checkpoint, [two[0].endpoint], lambda layer, expert: [0]))
            batch = random_batch(3, checkpoint.config.hidden_size, DTYPE, tokens=8)
            pending = linked.start(0, batch.h_TD, gate, batch)
            stats = linked.stats.layers[0]
            assert (stats.exposed_s > 0) is not overlap, "only without overlap does start wait"
            pending.finish(batch.residual_TD)
            assert 0 < stats.exposed_s <= stats.round_trip_s < 5, "the wait is a part of the round trip"
            assert linked.stats.total().round_trip_s == stats.round_trip_s
