"""Workers behind a key: calls of outsiders are rejected whatever kind they are, those of members are served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import structlog
import torch
from caracal_proto import attention_pb2, expert_pb2, expert_pb2_grpc, placement_pb2
from caracal_proto.attention_pb2_grpc import AttentionStub
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client import CollectorRegistry
from support.attention_service import request, run, worker
from support.expert_workers import MAX_SESSIONS, Worker, connecting, gates, open_dispatcher, place, random_batch
from support.expert_workers import run as run_layer
from support.tiny_checkpoint import make_checkpoint

from services.attention_worker.server import AttentionServer
from services.checkpoint.reader import Checkpoint
from services.expert_worker.server import ExpertServer
from services.router.dispatch.connect import connector
from services.router.dispatch.native_fanout import NativeOptions
from services.router.dispatch.native_link import NativeStats
from services.router.dispatch.native_open import NotOpened, open_session
from services.router.dispatch.nccl_link import P2POptions, P2PStats
from services.security.channels import PLAIN, Dialer
from services.security.cluster_key import ClusterKey
from services.security.guard import Guard
from services.security.identity import ATTENTION, EXPERT, ROUTER

pytestmark = pytest.mark.processes

KEY, WRONG = ClusterKey("the key of this cluster"), ClusterKey("the key of another one")
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
OUTSIDERS = [PLAIN, Dialer(WRONG, ROUTER), Dialer(KEY, "expert")]
TABLE = placement_pb2.Table(epoch=2**62 - 1)


class GuardedWorker(Worker):
    """An expert worker whose server has the key."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint, torch.float32, "w0")
        self.server.stop(0)
        self.guard = Guard(KEY, self.endpoint.boot_id)
        self.server = ExpertServer(self.service, MAX_SESSIONS, guard=self.guard)
        self.endpoint.address = f"127.0.0.1:{self.server.start('127.0.0.1', 0)}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def guarded(checkpoint: Checkpoint) -> Iterator[GuardedWorker]:
    one = GuardedWorker(checkpoint)
    yield one
    one.stop()


def expert_calls(stub: Any) -> list[tuple[str, Any]]:
    return [
        ("Describe", lambda: stub.Describe(expert_pb2.ExpertDescribeRequest(), timeout=5)),
        ("Commit", lambda: stub.Commit(expert_pb2.CommitRequest(table=TABLE), timeout=5)),
        ("Prepare", lambda: stub.Prepare(expert_pb2.PrepareRequest(epoch=2**64 - 1), timeout=5)),
        ("Load", lambda: stub.Load(expert_pb2.LoadRequest(), timeout=5)),
        ("Open", lambda: stub.Open(expert_pb2.OpenRequest(), timeout=5)),
        ("Session", lambda: list(stub.Session(iter([expert_pb2.ExpertCall()]), timeout=5))),
        ("Session", lambda: list(stub.Session(iter(()), timeout=5))),
        ("Rendezvous", lambda: list(stub.Rendezvous(iter([expert_pb2.RendezvousItem(group=1)]), timeout=5))),
    ]


@pytest.mark.parametrize("dialer", OUTSIDERS, ids=["no key", "wrong key", "wrong role"])
def test_an_expert_worker_rejects_outsiders(guarded: GuardedWorker, dialer: Dialer) -> None:
    registry = CollectorRegistry()
    guarded.guard.show(registry)
    with dialer.threaded(guarded.endpoint.address, EXPERT) as channel, structlog.testing.capture_logs() as logs:
        calls = expert_calls(expert_pb2_grpc.ExpertStub(dialer.to_run(channel, guarded.endpoint.boot_id)))
        for name, call in calls:
            with pytest.raises(grpc.RpcError) as raised:
                call()
            assert raised.value.code() is UNAUTHENTICATED, name
        health = HealthStub(channel).Check(HealthCheckRequest(), timeout=5)  # type: ignore[attr-defined]
        assert health is not None, "health stays open"
    assert guarded.state.epoch == 0
    assert registry.get_sample_value("caracal_unauthenticated_calls_total", {"method": "/caracal.Expert/Commit"}) == 1
    assert len([entry for entry in logs if entry["log_level"] == "warning"]) == 1, "one line, not one for each call"


@pytest.mark.parametrize(("role", "refused"), [(ROUTER, {"Open", "Session", "Rendezvous"}), (ATTENTION, {"Commit"})])
def test_roles_do_not_make_each_others_calls(guarded: GuardedWorker, role: str, refused: set[str]) -> None:
    dialer = Dialer(KEY, role)
    with dialer.threaded(guarded.endpoint.address, EXPERT) as channel:
        calls = expert_calls(expert_pb2_grpc.ExpertStub(dialer.to_run(channel, guarded.endpoint.boot_id)))
        for name, call in calls:
            if name in refused:
                with pytest.raises(grpc.RpcError) as raised:
                    call()
                assert raised.value.code() is UNAUTHENTICATED, name
        if role == ROUTER:
            assert calls[0][1]().worker_id == "w0"


def test_a_native_session_needs_an_authenticated_call(guarded: GuardedWorker) -> None:
    guarded.service.direct = True
    for dialer in OUTSIDERS:
        with pytest.raises(NotOpened, match="UNAUTHENTICATED"):
            open_session(guarded.endpoint, dialer)
    opened = open_session(guarded.endpoint, Dialer(KEY, ATTENTION))
    opened.socket.close()


@pytest.mark.parametrize("link", ["grpc", "nccl", "native"])
def test_rows_reach_experts_over_every_link(guarded: GuardedWorker, checkpoint: Checkpoint, link: str) -> None:
    guarded.service.direct = True
    guarded.apply(place(1, checkpoint, [guarded.endpoint], lambda layer, expert: [0]))
    config = checkpoint.config
    p2p = P2POptions(
        "127.0.0.1", 64, 64 * config.moe_topk, config.hidden_size, torch.float32, torch.float32, torch.device("cpu"),
        P2PStats(),
    )  # fmt: skip
    native = NativeOptions(torch.float32, torch.float32, NativeStats())
    batch = random_batch(1, config.hidden_size, torch.float32)
    results: list[torch.Tensor | Exception] = []
    for connect in (
        connector(link, p2p, native, Dialer(KEY, ATTENTION)),
        connecting("grpc", checkpoint, torch.float32),
    ):
        with open_dispatcher(checkpoint, connect, expert_wait_s=2.0, call_timeout_s=2.0) as dispatcher:
            dispatcher.apply(place(1, checkpoint, [guarded.endpoint], lambda layer, expert: [0]))
            try:
                results.append(run_layer(dispatcher, 0, gates(checkpoint)[0], batch))
            except Exception as error:  # noqa: BLE001 - what a step fails with
                results.append(error)
    assert isinstance(results[0], torch.Tensor)
    assert isinstance(results[1], Exception), "without the key no row is answered"


async def code_of(call: Any) -> grpc.StatusCode:
    try:
        if hasattr(call, "__aiter__"):
            [event async for event in call]
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_an_attention_worker_rejects_outsiders_and_serves_routers() -> None:
    async def messages() -> Any:
        yield attention_pb2.AttemptMessage(attempt_id=1, request=request(max_tokens=2))

    async def many(stub: Any) -> None:
        """As routers open it: a call whose messages come from an iterator may end as INTERNAL on their side."""
        call = stub.GenerateMany()
        assert await call.read() is grpc.aio.EOF

    def calls(stub: Any) -> list[Any]:
        return [
            lambda: stub.Describe(attention_pb2.AttentionDescribeRequest()),
            lambda: stub.ApplyTable(TABLE),
            lambda: stub.Generate(request()),
            lambda: many(stub),
        ]

    async def body() -> None:
        async with worker() as one:
            await one.server.stop(0)
            one.server = AttentionServer(one.service, Guard(KEY, "b"))
            port = await one.server.start("127.0.0.1", 0)
            for dialer in (*OUTSIDERS, Dialer(KEY, ATTENTION)):
                async with dialer.aio(f"127.0.0.1:{port}", ATTENTION) as channel:
                    stub: Any = AttentionStub(dialer.to_run(channel, "b"))
                    assert [await code_of(call()) for call in calls(stub)] == [UNAUTHENTICATED] * 4
            assert one.service.epoch == 0
            router = Dialer(KEY, ROUTER)
            async with router.aio(f"127.0.0.1:{port}", ATTENTION) as channel:
                stub = AttentionStub(router.to_run(channel, "b"))
                assert [await code_of(call()) for call in calls(stub)[:3]] == [grpc.StatusCode.OK] * 3
                assert await code_of(stub.GenerateMany(messages())) is grpc.StatusCode.OK
                stale = AttentionStub(router.to_run(channel, "its run before"))
                assert await code_of(many(stale)) is grpc.StatusCode.UNAVAILABLE

    run(body)


def test_a_signed_channel_carries_the_callers_own_metadata(guarded: GuardedWorker) -> None:
    dialer = Dialer(KEY, ROUTER)
    with dialer.threaded(guarded.endpoint.address, EXPERT) as channel:
        stub: Any = expert_pb2_grpc.ExpertStub(dialer.to_run(channel, guarded.endpoint.boot_id))
        reply = stub.Describe(expert_pb2.ExpertDescribeRequest(), timeout=5, metadata=(("x-own", "1"),))
    assert reply.boot_id == guarded.endpoint.boot_id
