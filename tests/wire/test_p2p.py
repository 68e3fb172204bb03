"""A pair by itself, both sides in this process; and links whose pairs cannot be made."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc
from support.expert_fleet import Worker, connecting, exchange, gates, load_everything, place, random_batch, run, workers
from support.reference_dispatcher import PlainExchange
from support.tiny_checkpoint import make_checkpoint
from torch import Tensor

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.links import ExpertRequest
from services.router.dispatch.nccl_link import NcclLink, P2PStats
from services.transport.p2p_group import CALLER, SILENCE_S, WORKER, P2PBroken, P2PGroup
from services.transport.rendezvous_store import MirrorStore

CPU, HOST, MAX_BYTES = torch.device("cpu"), "127.0.0.1", 4 << 20
DTYPE = torch.bfloat16


def meet(max_bytes: int = MAX_BYTES) -> tuple[P2PGroup, P2PGroup]:
    """The caller's side and the worker's."""
    stores = [MirrorStore(5.0, rank) for rank in (CALLER, WORKER)]
    for here, there in (stores, stores[::-1]):
        threading.Thread(target=here.follow, args=(there.outgoing(),), daemon=True).start()
    with ThreadPoolExecutor(2) as pool:
        sides = [pool.submit(P2PGroup.meet, stores[rank], rank, max_bytes, CPU, HOST) for rank in (CALLER, WORKER)]
        caller, worker = (side.result(20) for side in sides)
    for store in stores:
        store.end()
    return caller, worker


@pytest.fixture
def pair() -> Iterator[tuple[P2PGroup, P2PGroup]]:
    caller, worker = meet()
    yield caller, worker
    caller.abort()
    worker.abort()


def payload(nbytes: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (nbytes,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_payloads_of_any_size_come_whole_and_in_order_both_ways_at_once(pair: tuple[P2PGroup, P2PGroup]) -> None:
    sizes = [1, 3, MAX_BYTES, 4096, 1, 100_003, MAX_BYTES, 7] * 3
    announced: list[threading.Semaphore] = [threading.Semaphore(0), threading.Semaphore(0)]

    def send(rank: int) -> None:
        sends = []
        for number, nbytes in enumerate(sizes):
            sends.append(pair[rank].send(payload(nbytes, rank * 100 + number)))
            announced[rank].release()
        for one in sends:
            one.wait(10)

    def receive(rank: int) -> None:
        for number, nbytes in enumerate(sizes):
            assert announced[1 - rank].acquire(timeout=10)
            assert torch.equal(pair[rank].receive(nbytes), payload(nbytes, (1 - rank) * 100 + number)), number

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, rank) for work in (send, receive) for rank in (CALLER, WORKER)]:
            done.result(30)


def test_silence_breaks_a_pair_within_a_second_and_no_other(pair: tuple[P2PGroup, P2PGroup]) -> None:
    worker, other = pair[WORKER], meet()
    began_s = time.monotonic()
    with pytest.raises(P2PBroken):
        worker.receive(100)  # announced, and never sent
    assert SILENCE_S <= time.monotonic() - began_s < 5
    for again in (lambda: worker.receive(100), lambda: worker.send(payload(1, 0)).wait()):
        began_s = time.monotonic()
        with pytest.raises(P2PBroken):
            again()
        assert time.monotonic() - began_s < SILENCE_S / 2, "a broken pair is not waited for again"
    sent = other[CALLER].send(payload(1000, 1))
    assert torch.equal(other[WORKER].receive(1000), payload(1000, 1))
    sent.wait()
    for side in other:
        side.abort()


def test_more_than_there_is_room_for_is_not_received(pair: tuple[P2PGroup, P2PGroup]) -> None:
    with pytest.raises(P2PBroken, match="there is room for"):
        pair[WORKER].receive(MAX_BYTES + 1)


def test_room_is_made_for_the_first_payload_and_not_before() -> None:
    caller, worker = meet(1 << 46)  # more than any machine has
    caller.send(payload(1, 0))
    with pytest.raises(P2PBroken, match="allocate"):
        worker.receive(1)
    for side in (caller, worker):
        side.abort()


def test_a_message_of_another_length_than_announced_breaks_nothing(pair: tuple[P2PGroup, P2PGroup]) -> None:
    for announced, nbytes in ((10, 1000), (1000, 10), (MAX_BYTES, 1), (1, MAX_BYTES)):
        sent = pair[CALLER].send(payload(nbytes, nbytes))
        got = pair[WORKER].receive(announced)
        sent.wait()
        size = min(announced, nbytes)
        assert len(got) == announced
        assert torch.equal(got[:size], payload(nbytes, nbytes)[:size])


def test_an_aborted_pair_is_of_no_use(pair: tuple[P2PGroup, P2PGroup]) -> None:
    pair[CALLER].abort()
    with pytest.raises(P2PBroken, match="ended here"):
        pair[CALLER].send(payload(1, 0))


def test_a_rendezvous_to_which_nobody_comes_ends() -> None:
    with pytest.raises(P2PBroken, match=r"nobody came to the rendezvous within 0.2 s"):
        P2PGroup.meet(MirrorStore(0.2, CALLER), CALLER, MAX_BYTES, CPU, HOST)


def test_a_rendezvous_that_the_other_side_leaves_ends_at_once() -> None:
    store = MirrorStore(60.0, CALLER)
    threading.Timer(0.1, store.follow, [iter(())]).start()
    began_s = time.monotonic()
    with pytest.raises(P2PBroken, match="has ended the rendezvous"):
        P2PGroup.meet(store, CALLER, MAX_BYTES, CPU, HOST)
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("raised", [ValueError("basic_string::_M_create"), MemoryError("std::bad_alloc"), KeyError()])
def test_whatever_a_handshake_raises_there_is_no_pair(raised: Exception) -> None:
    class Broken(MirrorStore):
        def set(self, key: str, value: str | bytes) -> None:
            raise raised

    with pytest.raises(P2PBroken):
        P2PGroup.meet(Broken(5.0, CALLER), CALLER, MAX_BYTES, CPU, HOST)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path: Path = make_checkpoint(tmp_path_factory.mktemp("plain"), dtype=DTYPE)
    return Checkpoint.open(path)


@pytest.fixture
def one(checkpoint: Checkpoint) -> Iterator[Worker]:
    with workers(checkpoint, DTYPE, 1) as running:
        load_everything(running[0].experts)
        yield running[0]


def test_where_no_pair_can_be_made_rows_go_over_grpc(checkpoint: Checkpoint) -> None:
    gate, plain, stats = gates(checkpoint), PlainExchange(checkpoint, DTYPE), P2PStats()
    with workers(checkpoint, DTYPE, 1, pairs=False) as (worker,):
        load_everything(worker.experts)
        with exchange(checkpoint, connecting("nccl", checkpoint, DTYPE, stats)) as linked:
            linked.apply(place(1, checkpoint, [worker.endpoint], lambda layer, expert: [0]))
            for number in range(20):
                batch = random_batch(number, checkpoint.config.hidden_size, DTYPE)
                assert torch.equal(run(linked, 0, gate[0], batch), run(plain, 0, gate[0], batch))
            assert linked.stats.total().retries == 0
    assert (stats.met, stats.calls) == (0, 0)
    assert 1 <= stats.failed <= 3, "it is not tried at each call"


def test_calls_larger_than_the_pair_s_room_go_over_grpc(checkpoint: Checkpoint, one: Worker) -> None:
    gate, plain = gates(checkpoint), PlainExchange(checkpoint, DTYPE)
    with exchange(checkpoint, connecting("nccl", checkpoint, DTYPE)) as linked:
        linked.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        for tokens in (8, 200, 8):
            batch = random_batch(tokens, checkpoint.config.hidden_size, DTYPE, tokens=tokens)
            assert torch.equal(run(linked, 0, gate[0], batch), run(plain, 0, gate[0], batch))
    assert [bool(call.p2p_group) for call in one.service.calls] == [True, False, True]


def test_an_answer_keeps_its_rows_when_the_next_one_comes(checkpoint: Checkpoint, one: Worker) -> None:
    link = connecting("nccl", checkpoint, DTYPE)(one.endpoint)
    assert isinstance(link, NcclLink)
    rows = torch.arange(4, dtype=torch.int32)
    answers = []
    for number in range(6):
        x_RD = random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=4).h_TD
        request = ExpertRequest(number, 0, 1, 5.0, x_RD, rows, torch.full_like(rows, number % 4))
        answers.append((link.dispatch(request), one.experts.compute(0, x_RD, rows, request.expert_A)))
    got = [(future.result(5).y_AD, right_PD) for future, right_PD in answers]
    assert all(torch.equal(y_AD, right_PD) for y_AD, right_PD in got)
    assert one.service.over_p2p == 6
    link.close()


def test_a_pair_that_broke_is_made_again_after_a_pause(checkpoint: Checkpoint, one: Worker) -> None:
    gate, plain, stats = gates(checkpoint), PlainExchange(checkpoint, DTYPE), P2PStats()
    batch = random_batch(0, checkpoint.config.hidden_size, DTYPE)
    right_TD = run(plain, 0, gate[0], batch)
    with exchange(checkpoint, connecting("nccl", checkpoint, DTYPE, stats)) as linked:
        linked.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        assert torch.equal(run(linked, 0, gate[0], batch), right_TD)
        one.service.fault = _hang_up
        threading.Timer(0.1, setattr, [one.service, "fault", lambda reply: reply]).start()
        assert torch.equal(run(linked, 0, gate[0], batch), right_TD)
        assert not one.service.calls[-1].p2p_group, "after the break the rows go over gRPC"
        deadline = time.monotonic() + 10
        while not one.service.calls[-1].p2p_group:
            assert time.monotonic() < deadline, "the pair was never made again"
            assert torch.equal(run(linked, 0, gate[0], batch), right_TD)
    assert (stats.met, stats.broken) == (2, 1)


@pytest.mark.parametrize("named", ["its own, which it never made", "another session's"])
def test_a_call_over_a_pair_that_is_not_its_own_ends_its_session_only(
    checkpoint: Checkpoint, one: Worker, named: str
) -> None:
    gate, plain = gates(checkpoint), PlainExchange(checkpoint, DTYPE)
    batch, stats = random_batch(0, checkpoint.config.hidden_size, DTYPE), P2PStats()
    with exchange(checkpoint, connecting("nccl", checkpoint, DTYPE, stats)) as linked:
        linked.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        run(linked, 0, gate[0], batch)
        call = expert_pb2.ExpertCall.FromString(one.service.calls[-1].SerializeToString())
        assert call.p2p_group
        call.session = 77
        if named.startswith("its own"):
            call.p2p_group = 77
        with grpc.insecure_channel(one.endpoint.address) as channel:
            stream = expert_pb2_grpc.ExpertStub(channel).Session(iter([call]), timeout=10)
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert torch.equal(run(linked, 0, gate[0], batch), run(plain, 0, gate[0], batch))
        assert linked.stats.total().retries == 0
    assert (stats.met, stats.broken) == (1, 0)


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        (expert_pb2.RendezvousItem(group=5), "a pair for calls of 0 bytes"),
        (expert_pb2.RendezvousItem(group=5, max_bytes=1 << 50), "a pair for calls of"),
        (expert_pb2.RendezvousItem(group=5, max_bytes=100, on_device=True), "this worker has no GPU"),
    ],
)
def test_a_rendezvous_that_asks_for_what_cannot_be_is_refused_in_words(
    one: Worker, hello: expert_pb2.RendezvousItem, why: str
) -> None:
    with grpc.insecure_channel(one.endpoint.address) as channel:
        with pytest.raises(grpc.RpcError, match=why) as caught:
            list(expert_pb2_grpc.ExpertStub(channel).Rendezvous(iter([hello]), timeout=10))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def _hang_up(reply: object) -> None:
    raise RuntimeError("the test's worker hangs up")
