"""Native sessions with TLS: encrypted, as another implementation of the same standards reads them; what is seen on the
way says nothing, and what is changed there changes no answer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from caracal_proto import expert_pb2, expert_pb2_grpc, tensor_pb2
from support.certificates import Certificates
from support.encrypted_frames import ByteProxy, Caller
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
from support.native_frames import CALL, PING, PONG, REPLY, WELCOME, Frame, FramesEnded
from support.reference_dispatcher import ReferenceDispatcher

from services.checkpoint.reader import Checkpoint
from services.router.dispatch.native_link import NativeStats
from services.router.dispatch.native_open import NotOpened, open_session
from services.security.channels import Dialer
from services.security.identity import ATTENTION, EXPERT
from services.security.tls import Tls
from services.transport.native_extension import LIBCRYPTO, SOURCES, unavailable

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(bool(unavailable(encrypted=True)), reason="there is no native data plane, or no libcrypto"),
]

DTYPE = torch.bfloat16
STEPS = 4


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tls]:
    made = Certificates(tmp_path_factory.mktemp("tls"))
    return {role: made.tls(role) for role in (ATTENTION, EXPERT)}


@pytest.fixture
def dialer(tls: dict[str, Tls]) -> Dialer:
    return Dialer(tls=tls[ATTENTION])


@pytest.fixture
def one(checkpoint: Checkpoint, tls: dict[str, Tls]) -> Iterator[Worker]:
    with workers(checkpoint, DTYPE, 1, tls=tls[EXPERT]) as (running,):
        load_everything(running.experts)
        running.service.direct = True
        yield running


def same_as_reference(checkpoint: Checkpoint, worker: Worker, dialer: Dialer) -> NativeStats:
    """Runs layers and compares bits."""
    stats, gate, plain = NativeStats(), gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    connect = connecting("native", checkpoint, DTYPE, native_stats=stats, dialer=dialer)
    with open_dispatcher(checkpoint, connect) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [worker.endpoint], lambda layer, expert: [0]))
        for number in range(STEPS):
            batch = random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=12)
            assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))
    return stats


def opened(worker: Worker, dialer: Dialer) -> expert_pb2.OpenReply:
    with dialer.threaded(worker.endpoint.address, EXPERT) as channel:
        reply: expert_pb2.OpenReply = expert_pb2_grpc.ExpertStub(channel).Open(expert_pb2.OpenRequest(), timeout=5)
        return reply


def call_of(checkpoint: Checkpoint, session: int, number: int) -> Frame:
    """A call with one row for expert 0 of layer 0."""
    hidden = checkpoint.config.hidden_size
    x_D = random_batch(number, hidden, DTYPE, tokens=1).h_TD
    body = bytes(8) + x_D.view(torch.uint8).numpy().tobytes()
    sizes = {"rows": 1, "assignments": 1, "hidden": hidden, "dtype": tensor_pb2.BFLOAT16}
    return Frame(kind=CALL, session=session, call=number, body=body, **sizes).sealed()


def test_rows_go_over_native_sessions_with_the_same_bits(checkpoint: Checkpoint, one: Worker, dialer: Dialer) -> None:
    stats = same_as_reference(checkpoint, one, dialer)
    assert stats.calls == one.service.native_calls == STEPS
    assert (stats.over_grpc, stats.broken) == (0, 0)


def test_whoever_listens_sees_no_rows(checkpoint: Checkpoint, one: Worker, dialer: Dialer) -> None:
    one.service.direct, one.service.proxy = False, (proxy := ByteProxy(lambda _, data: data))
    assert same_as_reference(checkpoint, one, dialer).calls == STEPS
    rows = [
        row.view(torch.uint8).numpy().tobytes()
        for number in range(STEPS)
        for row in random_batch(number, checkpoint.config.hidden_size, DTYPE, tokens=12).h_TD
    ]
    assert len(proxy.seen) > sum(map(len, rows))
    assert not [row for row in rows if row[:16] in proxy.seen]


@pytest.mark.parametrize("to_worker", [True, False], ids=["calls", "replies"])
@pytest.mark.parametrize("place_", [30, 110, 400, -1], ids=["header", "start", "middle", "end"])
def test_a_changed_bit_ends_the_session_and_changes_no_answer(
    checkpoint: Checkpoint, one: Worker, dialer: Dialer, to_worker: bool, place_: int
) -> None:
    pieces = itertools.count()

    def change(to: bool, data: bytes) -> bytes:
        if to != to_worker or next(pieces) != 1:  # the first is the greeting
            return data
        changed = bytearray(data)
        changed[min(place_, len(data) - 1)] ^= 4
        return bytes(changed)

    one.service.direct, one.service.proxy = False, ByteProxy(change)
    stats = same_as_reference(checkpoint, one, dialer)
    assert stats.broken == 1
    assert stats.over_grpc > 0


def test_another_implementation_is_understood(checkpoint: Checkpoint, one: Worker, dialer: Dialer) -> None:
    place_ = opened(one, dialer)
    caller = Caller(place_)
    assert (caller.welcome.kind, caller.welcome.session) == (WELCOME, place_.session)
    for number in (1, 2):
        call = call_of(checkpoint, place_.session, number)
        caller.socket.sendall(caller.wire(call))
        reply = caller.read()
        assert (reply.kind, reply.status, reply.call, reply.session) == (REPLY, 0, number, place_.session)
        assert reply == Frame(**{**vars(reply), "body": reply.body}).sealed(), "its checksums are right"
        x_RD = torch.frombuffer(bytearray(call.body[8:]), dtype=DTYPE).view(1, -1)
        y_AD = one.experts.compute(0, x_RD, torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32))
        assert reply.body == y_AD.view(torch.uint8).numpy().tobytes()
    caller.socket.sendall(caller.wire(Frame(kind=PING, session=place_.session).sealed()))
    assert caller.read().kind == PONG


@pytest.mark.parametrize("how", ["a copy", "another order", "left out", "another session's", "not encrypted"])
def test_frames_out_of_place_end_the_session(checkpoint: Checkpoint, one: Worker, dialer: Dialer, how: str) -> None:
    place_ = opened(one, dialer)
    caller, other = Caller(place_), Caller(opened(one, dialer))
    first, second = (caller.wire(call_of(checkpoint, place_.session, number)) for number in (1, 2))
    sent = {
        "a copy": first,
        "another order": second + first,
        "left out": second,
        "another session's": other.wire(call_of(checkpoint, place_.session, 1)),
        "not encrypted": call_of(checkpoint, place_.session, 1).encoded(),
    }[how]
    if how == "a copy":
        caller.socket.sendall(first)
        assert caller.read().status == 0
    caller.socket.sendall(sent)
    notice = caller.read()
    assert (notice.kind, notice.call, notice.status) == (REPLY, 0, expert_pb2.ExpertReply.DAMAGED)
    with pytest.raises(FramesEnded):
        caller.read()
    assert one.service.native_calls == (how == "a copy")


def test_a_session_without_keys_is_not_used(checkpoint: Checkpoint, one: Worker, dialer: Dialer) -> None:
    class Forgets(ByteProxy):
        def cover(self, place: expert_pb2.OpenReply) -> expert_pb2.OpenReply:
            return expert_pb2.OpenReply(session=place.session, token=place.token, host=place.host, port=place.port)

    one.service.direct, one.service.proxy = False, Forgets(lambda _, data: data)
    with pytest.raises(NotOpened, match="the worker gave no keys, and TLS is on"):
        open_session(one.endpoint, dialer)
    stats = same_as_reference(checkpoint, one, dialer)
    assert stats.calls == 0
    assert stats.over_grpc == STEPS


def test_the_library_has_one_name() -> None:
    assert f'kLibcrypto[] = "{LIBCRYPTO}"' in Path(SOURCES / "libcrypto.h").read_text()
