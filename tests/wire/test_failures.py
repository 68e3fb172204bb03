"""Combine never runs with a row missing: rows that a worker drops, damages or loses are computed by another."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest
import torch
from support.expert_workers import (
    Worker,
    gates,
    open_dispatcher,
    place,
    random_batch,
    run,
)
from support.p2p_worker_pool import P2PWorkerPool, WorkerProcess
from support.reference_dispatcher import ReferenceDispatcher
from support.wire_faults import FAULTS, damaged_call, flip_a_bit, hang_up, inject, malformed_call, nan

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.errors import ExpertsUnavailable
from services.router.dispatch.links import Connect

pytestmark = pytest.mark.processes

DTYPE = torch.bfloat16
WITHOUT_GROUP = ["grpc", "native"]  # a reply that is replaced leaves its payload in a P2P group, and that ends it


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_faulty_worker_s_rows_go_to_the_replica(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker], fault: Any
) -> None:
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    inject(two[0], fault)
    with open_dispatcher(checkpoint, connect, call_timeout_s=0.5) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [0, 1]))
        for number in range(8):
            batch = random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=12)
            assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))
        assert 1 <= dispatcher.stats.total().retries <= 8
        asked_again = dispatcher.stats.total().assignments_sent - dispatcher.stats.total().ffn_choices
        assert 0 < asked_again < dispatcher.stats.total().ffn_choices, "only the missing assignments are sent again"


@pytest.mark.parametrize("fault", [flip_a_bit, nan, hang_up], ids=lambda fault: fault.__name__)
def test_without_a_replica_the_same_worker_is_asked_until_it_answers(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker], fault: Any
) -> None:
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    left = [3]

    def three_times(answer: Any) -> Any:
        left[0] -= 1
        return fault(answer) if left[0] >= 0 else answer

    if fault is nan:
        two[0].corrupt = three_times
    else:
        two[0].service.fault = three_times
    with open_dispatcher(checkpoint, connect, call_timeout_s=0.5) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [expert % 2]))
        batch = random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
        assert torch.equal(run(dispatcher, 1, gate[1], batch), run(plain, 1, gate[1], batch))
        assert dispatcher.stats.layers[1].retries == 3


def test_when_no_worker_answers_the_layer_fails_and_names_the_experts(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker]
) -> None:
    gate, batch = gates(checkpoint), random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    two[0].service.fault = flip_a_bit
    with open_dispatcher(checkpoint, connect, expert_wait_s=0.4) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [int(expert != 5)]))
        with pytest.raises(ExpertsUnavailable, match=r"experts 5 of layer 1 .*checksum") as caught:
            run(dispatcher, 1, gate[1], batch)
        assert (caught.value.layer, caught.value.experts) == (1, [5])
        two[0].service.fault = lambda reply: reply
        assert torch.equal(
            run(dispatcher, 1, gate[1], batch), run(ReferenceDispatcher(checkpoint, DTYPE), 1, gate[1], batch)
        ), "the dispatcher goes on"


@pytest.mark.parametrize("connect", WITHOUT_GROUP, indirect=True)
@pytest.mark.parametrize("fault", [malformed_call, damaged_call], ids=lambda fault: fault.__name__)
def test_many_rejections_do_not_end_a_step(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker], fault: Any
) -> None:
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    batch, left = random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12), [7]

    def seven_times(reply: Any) -> Any:
        left[0] -= 1
        return fault(reply) if left[0] >= 0 else reply

    two[0].service.fault = seven_times
    with open_dispatcher(checkpoint, connect) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [two[0].endpoint], lambda layer, expert: [0]))
        assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))
        assert 5 <= dispatcher.stats.total().retries <= 7, "probes of the suspect got some of the faults"


@pytest.mark.parametrize("connect", WITHOUT_GROUP, indirect=True)
def test_a_call_that_stays_malformed_fails_after_the_wait(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker]
) -> None:
    gate, batch = gates(checkpoint), random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    for worker in two:
        worker.service.fault = malformed_call
    with open_dispatcher(checkpoint, connect, expert_wait_s=0.4) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [0, 1]))
        with pytest.raises(ExpertsUnavailable, match="an expert outside"):
            run(dispatcher, 0, gate[0], batch)


def test_an_answer_that_is_not_finite_on_every_worker_is_used(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker]
) -> None:
    """One sequence that overflows must not stop the batch it shares."""
    gate, batch = gates(checkpoint), random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    batch.h_TD[3] *= 3e38
    with open_dispatcher(checkpoint, connect, expert_wait_s=5) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [w.endpoint for w in two], lambda layer, expert: [expert % 2]))
        out_TD = run(dispatcher, 0, gate[0], batch)
        same_TD = run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate[0], batch)
        assert torch.equal(out_TD.view(torch.int16), same_TD.view(torch.int16))
        assert not torch.isfinite(out_TD[3]).all()


@pytest.fixture
def children(pool: P2PWorkerPool) -> list[WorkerProcess]:
    return [pool.worker(slow_s=0.3) for _ in range(2)]


def test_a_worker_killed_in_flight_is_replaced_by_the_replica(
    checkpoint: Checkpoint, connect: Connect, children: list[WorkerProcess]
) -> None:
    gate, batch = gates(checkpoint), random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    with open_dispatcher(checkpoint, connect) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [c.endpoint for c in children], lambda layer, expert: [0, 1]))
        pending = dispatcher.start(0, batch.h_TD, gate[0], batch)
        time.sleep(0.1)
        children[0].kill()
        out_TD = pending.finish(batch.residual_TD)
        assert torch.equal(out_TD, run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate[0], batch))
        assert dispatcher.stats.layers[0].retries == 1


def test_without_a_replica_the_layer_waits_for_a_new_table(
    checkpoint: Checkpoint, connect: Connect, children: list[WorkerProcess]
) -> None:
    gate, batch = gates(checkpoint), random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    ends = [child.endpoint for child in children]
    with open_dispatcher(checkpoint, connect) as dispatcher:
        dispatcher.apply(place(1, checkpoint, ends, lambda layer, expert: [expert % 2]))
        pending = dispatcher.start(0, batch.h_TD, gate[0], batch)
        time.sleep(0.1)
        children[0].kill()
        new = place(2, checkpoint, ends[1:], lambda layer, expert: [0])
        threading.Timer(0.7, dispatcher.apply, [new]).start()
        assert torch.equal(
            pending.finish(batch.residual_TD), run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate[0], batch)
        )
        assert dispatcher.epoch == 2
        assert dispatcher.stats.layers[0].exposed_s > 0.5


def test_a_hung_worker_is_avoided_after_its_first_timeout(
    checkpoint: Checkpoint, connect: Connect, children: list[WorkerProcess]
) -> None:
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    children[0].signal(signal.SIGSTOP)
    with open_dispatcher(checkpoint, connect, call_timeout_s=0.8) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [c.endpoint for c in children], lambda layer, expert: [0, 1]))
        began_s = time.monotonic()
        for number in range(3):
            batch = random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=12)
            assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))
        assert dispatcher.stats.layers[0].retries <= 2
        assert time.monotonic() - began_s < 8
    children[0].signal(signal.SIGCONT)


def test_a_restarted_worker_is_found_again_at_its_address(
    checkpoint: Checkpoint, connect: Connect, two: list[Worker]
) -> None:
    """A broken session is reopened by the next call that needs it."""
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    with open_dispatcher(checkpoint, connect) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [two[0].endpoint], lambda layer, expert: [0]))
        for number in range(6):
            two[0].service.fault = hang_up if number % 2 else lambda reply: reply
            if number % 2:
                threading.Timer(0.1, setattr, [two[0].service, "fault", lambda reply: reply]).start()
            batch = random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=12)
            assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))


def test_a_hung_worker_that_leaves_the_table_is_not_waited_for(
    checkpoint: Checkpoint, connect: Connect, children: list[WorkerProcess]
) -> None:
    gate, batch = gates(checkpoint), random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    ends = [child.endpoint for child in children]
    with open_dispatcher(checkpoint, connect, call_timeout_s=60, expert_wait_s=60) as dispatcher:
        dispatcher.apply(place(1, checkpoint, ends, lambda layer, expert: [expert % 2]))
        children[0].signal(signal.SIGSTOP)
        pending = dispatcher.start(0, batch.h_TD, gate[0], batch)
        threading.Timer(0.2, dispatcher.apply, [place(2, checkpoint, ends[1:], lambda layer, expert: [0])]).start()
        began_s = time.monotonic()
        assert torch.equal(
            pending.finish(batch.residual_TD), run(ReferenceDispatcher(checkpoint, DTYPE), 0, gate[0], batch)
        )
        assert time.monotonic() - began_s < 20, "the new table ends the wait, not the call's own deadline"
    children[0].signal(signal.SIGCONT)
