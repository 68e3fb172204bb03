"""Workers with TLS: who has no certificate of the cluster gets nothing, and who has one only what its role may do."""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from collections.abc import Iterator
from pathlib import Path
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
from support.certificates import CLUSTER, Certificates
from support.cluster_harness import until
from support.expert_workers import MAX_SESSIONS, Worker
from support.tiny_checkpoint import make_checkpoint

from services.attention_worker.server import AttentionServer
from services.checkpoint.reader import Checkpoint
from services.expert_worker.server import ExpertServer
from services.security.channels import PLAIN, Dialer
from services.security.cluster_key import NO_KEY, ClusterKey
from services.security.guard import Guard
from services.security.identity import ATTENTION, EXPERT, ROUTER, server_name
from services.security.tls import LOOK_S, Tls

pytestmark = pytest.mark.processes

KEY = ClusterKey("the key of this cluster")
UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE
TABLE = placement_pb2.Table(epoch=2**62 - 1)
REJECTED = "caracal_unauthenticated_calls_total"
OPENED, USED = "caracal_tls_connections_total", "caracal_tls_connections_with_calls_total"


class TlsWorker(Worker):
    """An expert worker whose server has a certificate."""

    def __init__(self, checkpoint: Checkpoint, tls: Tls, key: ClusterKey = NO_KEY) -> None:
        super().__init__(checkpoint, torch.float32, "w0")
        self.server.stop(0)
        self.registry = CollectorRegistry()
        guard = Guard(key, self.endpoint.boot_id, tls)
        guard.show(self.registry)
        self.server = ExpertServer(self.service, MAX_SESSIONS, guard=guard)
        self.endpoint.address = f"127.0.0.1:{self.server.start('127.0.0.1', 0)}"

    def stub(self, dialer: Dialer, role: str = EXPERT) -> Any:
        self.channel = dialer.threaded(self.endpoint.address, role, [("grpc.use_local_subchannel_pool", 1)])
        return expert_pb2_grpc.ExpertStub(dialer.to_run(self.channel, self.endpoint.boot_id))

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint.open(make_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "tls")


@pytest.fixture
def expert(checkpoint: Checkpoint, made: Certificates) -> Iterator[TlsWorker]:
    one = TlsWorker(checkpoint, made.tls(EXPERT))
    yield one
    one.stop()


def code_of(call: Any) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def describe(stub: Any) -> grpc.StatusCode:
    return code_of(lambda: stub.Describe(expert_pb2.ExpertDescribeRequest(), timeout=3))


def commit(stub: Any) -> grpc.StatusCode:
    return code_of(lambda: stub.Commit(expert_pb2.CommitRequest(table=TABLE), timeout=3))


def session(stub: Any) -> grpc.StatusCode:
    return code_of(lambda: list(stub.Session(iter(()), timeout=3)))


def test_outsiders_get_no_connection(expert: TlsWorker, made: Certificates, tmp_path: Path) -> None:
    address, named = expert.endpoint.address, (("grpc.ssl_target_name_override", server_name(CLUSTER, EXPERT)),)
    another = Certificates(tmp_path / "another")
    files = another.issue(ROUTER)
    believes_us = grpc.ssl_channel_credentials(made.authority, files.key.read_bytes(), files.cert.read_bytes())
    channels = {
        "without TLS": grpc.insecure_channel(address),
        "without a certificate": grpc.secure_channel(address, grpc.ssl_channel_credentials(made.authority), named),
        "of another authority": grpc.secure_channel(address, believes_us, named),
    }
    for name, channel in channels.items():
        with channel:
            assert commit(expert_pb2_grpc.ExpertStub(channel)) is UNAVAILABLE, name
            health: Any = HealthStub(channel)
            assert code_of(lambda health=health: health.Check(HealthCheckRequest(), timeout=3)) is UNAVAILABLE, name
    assert commit(expert.stub(Dialer(NO_KEY, ROUTER, another.tls(ROUTER)))) is UNAVAILABLE, (
        "nor do its members believe us"
    )
    assert expert.state.epoch == 0
    assert expert.count(OPENED) >= 4
    assert expert.count(USED) == 0


def test_a_certificate_allows_what_its_role_may_do(expert: TlsWorker, made: Certificates) -> None:
    router, attention, other = (
        expert.stub(Dialer(NO_KEY, role, made.tls(role))) for role in (ROUTER, ATTENTION, EXPERT)
    )
    assert describe(router) is grpc.StatusCode.OK
    assert session(attention) is grpc.StatusCode.OK
    with structlog.testing.capture_logs() as logs:
        for stub, calls in ((router, [session]), (attention, [commit, describe]), (other, [commit, describe, session])):
            assert [call(stub) for call in calls] == [UNAUTHENTICATED] * len(calls)
    assert expert.state.epoch == 0
    assert expert.count(REJECTED, method="/caracal.Expert/Commit") == 2
    assert len(logs) == 1, "one line, not one for each call"
    assert expert.count(USED) == 3
    health: Any = HealthStub(expert.channel)
    assert code_of(lambda: health.Check(HealthCheckRequest(), timeout=3)) is grpc.StatusCode.OK
    assert expert.count("caracal_tls_certificate_expires_seconds") > time.time()


def test_a_role_that_is_only_said_is_none(checkpoint: Checkpoint, made: Certificates) -> None:
    expert = TlsWorker(checkpoint, made.tls(EXPERT), KEY)
    try:
        assert describe(expert.stub(Dialer(KEY, ROUTER, made.tls(ROUTER)))) is grpc.StatusCode.OK
        said = expert.stub(Dialer(KEY, ROUTER, made.tls(ATTENTION)))
        assert commit(said) is UNAUTHENTICATED, "signed with the key as a router, over an attention worker's connection"
        assert commit(expert.stub(Dialer(NO_KEY, ROUTER, made.tls(ROUTER)))) is UNAUTHENTICATED, "nor without the key"
    finally:
        expert.stop()


def test_another_cluster_of_the_same_authority_is_a_stranger(expert: TlsWorker, made: Certificates) -> None:
    theirs, named = made.tls(ROUTER, "other"), (("grpc.ssl_target_name_override", server_name(CLUSTER, EXPERT)),)
    with grpc.secure_channel(expert.endpoint.address, theirs.channel(), named) as channel:
        assert commit(expert_pb2_grpc.ExpertStub(channel)) is UNAUTHENTICATED
    assert describe(expert.stub(Dialer(NO_KEY, ROUTER, theirs))) is UNAVAILABLE, (
        "their routers do not take it for theirs"
    )


def test_whoever_answers_has_to_be_of_the_role(expert: TlsWorker, made: Certificates) -> None:
    assert describe(expert.stub(Dialer(NO_KEY, ROUTER, made.tls(ROUTER)), ATTENTION)) is UNAVAILABLE
    assert describe(expert.stub(PLAIN)) is UNAVAILABLE


def test_a_certificate_that_expires_makes_no_new_connection(expert: TlsWorker, made: Certificates) -> None:
    tls = Tls(made.issue(ROUTER, valid=datetime.timedelta(seconds=3)), CLUSTER, ROUTER)
    stub = expert.stub(Dialer(NO_KEY, ROUTER, tls))
    assert describe(stub) is grpc.StatusCode.OK
    until(lambda: time.time() > tls.expires + 1, "it does not expire", 10)
    assert describe(expert.stub(Dialer(NO_KEY, ROUTER, tls))) is UNAVAILABLE
    assert describe(stub) is grpc.StatusCode.OK, "a connection that is open stays"
    made.issue(ROUTER)
    until(lambda: tls.generation == 1, "it is not renewed", 5)
    used = expert.count(USED)
    assert describe(stub) is grpc.StatusCode.OK
    assert expert.count(USED) == used + 1, "over a new connection"


def test_a_session_outlives_all_certificates_that_it_began_with(checkpoint: Checkpoint, made: Certificates) -> None:
    ours = Tls(made.issue(EXPERT), CLUSTER, EXPERT)
    expert = TlsWorker(checkpoint, ours)
    tls = Tls(made.issue(ATTENTION), CLUSTER, ATTENTION)
    stub, more = (
        expert.stub(Dialer(NO_KEY, ATTENTION, tls)),
        [expert_pb2.ExpertCall(call=number) for number in range(3)],
    )

    def calls() -> Iterator[expert_pb2.ExpertCall]:
        while more:
            yield more.pop()

    try:
        replies = stub.Session(calls(), timeout=30)
        next(replies)
        old = made.authority
        made.renew_authority(old)
        for role in (EXPERT, ATTENTION):
            made.issue(role)
        until(lambda: (ours.generation, tls.generation) >= (1, 1), "they are not read again", 5)
        time.sleep(LOOK_S)
        assert session(stub) is grpc.StatusCode.OK
        made.write("ca.crt", made.authority)
        generations = ours.generation, tls.generation
        until(lambda: ours.generation > generations[0] and tls.generation > generations[1], "nor again", 5)
        assert session(stub) is grpc.StatusCode.OK
        assert expert.count(USED) == 3
        assert len(list(replies)) == 2, "the first session goes on"
    finally:
        expert.stop()


def test_closing_a_channel_ends_the_calls_of_before_a_renewal(expert: TlsWorker, made: Certificates) -> None:
    tls, going_on = Tls(made.issue(ATTENTION), CLUSTER, ATTENTION), threading.Event()

    def calls() -> Iterator[expert_pb2.ExpertCall]:
        yield expert_pb2.ExpertCall(call=1)
        going_on.wait()

    channel: Any = Dialer(NO_KEY, ATTENTION, tls).threaded(expert.endpoint.address, EXPERT)
    write, read = expert_pb2.ExpertCall.SerializeToString, expert_pb2.ExpertReply.FromString
    method = channel.stream_stream("/caracal.Expert/Session", write, read)
    replies = method(calls(), timeout=30)
    next(replies)
    made.issue(ATTENTION)
    until(lambda: tls.generation == 1, "it is not read again", 5)
    assert code_of(lambda: list(method(iter(()), timeout=3))) is grpc.StatusCode.OK
    assert len(expert.service._sessions) == 1
    channel.close()
    going_on.set()
    assert code_of(lambda: next(replies)) is grpc.StatusCode.CANCELLED
    until(lambda: len(expert.service._sessions) == 0, "the session goes on", 5)


async def aio_code_of(call: Any) -> grpc.StatusCode:
    try:
        if hasattr(call, "__aiter__"):
            [event async for event in call]
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_an_attention_worker_takes_calls_of_routers_only(made: Certificates) -> None:
    async def messages() -> Any:
        yield attention_pb2.AttemptMessage(attempt_id=1, request=request(max_tokens=2))

    async def many(stub: Any) -> None:
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
            tls = Tls(made.issue(ATTENTION), CLUSTER, ATTENTION)
            one.server = AttentionServer(one.service, Guard(tls=tls))
            address = f"127.0.0.1:{await one.server.start('127.0.0.1', 0)}"
            for role in (EXPERT, ATTENTION):
                async with Dialer(NO_KEY, role, made.tls(role)).aio(address, ATTENTION) as channel:
                    stub: Any = AttentionStub(channel)
                    assert [await aio_code_of(call()) for call in calls(stub)] == [UNAUTHENTICATED] * 4
            assert one.service.epoch == 0
            router = Tls(made.issue(ROUTER), CLUSTER, ROUTER)
            async with Dialer(NO_KEY, ROUTER, router).aio(address, ATTENTION) as channel:
                stub = AttentionStub(channel)
                assert [await aio_code_of(call()) for call in calls(stub)[:3]] == [grpc.StatusCode.OK] * 3
                assert await aio_code_of(stub.GenerateMany(messages())) is grpc.StatusCode.OK
                assert channel.get_state() is grpc.ChannelConnectivity.READY
                made.renew_authority(made.authority)
                for role in (ATTENTION, ROUTER):
                    made.issue(role)
                await asyncio.sleep(LOOK_S + 0.1)
                assert channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY, "a new connection"
                assert await aio_code_of(stub.Generate(request())) is grpc.StatusCode.OK
                assert router.generation >= 1

    run(body)
