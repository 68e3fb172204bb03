"""The Expert service: hostile calls get INVALID and their session goes on; tables have two phases, epochs only grow."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc, placement_pb2, tensor_pb2
from caracal_proto.placements import pack_experts, unpack_experts
from caracal_proto.tensors import checksum, decode, raw_bytes
from support.expert_workers import Worker, place, wanted
from support.tiny_checkpoint import make_checkpoint

from services.checkpoint.reader import Checkpoint

DTYPE = torch.bfloat16
ROWS = 3
Reply = expert_pb2.ExpertReply


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path: Path = make_checkpoint(tmp_path_factory.mktemp("plain"), dtype=DTYPE)
    return Checkpoint.open(path)


@pytest.fixture
def worker(checkpoint: Checkpoint) -> Iterator[Worker]:
    running = Worker(checkpoint, DTYPE, "w0")
    for expert in range(checkpoint.config.n_routed_experts):
        running.experts.load(0, expert)
    yield running
    running.stop()


@pytest.fixture
def stub(worker: Worker) -> Iterator[expert_pb2_grpc.ExpertStub]:
    with grpc.insecure_channel(worker.endpoint.address) as channel:
        yield expert_pb2_grpc.ExpertStub(channel)


def ints(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def good_call() -> expert_pb2.ExpertCall:
    x_RD = torch.randn(ROWS, 64, generator=torch.Generator().manual_seed(0)).to(DTYPE)
    data = raw_bytes(x_RD)
    return expert_pb2.ExpertCall(
        call=7,
        layer=0,
        rows=ROWS,
        checksum=checksum(data),
        x=tensor_pb2.Tensor(data=data, shape=[ROWS, 64], dtype=tensor_pb2.BFLOAT16),
        row=ints(0, 2, 1),
        expert=ints(1, 1, 4),
    )


def answer(stub: expert_pb2_grpc.ExpertStub, *calls: expert_pb2.ExpertCall) -> list[expert_pb2.ExpertReply]:
    return list(stub.Session(iter(calls), timeout=20))


def changed(change: Callable[[expert_pb2.ExpertCall], object]) -> expert_pb2.ExpertCall:
    call = good_call()
    change(call)
    return call


def resize(call: expert_pb2.ExpertCall, shape: list[int], rows: int | None = None) -> None:
    del call.x.shape[:]
    call.x.shape.extend(shape)
    call.rows = shape[0] if rows is None else rows


def without_rows(call: expert_pb2.ExpertCall) -> None:
    resize(call, [0, 64])
    call.x.data, call.checksum = b"", 0


def set_assignments(call: expert_pb2.ExpertCall, row: bytes, expert: bytes) -> None:
    call.row, call.expert = row, expert


HOSTILE: dict[str, Callable[[expert_pb2.ExpertCall], object]] = {
    "wrong dtype": lambda c: setattr(c.x, "dtype", tensor_pb2.FLOAT32),
    "no dtype": lambda c: setattr(c.x, "dtype", tensor_pb2.DTYPE_UNSPECIFIED),
    "unknown dtype": lambda c: setattr(c.x, "dtype", 99),
    "huge shape": lambda c: resize(c, [2**31, 64], 2**31),
    "absurd shape": lambda c: resize(c, [2**62, 2**62], 2**32 - 1),
    "negative shape": lambda c: resize(c, [-3, 64], 3),
    "another width": lambda c: resize(c, [6, 32]),
    "no shape": lambda c: c.x.ClearField("shape"),
    "one dimension": lambda c: resize(c, [ROWS * 64]),
    "rows and shape differ": lambda c: setattr(c, "rows", 2),
    "no rows": without_rows,
    "bytes missing": lambda c: setattr(c.x, "data", c.x.data[:-1]),
    "bytes left over": lambda c: setattr(c.x, "data", c.x.data + b"\0"),
    "wrong checksum": lambda c: setattr(c, "checksum", c.checksum ^ 1),
    "a flipped bit": lambda c: setattr(c.x, "data", bytes([c.x.data[0] ^ 1]) + c.x.data[1:]),
    "unknown layer": lambda c: setattr(c, "layer", 2),
    "huge layer": lambda c: setattr(c, "layer", 2**32 - 1),
    "negative expert": lambda c: setattr(c, "expert", ints(-1, 1, 4)),
    "zero expert": lambda c: setattr(c, "expert", ints(1, 1, 8)),
    "huge expert": lambda c: setattr(c, "expert", ints(1, 1, 2**31 - 1)),
    "negative row": lambda c: setattr(c, "row", ints(-1, 2, 1)),
    "row past the end": lambda c: setattr(c, "row", ints(0, 3, 1)),
    "huge row": lambda c: setattr(c, "row", ints(0, 2**31 - 1, 1)),
    "experts out of order": lambda c: setattr(c, "expert", ints(4, 1, 1)),
    "rows out of order": lambda c: setattr(c, "row", ints(2, 0, 1)),
    "an assignment twice": lambda c: setattr(c, "row", ints(2, 2, 1)),
    "no assignments": lambda c: set_assignments(c, b"", b""),
    "half an integer": lambda c: set_assignments(c, c.row[:-2], c.expert[:-2]),
    "more rows than experts": lambda c: setattr(c, "row", ints(0, 1, 2, 3)),
    "more assignments than there can be": lambda c: set_assignments(c, ints(*[0] * 99), ints(*[0] * 99)),
    "nothing at all": lambda c: c.Clear(),
}


def test_hostile_calls_are_rejected_and_the_session_stays_open(
    worker: Worker, stub: expert_pb2_grpc.ExpertStub
) -> None:
    calls = [good_call()]
    for change in HOSTILE.values():
        calls += [changed(change), good_call()]
    replies = answer(stub, *calls)
    assert len(replies) == len(calls)
    for name, reply in zip(HOSTILE, replies[1::2], strict=True):
        damaged = name in ("wrong checksum", "a flipped bit")
        assert reply.status == (Reply.DAMAGED if damaged else Reply.INVALID), name
        assert reply.message, name
        assert not reply.y.data
    assert all(reply.status == Reply.OK for reply in replies[::2])
    assert len({reply.y.data for reply in replies[::2]}) == 1
    assert worker.batcher.counters.calls == len(HOSTILE) + 1, "a rejected call computes nothing"


def test_a_good_call_gets_one_row_per_assignment(worker: Worker, stub: expert_pb2_grpc.ExpertStub) -> None:
    call = good_call()
    (reply,) = answer(stub, call)
    assert (reply.call, reply.status, reply.rows, list(reply.y.shape)) == (7, Reply.OK, 3, [3, 64])
    assert reply.checksum == checksum(reply.y.data)
    y_AD = worker.experts.compute(
        0, decode(call.x), torch.tensor([0, 2, 1], dtype=torch.int32), torch.tensor([1, 1, 4], dtype=torch.int32)
    )
    assert torch.equal(decode(reply.y), y_AD)


def test_an_expert_that_is_not_loaded_is_reported_with_the_worker_s_epoch(
    checkpoint: Checkpoint, worker: Worker, stub: expert_pb2_grpc.ExpertStub
) -> None:
    worker.state.commit(
        place(4, checkpoint, [worker.endpoint], lambda layer, expert: [0] * (layer == 0 and expert != 4))
    )
    (reply,) = answer(stub, changed(lambda c: setattr(c, "epoch", 4)))
    assert (reply.status, reply.epoch) == (Reply.NOT_LOADED, 4)
    assert "experts 4 of layer 0" in reply.message


def test_a_stale_call_is_rejected_with_the_worker_s_epoch(
    checkpoint: Checkpoint, worker: Worker, stub: expert_pb2_grpc.ExpertStub
) -> None:
    worker.state.commit(place(9, checkpoint, [worker.endpoint], lambda layer, expert: [0] * (layer == 0)))
    calls = [changed(lambda c, epoch=epoch: setattr(c, "epoch", epoch)) for epoch in (0, 8, 9, 10)]  # type: ignore[misc]
    replies = answer(stub, *calls)
    assert [reply.status for reply in replies] == [Reply.STALE_EPOCH, Reply.STALE_EPOCH, Reply.OK, Reply.OK]
    assert all(reply.epoch == 9 for reply in replies)
    assert worker.state.epoch == 9, "a call never raises the epoch, only a commit does"


def test_a_late_call_is_not_computed(checkpoint: Checkpoint) -> None:
    opened = threading.Event()

    def blocked(compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *args: (opened.wait(10), compute(*args))[1]

    running = Worker(checkpoint, DTYPE, "w0", blocked)
    try:
        for expert in range(8):
            running.experts.load(0, expert)
        with grpc.insecure_channel(running.endpoint.address) as channel, ThreadPoolExecutor(1) as thread:
            stub = expert_pb2_grpc.ExpertStub(channel)
            first = thread.submit(answer, stub, good_call())
            while not running.service.calls:
                time.sleep(0.01)
            threading.Timer(0.4, opened.set).start()
            (late,) = answer(stub, changed(lambda c: setattr(c, "deadline_ms", 50)))
            assert first.result()[0].status == Reply.OK
        assert late.status == Reply.DEADLINE_EXCEEDED
    finally:
        running.stop()


def commit(stub: expert_pb2_grpc.ExpertStub, table: placement_pb2.Table) -> expert_pb2.CommitReply:
    return stub.Commit(expert_pb2.CommitRequest(table=table))


def prepare(stub: expert_pb2_grpc.ExpertStub, epoch: int, *keys: tuple[int, int]) -> expert_pb2.PrepareReply:
    return stub.Prepare(expert_pb2.PrepareRequest(epoch=epoch, experts=pack_experts(*np.array(sorted(keys)).T)))


def assert_rejected(code: grpc.StatusCode, call: Callable[[], object], message: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == code
    assert message in (caught.value.details() or "")


def test_a_placement_comes_in_two_phases(
    checkpoint: Checkpoint, worker: Worker, stub: expert_pb2_grpc.ExpertStub
) -> None:
    table = place(3, checkpoint, [worker.endpoint], lambda layer, expert: [0] * (expert in (2, 5)))
    assert_rejected(grpc.StatusCode.FAILED_PRECONDITION, lambda: commit(stub, table), "was not prepared here")
    assert worker.state.epoch == 0
    assert wanted(table, "w0") == [(0, 2), (0, 5), (1, 2), (1, 5)]
    digests = np.frombuffer(prepare(stub, 3, *wanted(table, "w0")).digests, "<u8").tolist()
    assert digests == [worker.experts.load(*key) for key in wanted(table, "w0")]
    assert len(worker.experts.loaded) == 10, "what it loaded stays until the commit"
    assert commit(stub, table) == expert_pb2.CommitReply(epoch=3, loaded=4)
    described = stub.Describe(expert_pb2.ExpertDescribeRequest())
    assert [ids.tolist() for ids in unpack_experts(described.loaded)] == [[0, 0, 1, 1], [2, 5, 2, 5]]
    assert (described.worker_id, described.boot_id, described.epoch) == ("w0", "boot-w0", 3)
    assert commit(stub, table).epoch == 3, "a repeated commit changes nothing"
    other = place(3, checkpoint, [worker.endpoint], lambda layer, expert: [0] * (expert == 2))
    assert_rejected(grpc.StatusCode.ALREADY_EXISTS, lambda: commit(stub, other), "epoch 3 is another table's here")
    assert worker.experts.loaded == {(0, 2), (0, 5), (1, 2), (1, 5)}


def test_an_older_placement_never_comes_back(
    checkpoint: Checkpoint, worker: Worker, stub: expert_pb2_grpc.ExpertStub
) -> None:
    def table(epoch: int) -> placement_pb2.Table:
        return place(epoch, checkpoint, [worker.endpoint], lambda layer, expert: [0] * (layer == 0))

    commit(stub, table(5))
    assert_rejected(grpc.StatusCode.FAILED_PRECONDITION, lambda: commit(stub, table(4)), "epoch 4 is below 5")
    assert_rejected(grpc.StatusCode.FAILED_PRECONDITION, lambda: prepare(stub, 4, (1, 1)), "epoch 4 is below 5")
    assert (1, 1) not in worker.experts.loaded


@pytest.mark.parametrize(("layer", "expert"), [(1, 99), (99, 1)])
def test_a_failed_prepare_changes_nothing(
    worker: Worker, stub: expert_pb2_grpc.ExpertStub, layer: int, expert: int
) -> None:
    loaded = worker.experts.loaded
    assert_rejected(
        grpc.StatusCode.INVALID_ARGUMENT,
        lambda: prepare(stub, 1, (1, 0), (0, 3), (layer, expert)),
        f"no expert {expert} of layer {layer}",
    )
    assert worker.experts.loaded == loaded


class Full:
    """A mirror without memory for one of the experts."""

    def set(self, layer: int, expert: int, gate_up: torch.Tensor, down: torch.Tensor, /) -> None:
        if (layer, expert) == (1, 2):
            raise MemoryError("no memory is left")

    def drop(self, layer: int, expert: int, /) -> None: ...


def test_experts_that_memory_is_too_short_for_leave_nothing_loaded(
    worker: Worker, stub: expert_pb2_grpc.ExpertStub
) -> None:
    worker.experts.mirror(Full())
    loaded = worker.experts.loaded
    assert_rejected(grpc.StatusCode.UNKNOWN, lambda: prepare(stub, 1, (1, 0), (1, 2)), "no memory is left")
    assert worker.experts.loaded == loaded


@pytest.mark.parametrize(("field", "value"), [("boot_id", "an earlier start"), ("worker_id", "another")])
def test_a_table_for_another_boot_id_gives_this_worker_nothing(
    checkpoint: Checkpoint, worker: Worker, stub: expert_pb2_grpc.ExpertStub, field: str, value: str
) -> None:
    other = placement_pb2.Endpoint()
    other.CopyFrom(worker.endpoint)
    setattr(other, field, value)
    assert commit(stub, place(2, checkpoint, [other], lambda layer, expert: [0])).loaded == 0


def test_a_table_of_another_numerics_class_is_rejected(
    checkpoint: Checkpoint, worker: Worker, stub: expert_pb2_grpc.ExpertStub
) -> None:
    table = place(2, checkpoint, [worker.endpoint], lambda layer, expert: [0] * (layer == 0))
    table.numerics_class = "caracal-other"
    assert_rejected(grpc.StatusCode.FAILED_PRECONDITION, lambda: commit(stub, table), "caracal-other")
    table.numerics_class = "class-of-the-test"
    assert commit(stub, table).epoch == 2


def test_a_draining_worker_serves_until_it_has_no_experts(
    checkpoint: Checkpoint, worker: Worker, stub: expert_pb2_grpc.ExpertStub
) -> None:
    worker.state.drain()
    assert stub.Describe(expert_pb2.ExpertDescribeRequest()).draining
    commit(stub, place(1, checkpoint, [worker.endpoint], lambda layer, expert: [0] * (layer == 0)))
    assert answer(stub, changed(lambda c: setattr(c, "epoch", 1)))[0].status == Reply.OK
    assert not worker.state.drained
    commit(stub, place(2, checkpoint, [], lambda layer, expert: []))
    assert worker.state.drained


def test_callers_of_one_layer_share_launches(checkpoint: Checkpoint) -> None:
    """Four callers, one launch at a time: those that arrive during the first share the second."""
    opened = threading.Event()

    def blocked(compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *args: (opened.wait(10), compute(*args))[1]

    running = Worker(checkpoint, DTYPE, "w0", blocked)
    try:
        for expert in range(8):
            running.experts.load(0, expert)
        with grpc.insecure_channel(running.endpoint.address) as channel, ThreadPoolExecutor(4) as threads:
            stub = expert_pb2_grpc.ExpertStub(channel)
            answers = [threads.submit(answer, stub, good_call()) for _ in range(4)]
            while len(running.service.calls) < 4:
                time.sleep(0.01)
            time.sleep(0.1)
            opened.set()
            replies = [one.result()[0] for one in answers]
        assert len({reply.y.data for reply in replies}) == 1
        assert (running.batcher.counters.launches, running.batcher.counters.calls) == (2, 4)
        assert running.batcher.counters.rows == 4 * ROWS
    finally:
        running.stop()
