"""Peers that say what no peer should, to expert workers in processes of their own: a crash would be seen as one."""

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
from pathlib import Path

import grpc
import psutil
import pytest
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc, tensor_pb2
from caracal_proto.tensors import dtype_name
from support.expert_fleet import MAX_SESSIONS, REPO, connecting
from support.p2p_worker_pool import Nursery, Peer
from support.tiny_checkpoint import make_checkpoint

from services.checkpoint.reader import Checkpoint
from services.expert_worker.p2p_registry import FIRST_ITEM_S
from services.expert_worker.sessions import IDLE_S
from services.router.dispatch.nccl_link import NcclLink
from services.transport.p2p_group import CALLER, WORKER, P2PGroup
from services.transport.payload import MAX_ROWS
from services.transport.rendezvous_check import refusal
from services.transport.rendezvous_store import MirrorStore

DTYPE = torch.bfloat16
ITEM, CALL = expert_pb2.RendezvousItem, expert_pb2.ExpertCall
Forge = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("attacked"), dtype=DTYPE)


@pytest.fixture(scope="module")
def checkpoint(path: Path) -> Checkpoint:
    return Checkpoint.open(path)


@pytest.fixture(scope="module")
def nursery(path: Path) -> Iterator[Nursery]:
    made = Nursery(path, DTYPE)
    yield made
    made.close()


@pytest.fixture
def peer(nursery: Nursery, checkpoint: Checkpoint) -> Iterator[Peer]:
    """After the test it must still make a pair."""
    born = nursery.worker()
    yield born
    link = connecting("nccl", checkpoint, DTYPE)(born.endpoint)
    assert isinstance(link, NcclLink)
    assert link.meet(10), "no pair is made any more"
    link.close()
    born.kill()


def stub(peer: Peer, held: ExitStack) -> expert_pb2_grpc.ExpertStub:
    """Over a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 1 << 30)]
    return expert_pb2_grpc.ExpertStub(held.enter_context(grpc.insecure_channel(peer.endpoint.address, options)))


def ended(stream: Iterable[object]) -> tuple[grpc.StatusCode, str]:
    """How a stream ends, whatever comes before."""
    try:
        for _ in stream:
            pass
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def answering(peer: Peer, forge: Forge, timeout_s: float = 30.0) -> tuple[grpc.StatusCode, str]:
    """A rendezvous in which the caller answers each of the worker's keys with `forge` of its value."""
    with ExitStack() as held:
        says: queue.SimpleQueue[expert_pb2.RendezvousItem | None] = queue.SimpleQueue()
        says.put(ITEM(group=int.from_bytes(os.urandom(7), "little"), max_bytes=1000))
        stream = stub(peer, held).Rendezvous(iter(says.get, None), timeout=timeout_s)

        def replies() -> Iterator[object]:
            for item in stream:
                says.put(ITEM(key=item.key[:-1] + "0", value=forge(item.value)))
                yield item

        try:
            return ended(replies())
        finally:
            says.put(None)


def with_lengths(blob: bytes, name: int, address: int) -> bytes:
    """The worker's blob, with other lengths written in it."""
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
def test_garbage_for_gloo_ends_a_rendezvous_and_no_worker(peer: Peer, named: str) -> None:
    began_s = time.monotonic()
    code, details = answering(peer, FORGERIES[named])
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "dispatch/0/0" in details, details
    assert time.monotonic() - began_s < 5


def test_a_well_formed_address_where_nobody_listens_costs_a_handshake(peer: Peer) -> None:
    code, details = answering(peer, lambda blob: blob[:-150] + b"\0\1" + blob[-148:])
    assert code is grpc.StatusCode.UNAVAILABLE, details


def test_a_worker_that_is_led_to_itself_holds_nobody_up_and_few_threads(peer: Peer) -> None:
    """Gloo tries for many seconds, whether or not the caller is still there."""
    with ExitStack() as held:
        asked, codes = stub(peer, held), []
        for _ in range(3 * MAX_SESSIONS):
            codes.append(answering(peer, lambda blob: blob, timeout_s=0.1)[0])
            asked.Describe(expert_pb2.ExpertDescribeRequest(), timeout=1)
        assert set(codes) == {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}, codes
        deadline = time.monotonic() + 60
        while answering(peer, FORGERIES["nothing"])[0] is not grpc.StatusCode.UNAVAILABLE:
            assert time.monotonic() < deadline
            time.sleep(0.5)


@pytest.mark.parametrize("rank", [CALLER, WORKER])
def test_neither_side_lets_gloo_see_garbage(rank: int) -> None:
    """In a process of its own: the caller's side is as much at stake as the worker's."""
    code = f"""
import struct, threading, torch
from caracal_proto import expert_pb2
from services.transport.p2p_group import P2PGroup, P2PBroken
from services.transport.rendezvous_store import MirrorStore
store = MirrorStore(5.0, {rank})
item = expert_pb2.RendezvousItem(key="dispatch/0/{1 - rank}", value=struct.pack("<Q", 1 << 30) + b"a" * 100)
threading.Thread(target=store.follow, args=(iter([item]),), daemon=True).start()
try:
    P2PGroup.meet(store, {rank}, 1000, torch.device("cpu"), "127.0.0.1")
except P2PBroken as error:
    print("broken:", error)
"""
    paths = os.pathsep.join(str(REPO / part) for part in (".", "kernels", "proto"))
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}, timeout=60
    )
    assert run.returncode == 0, run.stderr[-500:]
    assert "are no address of gloo" in run.stdout


def test_the_form_of_a_rank_s_blob() -> None:
    blob = struct.pack("<Q2sQ", 2, b"vm", 136) + b"\x02\0" + bytes(134) + bytes(16)
    longer = struct.pack("<Q9sQ", 9, b"another-h", 136) + b"\x02\0" + bytes(134) + bytes(16)
    assert refusal(longer, blob) == "", "hosts' names may differ"
    assert refusal(bytes(128), None) == ""
    assert refusal(blob, None)
    assert refusal(bytes(128), blob)


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ([ITEM(key="dispatch/0/1", value=b"x")], "'dispatch/0/1' do not belong here"),  # the worker's own
        ([ITEM(key="k", value=b"x")], "'k' do not belong here"),
        ([ITEM(key="dispatch/0/0", value=b"x" * (50 << 20))], "52428800 bytes"),
        ([ITEM(key="combine/0/0", value=b"x" * 170)] * 2, "'combine/0/0' do not belong here"),
    ],
)
def test_keys_that_nobody_expects_end_a_rendezvous(
    peer: Peer, items: list[expert_pb2.RendezvousItem], why: str
) -> None:
    silent = threading.Event()

    def say() -> Iterator[expert_pb2.RendezvousItem]:
        yield ITEM(group=5, max_bytes=1000)
        yield from items
        silent.wait(20)

    with ExitStack() as held:
        held.callback(silent.set)
        for _ in range(2):  # nothing of the first is left
            code, details = ended(stub(peer, held).Rendezvous(say(), timeout=30))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert why in details


def test_a_flood_of_items_is_not_kept(peer: Peer) -> None:
    def say() -> Iterator[expert_pb2.RendezvousItem]:
        yield ITEM(group=5, max_bytes=1000)
        for number in range(40):
            yield ITEM(key=f"k{number}", value=bytes(20 << 20))

    process = psutil.Process(peer.pid)
    before = process.memory_info().rss
    with ExitStack() as held:
        code, _ = ended(stub(peer, held).Rendezvous(say(), timeout=30))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert process.memory_info().rss - before < 200 << 20, "of 800 MB"


def met(peer: Peer, held: ExitStack, pair: int, max_bytes: int) -> P2PGroup:
    store = MirrorStore(5.0, CALLER)
    stream = stub(peer, held).Rendezvous(store.outgoing(ITEM(group=pair, max_bytes=max_bytes)), timeout=20)
    following = threading.Thread(target=store.follow, args=(stream,), daemon=True)
    following.start()
    made = P2PGroup.meet(store, CALLER, 1 << 20, torch.device("cpu"), "127.0.0.1")
    following.join(10)
    store.end()
    return made


@pytest.mark.parametrize("nbytes", [3, 4096])
def test_a_payload_of_another_length_than_announced_ends_no_worker(
    peer: Peer, checkpoint: Checkpoint, nbytes: int
) -> None:
    hidden = checkpoint.config.hidden_size
    with ExitStack() as held:
        pair = met(peer, held, 99, 4096)
        sent = pair.send(torch.zeros(nbytes, dtype=torch.uint8))
        x = tensor_pb2.Tensor(shape=[1, hidden], dtype=dtype_name(DTYPE))
        call = CALL(session=99, p2p_group=99, call=1, epoch=9, rows=1, x=x, row=bytes(4), expert=bytes(4), checksum=1)
        reply = next(stub(peer, held).Session(iter([call]), timeout=20))
        assert reply.status == reply.INVALID
        assert "checksum" in reply.message
        sent.wait()
        pair.abort()


def test_a_pair_for_more_than_the_model_can_need_is_refused(peer: Peer, checkpoint: Checkpoint) -> None:
    most = MAX_ROWS * checkpoint.config.hidden_size * DTYPE.itemsize
    with ExitStack() as held:
        code, details = ended(stub(peer, held).Rendezvous(iter([ITEM(group=1, max_bytes=most + 1)]), timeout=10))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert f"of {most} at most" in details
        met(peer, held, 2, most).abort()


def mute(peer: Peer, rpc: str, streams: int, held: ExitStack) -> list[grpc.Call]:
    """Streams on which nothing is ever said."""
    over = threading.Event()
    held.callback(over.set)

    def nothing() -> Iterator[object]:
        over.wait(60)
        yield from ()

    asked = stub(peer, held)
    return [getattr(asked, rpc)(nothing(), timeout=60) for _ in range(streams)]


@pytest.mark.parametrize("rpc", ["P2PGroup", "Session"])
def test_mute_streams_starve_nobody(peer: Peer, checkpoint: Checkpoint, rpc: str) -> None:
    with ExitStack() as held:
        streams = mute(peer, rpc, 200, held)
        time.sleep(0.5)
        asked = stub(peer, held)
        for _ in range(10):
            asked.Describe(expert_pb2.ExpertDescribeRequest(), timeout=1)
        time.sleep(max(FIRST_ITEM_S, IDLE_S if rpc == "Session" else 0) + 0.5)
        sessions = [asked.Session(iter([CALL(session=number, epoch=9)]), timeout=10) for number in range(MAX_SESSIONS)]
        assert all(next(session).status == expert_pb2.ExpertReply.INVALID for session in sessions)
        codes = {stream.code() for stream in streams} if rpc == "P2PGroup" else set()
        assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_sessions_beyond_the_limit_are_refused_and_those_that_spoke_stay(peer: Peer) -> None:
    over = threading.Event()

    def say() -> Iterator[expert_pb2.ExpertCall]:
        yield CALL(session=1, epoch=9)
        over.wait(60)
        yield CALL(session=1, epoch=9)

    with ExitStack() as held:
        held.callback(over.set)
        asked = stub(peer, held)
        sessions = [asked.Session(say(), timeout=60) for _ in range(MAX_SESSIONS)]
        for session in sessions:
            next(session)
        time.sleep(IDLE_S + 0.5)
        code, details = ended(asked.Session(say(), timeout=10))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "sessions are open" in details
        over.set()
        assert all(next(session).call == 0 for session in sessions)
