"""A P2P group with both sides in this process, and links whose P2P groups cannot be connected.

Legend: R rows of a call, T tokens, D hidden, A (row, expert) assignments.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc
from support.expert_workers import (
    Worker,
    connecting,
    gates,
    load_everything,
    open_dispatcher,
    place,
    random_batch,
    run,
    workers,
)
from support.reference_dispatcher import ReferenceDispatcher
from torch import Tensor

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.links import ExpertRequest
from services.router.dispatch.nccl_link import NcclLink, P2PStats
from services.transport.p2p_group import CALLER, SILENCE_S, WORKER, P2PBroken, P2PGroup
from services.transport.rendezvous_store import MirrorStore

CPU, HOST, MAX_BYTES = torch.device("cpu"), "127.0.0.1", 4 << 20
DTYPE = torch.bfloat16


def connect(max_bytes: int = MAX_BYTES) -> tuple[P2PGroup, P2PGroup]:
    """Returns (the caller's side, the worker's side) of a new P2P group."""
    stores = [MirrorStore(5.0, rank) for rank in (CALLER, WORKER)]
    for here, there in (stores, stores[::-1]):
        threading.Thread(target=here.follow, args=(there.outgoing(),), daemon=True).start()
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(P2PGroup.connect, stores[rank], rank, max_bytes, CPU, HOST) for rank in (CALLER, WORKER)]
        caller, worker = (future.result(20) for future in futures)
    for store in stores:
        store.end()
    return caller, worker


@pytest.fixture
def sides() -> Iterator[tuple[P2PGroup, P2PGroup]]:
    caller, worker = connect()
    yield caller, worker
    caller.abort()
    worker.abort()


def payload(nbytes: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (nbytes,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_payloads_of_any_size_arrive_whole_and_in_order_both_ways_at_once(sides: tuple[P2PGroup, P2PGroup]) -> None:
    sizes = [1, 3, MAX_BYTES, 4096, 1, 100_003, MAX_BYTES, 7] * 3
    announced: list[threading.Semaphore] = [threading.Semaphore(0), threading.Semaphore(0)]

    def send(rank: int) -> None:
        sends = []
        for number, nbytes in enumerate(sizes):
            sends.append(sides[rank].send(payload(nbytes, rank * 100 + number)))
            announced[rank].release()
        for one in sends:
            one.wait(10)

    def receive(rank: int) -> None:
        for number, nbytes in enumerate(sizes):
            assert announced[1 - rank].acquire(timeout=10)
            assert torch.equal(sides[rank].receive(nbytes), payload(nbytes, (1 - rank) * 100 + number)), number

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, rank) for work in (send, receive) for rank in (CALLER, WORKER)]:
            done.result(30)


def test_a_missing_payload_breaks_its_group_within_a_second_and_no_other(sides: tuple[P2PGroup, P2PGroup]) -> None:
    worker, other = sides[WORKER], connect()
    began_s = time.monotonic()
    with pytest.raises(P2PBroken):
        worker.receive(100)  # announced, and never sent
    assert SILENCE_S <= time.monotonic() - began_s < 5
    for again in (lambda: worker.receive(100), lambda: worker.send(payload(1, 0)).wait()):
        began_s = time.monotonic()
        with pytest.raises(P2PBroken):
            again()
        assert time.monotonic() - began_s < SILENCE_S / 2, "a broken group is not waited for again"
    sent = other[CALLER].send(payload(1000, 1))
    assert torch.equal(other[WORKER].receive(1000), payload(1000, 1))
    sent.wait()
    for side in other:
        side.abort()


def test_a_payload_larger_than_the_buffer_is_an_error(sides: tuple[P2PGroup, P2PGroup]) -> None:
    with pytest.raises(P2PBroken, match="the buffer takes"):
        sides[WORKER].receive(MAX_BYTES + 1)


def test_the_buffer_is_allocated_for_the_first_payload() -> None:
    caller, worker = connect(1 << 46)  # more than any machine has
    caller.send(payload(1, 0))
    with pytest.raises(P2PBroken, match="allocate"):
        worker.receive(1)
    for side in (caller, worker):
        side.abort()


def test_a_message_of_another_length_than_announced_breaks_nothing(sides: tuple[P2PGroup, P2PGroup]) -> None:
    for announced, nbytes in ((10, 1000), (1000, 10), (MAX_BYTES, 1), (1, MAX_BYTES)):
        sent = sides[CALLER].send(payload(nbytes, nbytes))
        got = sides[WORKER].receive(announced)
        sent.wait()
        size = min(announced, nbytes)
        assert len(got) == announced
        assert torch.equal(got[:size], payload(nbytes, nbytes)[:size])


def test_an_aborted_group_cannot_send(sides: tuple[P2PGroup, P2PGroup]) -> None:
    sides[CALLER].abort()
    with pytest.raises(P2PBroken, match="ended here"):
        sides[CALLER].send(payload(1, 0))


def test_a_rendezvous_without_the_other_side_times_out() -> None:
    with pytest.raises(P2PBroken, match=r"the other side did not come to the rendezvous within 0.2 s"):
        P2PGroup.connect(MirrorStore(0.2, CALLER), CALLER, MAX_BYTES, CPU, HOST)


def test_a_rendezvous_that_the_other_side_leaves_ends_at_once() -> None:
    store = MirrorStore(60.0, CALLER)
    threading.Timer(0.1, store.follow, [iter(())]).start()
    began_s = time.monotonic()
    with pytest.raises(P2PBroken, match="has ended the rendezvous"):
        P2PGroup.connect(store, CALLER, MAX_BYTES, CPU, HOST)
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("raised", [ValueError("basic_string::_M_create"), MemoryError("std::bad_alloc"), KeyError()])
def test_any_error_of_a_handshake_is_p2p_broken(raised: Exception) -> None:
    class Broken(MirrorStore):
        def set(self, key: str, value: str | bytes) -> None:
            raise raised

    with pytest.raises(P2PBroken):
        P2PGroup.connect(Broken(5.0, CALLER), CALLER, MAX_BYTES, CPU, HOST)


@pytest.fixture
def one(checkpoint: Checkpoint) -> Iterator[Worker]:
    with workers(checkpoint, DTYPE, 1) as running:
        load_everything(running[0].experts)
        yield running[0]


def test_without_p2p_groups_rows_go_over_grpc(checkpoint: Checkpoint) -> None:
    gate, plain, stats = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE), P2PStats()
    with workers(checkpoint, DTYPE, 1, p2p=False) as (worker,):
        load_everything(worker.experts)
        with open_dispatcher(checkpoint, connecting("nccl", checkpoint, DTYPE, stats)) as dispatcher:
            dispatcher.apply(place(1, checkpoint, [worker.endpoint], lambda layer, expert: [0]))
            for number in range(20):
                batch = random_batch(number, checkpoint.config.hidden_size, DTYPE)
                assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))
            assert dispatcher.stats.total().retries == 0
    assert (stats.connected, stats.calls) == (0, 0)
    assert 1 <= stats.failed <= 3, "it is not tried at each call"


def test_calls_larger_than_the_buffer_go_over_grpc(checkpoint: Checkpoint, one: Worker) -> None:
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    with open_dispatcher(checkpoint, connecting("nccl", checkpoint, DTYPE)) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        for tokens in (8, 200, 8):
            batch = random_batch(tokens, checkpoint.config.hidden_size, DTYPE, tokens=tokens)
            assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))
    assert [bool(call.p2p_group) for call in one.service.calls] == [True, False, True]


def test_an_answer_keeps_its_rows_when_the_next_one_arrives(checkpoint: Checkpoint, one: Worker) -> None:
    link = connecting("nccl", checkpoint, DTYPE)(one.endpoint)
    assert isinstance(link, NcclLink)
    rows = torch.arange(4, dtype=torch.int32)
    answers = []
    for number in range(6):
        x_RD = random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=4).h_TD
        request = ExpertRequest(number, 0, 1, 5.0, x_RD, rows, torch.full_like(rows, number % 4))
        answers.append((link.dispatch(request), one.experts.compute(0, x_RD, rows, request.expert_A)))
    got = [(future.result(5).y_AD, right_AD) for future, right_AD in answers]
    assert all(torch.equal(y_AD, right_AD) for y_AD, right_AD in got)
    assert one.service.over_p2p == 6
    link.close()


def test_a_broken_group_is_connected_again_after_a_backoff(checkpoint: Checkpoint, one: Worker) -> None:
    gate, plain, stats = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE), P2PStats()
    batch = random_batch(0, checkpoint.config.hidden_size, DTYPE)
    right_TD = run(plain, 0, gate[0], batch)
    with open_dispatcher(checkpoint, connecting("nccl", checkpoint, DTYPE, stats)) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        assert torch.equal(run(dispatcher, 0, gate[0], batch), right_TD)
        one.service.fault = _hang_up
        threading.Timer(0.1, setattr, [one.service, "fault", lambda reply: reply]).start()
        assert torch.equal(run(dispatcher, 0, gate[0], batch), right_TD)
        assert not one.service.calls[-1].p2p_group, "after the break the rows go over gRPC"
        deadline = time.monotonic() + 10
        while not one.service.calls[-1].p2p_group:
            assert time.monotonic() < deadline, "the group was not connected again"
            assert torch.equal(run(dispatcher, 0, gate[0], batch), right_TD)
    assert (stats.connected, stats.broken) == (2, 1)


@pytest.mark.parametrize("named", ["its own, which was never connected", "another session's"])
def test_a_call_over_a_group_of_another_session_ends_its_own_session_only(
    checkpoint: Checkpoint, one: Worker, named: str
) -> None:
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    batch, stats = random_batch(0, checkpoint.config.hidden_size, DTYPE), P2PStats()
    with open_dispatcher(checkpoint, connecting("nccl", checkpoint, DTYPE, stats)) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        run(dispatcher, 0, gate[0], batch)
        call = expert_pb2.ExpertCall.FromString(one.service.calls[-1].SerializeToString())
        assert call.p2p_group
        call.DiscardUnknownFields()  # the checksum of the call that it was
        call.session = 77
        if named.startswith("its own"):
            call.p2p_group = 77
        with grpc.insecure_channel(one.endpoint.address) as channel:
            stream = expert_pb2_grpc.ExpertStub(channel).Session(iter([call]), timeout=10)
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))
        assert dispatcher.stats.total().retries == 0
    assert (stats.connected, stats.broken) == (1, 0)


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (expert_pb2.RendezvousItem(group=5), "a P2P group for calls of 0 bytes"),
        (expert_pb2.RendezvousItem(group=5, max_bytes=1 << 50), "a P2P group for calls of"),
        (expert_pb2.RendezvousItem(group=5, max_bytes=100, on_device=True), "this worker has no GPU"),
    ],
)
def test_an_impossible_rendezvous_is_rejected_with_the_reason(
    one: Worker, hello: expert_pb2.RendezvousItem, why: str
) -> None:
    with grpc.insecure_channel(one.endpoint.address) as channel:
        with pytest.raises(grpc.RpcError, match=why) as caught:
            list(expert_pb2_grpc.ExpertStub(channel).Rendezvous(iter([hello]), timeout=10))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def _hang_up(reply: object) -> None:
    raise RuntimeError("the test's worker hangs up")
