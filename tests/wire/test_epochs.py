"""Tables and epochs: stale calls are rejected and sent again; experts that are not loaded are asked of a replica."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from caracal_proto import placement_pb2
from caracal_proto.placements import layer_of, workers_of
from support.changing_tables import apply_tables
from support.expert_workers import (
    Worker,
    gates,
    load_everything,
    open_dispatcher,
    place,
    random_batch,
    run,
    workers,
)
from support.reference_dispatcher import ReferenceDispatcher

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.errors import ExpertsUnavailable
from services.router.dispatch.links import Connect
from services.router.dispatch.table import TableError

DTYPE = torch.bfloat16
TABLES = 50  # of each link


@pytest.fixture
def three(checkpoint: Checkpoint) -> Iterator[list[Worker]]:
    with workers(checkpoint, DTYPE, 3) as running:
        yield running


def test_a_stale_call_is_rejected_and_sent_again(checkpoint: Checkpoint, connect: Connect, three: list[Worker]) -> None:
    gate, batch = gates(checkpoint), random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    ends = [worker.endpoint for worker in three]
    old = place(1, checkpoint, ends, lambda layer, expert: [expert % 2])
    new = place(2, checkpoint, ends, lambda layer, expert: [expert % 3])
    asked = []
    for table in (old, new):
        for worker in three:
            worker.apply(table)

    def refresh() -> None:
        asked.append(True)
        threading.Timer(0.1, dispatcher.apply, [new]).start()

    with open_dispatcher(checkpoint, connect, refresh=refresh) as dispatcher:
        assert dispatcher.apply(old) == 1
        out_TD = run(dispatcher, 0, gate[0], batch)
        assert torch.equal(out_TD, run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate[0], batch))
        assert dispatcher.epoch == 2
        assert asked, "the dispatcher asks for a newer table"
        assert dispatcher.stats.layers[0].stale_epoch_rejections == 2
        assert dispatcher.apply(old) == 2, "an older table is ignored"
    epochs = [call.epoch for worker in three for call in worker.service.calls]
    assert sorted(set(epochs)) == [1, 2]


def test_a_stale_call_without_a_newer_table_is_an_error(
    checkpoint: Checkpoint, connect: Connect, three: list[Worker]
) -> None:
    gate, batch = gates(checkpoint), random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    ends = [worker.endpoint for worker in three]
    for epoch in (1, 5):
        three[0].apply(place(epoch, checkpoint, ends, lambda layer, expert: [0]))
    with open_dispatcher(checkpoint, connect, expert_wait_s=0.3) as dispatcher:
        dispatcher.apply(place(4, checkpoint, ends, lambda layer, expert: [0]))
        with pytest.raises(ExpertsUnavailable, match="epoch 4 is below 5"):
            run(dispatcher, 0, gate[0], batch)
        assert len(three[0].service.calls) == 1, "it is not asked again under the table it rejected"


def test_an_expert_that_is_not_loaded_is_asked_of_the_replica(
    checkpoint: Checkpoint, connect: Connect, three: list[Worker]
) -> None:
    """Worker 0 has dropped half of what the table gives it."""
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    for worker in three:
        load_everything(worker.experts)
    for expert in range(0, 8, 2):
        three[0].experts.drop(0, expert)
    with open_dispatcher(checkpoint, connect) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in three], lambda layer, expert: [0, 1]))
        for number in range(4):
            batch = random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=12)
            assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))
    assert three[0].service.rejected_calls


def test_before_the_first_table_a_layer_waits_for_it(
    checkpoint: Checkpoint, connect: Connect, three: list[Worker]
) -> None:
    gate, batch = gates(checkpoint), random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    load_everything(three[0].experts)
    table = place(1, checkpoint, [three[0].endpoint], lambda layer, expert: [0])
    with open_dispatcher(checkpoint, connect) as dispatcher:
        threading.Timer(0.2, dispatcher.apply, [table]).start()
        out_TD = run(dispatcher, 0, gate[0], batch)
        assert torch.equal(out_TD, run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate[0], batch))
        assert dispatcher.stats.layers[0].ffn_choices == dispatcher.stats.layers[0].assignments_sent


def test_a_table_for_another_model_is_an_error(checkpoint: Checkpoint, connect: Connect) -> None:
    end = placement_pb2.Endpoint(worker_id="w", address="127.0.0.1:1")
    good = place(1, checkpoint, [end], lambda layer, expert: [0])
    short, narrow, unknown, twice, torn = (placement_pb2.Table.FromString(good.SerializeToString()) for _ in range(5))
    lists = workers_of(good.layers[0])
    del short.layers[-1]
    narrow.layers[0].CopyFrom(layer_of(lists[:-1]))
    unknown.layers[0].CopyFrom(layer_of([[0, 1], *lists[1:]]))
    twice.layers[0].CopyFrom(layer_of([[0, 0], *lists[1:]]))
    torn.layers[0].workers = torn.layers[0].workers[:-1]
    with open_dispatcher(checkpoint, connect) as dispatcher:
        for bad in (short, narrow, unknown, twice, torn):
            with pytest.raises(TableError):
                dispatcher.apply(bad)
        assert dispatcher.epoch == 0


def test_hundreds_of_tables_never_change_a_bit(checkpoint: Checkpoint, connect: Connect, three: list[Worker]) -> None:
    """Placements change hundreds of times; workers commit them before and after the dispatcher applies them."""
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    batches = [random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=6) for number in range(10)]
    right = [run(plain, i % 2, gate[i % 2], batch) for i, batch in enumerate(batches)]
    with open_dispatcher(checkpoint, connect) as dispatcher:
        done = threading.Event()
        changes = threading.Thread(target=apply_tables, args=(checkpoint, three, dispatcher, TABLES, done))
        changes.start()
        steps = 0
        while not done.is_set() or steps < TABLES:
            index = steps % len(batches)
            out_TD = run(dispatcher, index % 2, gate[index % 2], batches[index])
            assert torch.equal(out_TD, right[index]), f"step {steps}, epoch {dispatcher.epoch}"
            steps += 1
        changes.join()
        assert dispatcher.epoch == TABLES
        assert dispatcher.stats.total().stale_epoch_rejections > 10, "some calls were stale"
