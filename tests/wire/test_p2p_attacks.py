"""Malformed and hostile rendezvous and sessions, against expert workers in processes of their own.

A crash of a worker then ends its process, not the tests.
"""

from __future__ import annotations

import os
import queue
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import grpc
import psutil
import pytest
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc, tensor_pb2
from caracal_proto.tensors import dtype_name
from support.expert_workers import MAX_SESSIONS, REPO, connecting
from support.p2p_worker_pool import P2PWorkerPool, WorkerProcess

from services.checkpoint.reader import Checkpoint
from services.expert_worker.p2p_registry import FIRST_ITEM_S
from services.expert_worker.sessions import IDLE_S
from services.router.dispatch.nccl_link import NcclLink
from services.transport.limits import MAX_ROWS
from services.transport.p2p_group import CALLER, WORKER, P2PGroup
from services.transport.rendezvous_check import invalid_reason
from services.transport.rendezvous_store import MirrorStore

pytestmark = pytest.mark.processes

DTYPE = torch.bfloat16
ITEM, CALL = expert_pb2.RendezvousItem, expert_pb2.ExpertCall
Forge = Callable[[bytes], bytes]


@pytest.fixture
def worker(pool: P2PWorkerPool, checkpoint: Checkpoint) -> Iterator[WorkerProcess]:
    """A worker; after the test it must still connect a P2P group."""
    process = pool.worker()
    yield process
    link = connecting("nccl", checkpoint, DTYPE)(process.endpoint)
    assert isinstance(link, NcclLink)
    assert link.connect_p2p(10), "no P2P group is connected any more"
    link.close()
    process.kill()


def stub(worker: WorkerProcess, stack: ExitStack) -> expert_pb2_grpc.ExpertStub:
    """Opens a stub over a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 1 << 30)]
    return expert_pb2_grpc.ExpertStub(stack.enter_context(grpc.insecure_channel(worker.endpoint.address, options)))


def result_of(stream: Iterable[object]) -> tuple[grpc.StatusCode, str]:
    """Reads a stream to its end; returns (status code, details)."""
    try:
        for _ in stream:
            pass
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def forged_rendezvous(worker: WorkerProcess, forge: Forge, timeout_s: float = 30.0) -> tuple[grpc.StatusCode, str]:
    """Runs a rendezvous in which the caller answers each of the worker's keys with `forge(value)`."""
    with ExitStack() as stack:
        sent: queue.SimpleQueue[expert_pb2.RendezvousItem | None] = queue.SimpleQueue()
        sent.put(ITEM(group=int.from_bytes(os.urandom(7), "little"), max_bytes=1000))
        stream = stub(worker, stack).Rendezvous(iter(sent.get, None), timeout=timeout_s)

        def replies() -> Iterator[object]:
            for item in stream:
                sent.put(ITEM(key=item.key[:-1] + "0", value=forge(item.value)))
                yield item

        try:
            return result_of(replies())
        finally:
            sent.put(None)


def with_lengths(blob: bytes, name: int, address: int) -> bytes:
    """Returns the worker's blob with other lengths written into it."""
    (length,) = struct.unpack_from("<Q", blob)
    return struct.pack("<Q", name) + blob[8 : 8 + length] + struct.pack("<Q", address) + blob[16 + length :]


FORGERIES: dict[str, Forge] = {
    "a length far beyond the end": lambda blob: struct.pack("<Q", 1 << 30) + b"a" * 100,
    "an address beyond the end": lambda blob: with_lengths(blob, len(blob) - 16 - 136 - 16, 1 << 40),
    "lengths that add up only modulo 2**64": lambda blob: with_lengths(blob, 2**64 - 8, 136),
    "nothing": lambda blob: b"",
    "three bytes": lambda blob: b"\xff" * 3,
    "all ones": lambda blob: b"\xff" * len(blob),
    "zeros": lambda blob: bytes(len(blob)),
    "noise": lambda blob: os.urandom(len(blob)),
    "one byte short": lambda blob: blob[:-1],
    "another kind of address": lambda blob: blob.replace(blob[-152:-150], b"\x7f\x7f", 1),
}


@pytest.mark.parametrize("named", FORGERIES)
def test_garbage_for_gloo_ends_the_rendezvous_and_not_the_worker(worker: WorkerProcess, named: str) -> None:
    began_s = time.monotonic()
    code, details = forged_rendezvous(worker, FORGERIES[named])
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "dispatch/0/0" in details, details
    assert time.monotonic() - began_s < 5


def test_a_well_formed_address_where_nobody_listens_costs_a_handshake(worker: WorkerProcess) -> None:
    code, details = forged_rendezvous(worker, lambda blob: blob[:-150] + b"\0\1" + blob[-148:])
    assert code is grpc.StatusCode.UNAVAILABLE, details


def test_a_worker_that_is_led_to_itself_blocks_no_one_and_keeps_few_threads(worker: WorkerProcess) -> None:
    """Gloo tries to connect for many seconds, also after the caller has left."""
    with ExitStack() as stack:
        expert, codes = stub(worker, stack), []
        for _ in range(3 * MAX_SESSIONS):
            codes.append(forged_rendezvous(worker, lambda blob: blob, timeout_s=0.1)[0])
            expert.Describe(expert_pb2.ExpertDescribeRequest(), timeout=1)
        assert set(codes) == {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}, codes
        deadline = time.monotonic() + 60
        while forged_rendezvous(worker, FORGERIES["nothing"])[0] is not grpc.StatusCode.UNAVAILABLE:
            assert time.monotonic() < deadline
            time.sleep(0.5)


@pytest.mark.parametrize("rank", [CALLER, WORKER])
def test_neither_side_passes_garbage_to_gloo(rank: int) -> None:
    """Runs in a process of its own, because both the caller's and the worker's side could crash."""
    code = f"""
import struct, threading, torch
from caracal_proto import expert_pb2
from services.transport.p2p_group import P2PGroup, P2PBroken
from services.transport.rendezvous_store import MirrorStore
store = MirrorStore(5.0, {rank})
item = expert_pb2.RendezvousItem(key="dispatch/0/{1 - rank}", value=struct.pack("<Q", 1 << 30) + b"a" * 100)
threading.Thread(target=store.follow, args=(iter([item]),), daemon=True).start()
try:
    P2PGroup.connect(store, {rank}, 1000, torch.device("cpu"), "127.0.0.1")
except P2PBroken as error:
    print("broken:", error)
"""
    paths = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto"))
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}, timeout=60
    )
    assert run.returncode == 0, run.stderr[-500:]
    assert "are no address of gloo" in run.stdout


def test_the_format_of_a_rank_s_blob() -> None:
    blob = struct.pack("<Q2sQ", 2, b"vm", 136) + b"\x02\0" + bytes(134) + bytes(16)
    longer = struct.pack("<Q9sQ", 9, b"another-h", 136) + b"\x02\0" + bytes(134) + bytes(16)
    assert invalid_reason(longer, blob) == "", "hosts' names may differ"
    assert invalid_reason(bytes(128), None) == ""
    assert invalid_reason(blob, None)
    assert invalid_reason(bytes(128), blob)


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ([ITEM(key="dispatch/0/1", value=b"x")], "'dispatch/0/1' do not belong here"),  # the worker's own
        ([ITEM(key="k", value=b"x")], "'k' do not belong here"),
        ([ITEM(key="dispatch/0/0", value=b"x" * (1 << 20))], "1048576 bytes"),
        ([ITEM(key="combine/0/0", value=b"x" * 170)] * 2, "'combine/0/0' do not belong here"),
    ],
)
def test_unexpected_keys_end_the_rendezvous(
    worker: WorkerProcess, items: list[expert_pb2.RendezvousItem], why: str
) -> None:
    over = threading.Event()

    def stream() -> Iterator[expert_pb2.RendezvousItem]:
        yield ITEM(group=5, max_bytes=1000)
        yield from items
        over.wait(20)

    with ExitStack() as stack:
        stack.callback(over.set)
        for _ in range(2):  # the first leaves no state
            code, details = result_of(stub(worker, stack).Rendezvous(stream(), timeout=30))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert why in details


def test_a_flood_of_items_is_not_kept(worker: WorkerProcess) -> None:
    def stream() -> Iterator[expert_pb2.RendezvousItem]:
        yield ITEM(group=5, max_bytes=1000)
        for number in range(800):
            yield ITEM(key=f"k{number}", value=bytes(1 << 20))

    process = psutil.Process(worker.pid)
    before = process.memory_info().rss
    with ExitStack() as stack:
        code, _ = result_of(stub(worker, stack).Rendezvous(stream(), timeout=30))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert process.memory_info().rss - before < 200 << 20, "of 800 MB"


def connected_group(worker: WorkerProcess, stack: ExitStack, group: int, max_bytes: int) -> P2PGroup:
    store = MirrorStore(5.0, CALLER)
    stream = stub(worker, stack).Rendezvous(store.outgoing(ITEM(group=group, max_bytes=max_bytes)), timeout=20)
    following = threading.Thread(target=store.follow, args=(stream,), daemon=True)
    following.start()
    connected = P2PGroup.connect(store, CALLER, 1 << 20, torch.device("cpu"), "127.0.0.1")
    following.join(10)
    store.end()
    return connected


@pytest.mark.parametrize("nbytes", [3, 4096])
def test_a_payload_of_another_length_than_announced_counts_as_damaged(
    worker: WorkerProcess, checkpoint: Checkpoint, nbytes: int
) -> None:
    hidden = checkpoint.config.hidden_size
    with ExitStack() as stack:
        group = connected_group(worker, stack, 99, 4096)
        payload = group.send(torch.zeros(nbytes, dtype=torch.uint8))
        x = tensor_pb2.Tensor(shape=[1, hidden], dtype=dtype_name(DTYPE))
        call = CALL(session=99, p2p_group=99, call=1, epoch=9, rows=1, x=x, row=bytes(4), expert=bytes(4), checksum=1)
        reply = next(stub(worker, stack).Session(iter([call]), timeout=20))
        assert reply.status == reply.DAMAGED
        assert "checksum" in reply.message
        payload.wait()
        group.abort()


def test_a_group_for_more_bytes_than_the_model_needs_is_rejected(worker: WorkerProcess, checkpoint: Checkpoint) -> None:
    most = MAX_ROWS * checkpoint.config.hidden_size * DTYPE.itemsize
    with ExitStack() as stack:
        code, details = result_of(stub(worker, stack).Rendezvous(iter([ITEM(group=1, max_bytes=most + 1)]), timeout=10))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert f"the limit is {most}" in details
        connected_group(worker, stack, 2, most).abort()


def idle_streams(worker: WorkerProcess, rpc: str, streams: int, stack: ExitStack) -> list[grpc.Call]:
    """Opens streams on which nothing is ever sent."""
    over = threading.Event()
    stack.callback(over.set)

    def nothing() -> Iterator[object]:
        over.wait(60)
        yield from ()

    expert = stub(worker, stack)
    return [getattr(expert, rpc)(nothing(), timeout=60) for _ in range(streams)]


@pytest.mark.parametrize("rpc", ["Rendezvous", "Session"])
def test_idle_streams_do_not_block_others(worker: WorkerProcess, checkpoint: Checkpoint, rpc: str) -> None:
    with ExitStack() as stack:
        streams = idle_streams(worker, rpc, 200, stack)
        time.sleep(0.5)
        expert = stub(worker, stack)
        for _ in range(10):
            expert.Describe(expert_pb2.ExpertDescribeRequest(), timeout=1)
        time.sleep(max(FIRST_ITEM_S, IDLE_S if rpc == "Session" else 0) + 0.5)
        sessions = [expert.Session(iter([CALL(session=number, epoch=9)]), timeout=10) for number in range(MAX_SESSIONS)]
        assert all(next(session).status == expert_pb2.ExpertReply.INVALID for session in sessions)
        codes = {stream.code() for stream in streams} if rpc == "Rendezvous" else set()
        assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_sessions_beyond_the_limit_are_rejected_and_used_ones_stay(worker: WorkerProcess) -> None:
    over = threading.Event()

    def stream() -> Iterator[expert_pb2.ExpertCall]:
        yield CALL(session=1, epoch=9)
        over.wait(60)
        yield CALL(session=1, epoch=9)

    with ExitStack() as stack:
        stack.callback(over.set)
        expert = stub(worker, stack)
        sessions = [expert.Session(stream(), timeout=60) for _ in range(MAX_SESSIONS)]
        for session in sessions:
            next(session)
        time.sleep(IDLE_S + 0.5)
        code, details = result_of(expert.Session(stream(), timeout=10))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "sessions are open" in details
        over.set()
        assert all(next(session).call == 0 for session in sessions)
