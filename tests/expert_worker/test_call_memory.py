"""What calls over gRPC may take of an expert worker's memory: messages of a step's size, and replies in their turn."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc, tensor_pb2
from caracal_proto.tensors import checksum, raw_bytes
from support.tiny_checkpoint import make_checkpoint
from support.worker_processes import place_everything, redis_store, spawn

from services.expert_worker.call_memory import COPIES, ReplyMemory
from services.transport.limits import MAX_ROWS

pytestmark = pytest.mark.processes

EXPERTS, CHOICES, HIDDEN = 8, 4, 64
SESSIONS = 48
MIB = 1 << 20
Reply = expert_pb2.ExpertReply


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a worker with every expert, and its process."""
    folder = tmp_path_factory.mktemp("memory")
    model = make_checkpoint(folder / "model")
    with redis_store(folder) as store:
        process = spawn("expert", MODEL=str(model), REDIS_URL=store.url, WORKER_ID="expert-0")
        try:
            lease = store.await_record("expert", "expert-0")
            place_everything(store, lease, layers=2, experts=EXPERTS, epoch=1)
            yield lease["address"], psutil.Process(process.pid)
        finally:
            process.kill()
            process.communicate()


def call_of(rows: int, choices: int, dtype: torch.dtype = torch.float32) -> expert_pb2.ExpertCall:
    """Every row goes to the first `choices` experts."""
    data = raw_bytes(torch.ones(rows, HIDDEN, dtype=dtype))
    row = struct.pack(f"<{rows}i", *range(rows)) * choices
    expert = b"".join(struct.pack("<i", number) * rows for number in range(choices))
    x = tensor_pb2.Tensor(data=data, shape=[rows, HIDDEN], dtype=tensor_pb2.FLOAT32)
    return expert_pb2.ExpertCall(call=1, epoch=1, rows=rows, checksum=checksum(data), x=x, row=row, expert=expert)


class MostMemory:
    """A context manager: the most memory that a process has meanwhile, beyond what it had."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._began = process, process.memory_info().rss
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> MostMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self.bytes = max(self.bytes, self._process.memory_info().rss - self._began)


def test_the_largest_call_is_answered(worker: tuple[str, psutil.Process]) -> None:
    with grpc.insecure_channel(worker[0], (("grpc.max_receive_message_length", -1),)) as channel:
        (reply,) = expert_pb2_grpc.ExpertStub(channel).Session(iter([call_of(MAX_ROWS, CHOICES)]), timeout=60)
        assert (reply.status, reply.rows) == (Reply.OK, MAX_ROWS * CHOICES), reply.message


def test_a_larger_message_is_refused_before_it_is_read(worker: tuple[str, psutil.Process]) -> None:
    address, process = worker
    with grpc.insecure_channel(address) as channel, MostMemory(process) as most:
        stub = expert_pb2_grpc.ExpertStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            list(stub.Session(iter([call_of(200 * MIB // (4 * HIDDEN), 1)]), timeout=60))
        assert isinstance(error.value, grpc.Call)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in (error.value.details() or "")
        assert stub.Describe(expert_pb2.ExpertDescribeRequest(), timeout=5).worker_id == "expert-0"
    assert most.bytes < 32 * MIB


@pytest.mark.parametrize(
    ("rows", "choices", "why"),
    [
        (MAX_ROWS + 1, 1, f"{MAX_ROWS + 1} rows, a call has at most {MAX_ROWS}"),
        (1024, EXPERTS, f"for 1024 rows that choose {CHOICES} of {EXPERTS} experts each"),
    ],
)
def test_a_call_that_no_attention_worker_makes_is_invalid(
    worker: tuple[str, psutil.Process], rows: int, choices: int, why: str
) -> None:
    address, process = worker
    with grpc.insecure_channel(address) as channel, MostMemory(process) as most:
        (reply,) = expert_pb2_grpc.ExpertStub(channel).Session(iter([call_of(rows, choices)]), timeout=60)
        assert reply.status == Reply.INVALID
        assert why in reply.message
    assert most.bytes < 32 * MIB


def test_many_large_calls_at_once_take_bounded_memory(worker: tuple[str, psutil.Process]) -> None:
    address, process = worker
    large = call_of(MAX_ROWS, CHOICES)

    def ask(_: int) -> int:
        with grpc.insecure_channel(
            address, (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        ) as channel:
            (reply,) = expert_pb2_grpc.ExpertStub(channel).Session(iter([large]), timeout=120)
            return reply.status

    with MostMemory(process) as most, ThreadPoolExecutor(SESSIONS) as pool:
        assert set(pool.map(ask, range(SESSIONS))) == {Reply.OK}
    assert most.bytes < 4 * SESSIONS * large.ByteSize() + 256 * MIB
    assert process.memory_info().rss < 900 * MIB


def test_replies_wait_for_memory_in_their_order() -> None:
    memory, order = ReplyMemory(limit=100 * COPIES), list[int]()
    first = memory.take(20, lambda: None)

    def take(number: int, size: int) -> None:
        share = memory.take(size, lambda: None)
        order.append(number)
        memory.give_back(share)

    threads = []
    for number, size in enumerate((85, 1, 500)):  # the first does not fit beside the one that is there
        threads.append(threading.Thread(target=take, args=(number, size)))
        threads[-1].start()
        while len(memory._waiting) <= number:
            time.sleep(0.001)
    assert order == [], "a small one does not pass a large one"
    memory.give_back(first)
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2]


def test_who_does_not_read_its_reply_makes_room_for_who_waits() -> None:
    memory, ended = ReplyMemory(limit=100 * COPIES, unread_s=0.1), threading.Event()
    computed = memory.take(10, lambda: pytest.fail("its reply is not there yet"))
    unread = memory.take(30, ended.set)
    memory.sending(unread)

    def give_back() -> None:
        ended.wait(10)
        memory.give_back(unread)

    thread = threading.Thread(target=give_back)
    thread.start()
    share = memory.take(80, lambda: None)
    assert ended.is_set()
    thread.join()
    memory.give_back(share)
    memory.give_back(computed)
