"""Damaged bytes at every port of every role, seeded: afterwards the same processes answer with the same bits.

`make fuzz` tries many more.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
import httpx2
import pytest
from caracal_proto import attention_pb2, expert_pb2, expert_pb2_grpc, router_pb2
from google.protobuf.message import Message
from support.cluster_harness import ClusterUnderTest, answer_of, running_cluster, sampling_of, until
from support.fuzzing import SEED, TIMES, http2_call, mutated
from support.native_frames import CALL, HELLO, PING, Frame

from services.security.calls import CallSigner
from services.security.channels import Dialer
from services.security.cluster_key import ClusterKey
from services.security.identity import ATTENTION, EXPERT, ROUTER

pytestmark = pytest.mark.processes

TRIES = 400  # of a port
AT_ONCE = 8
READ_S = 0.15  # for an answer, which need not come
BODY = b'{"model": "x", "prompt": "the cat", "max_tokens": 2, "stream": true}'
HTTP = [
    b"GET /metrics HTTP/1.1\r\nhost: x\r\naccept: text/plain\r\n\r\n",
    b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\nGET /health/readiness HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    % (len(BODY), BODY),
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    b"POST /console/api/scale HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\ncontent-length: 13\r\n\r\n"
    b'{"expert": 2}',
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    """A cluster with native sessions."""
    yield from running_cluster(tmp_path_factory.mktemp("cluster"), link="native")


@pytest.fixture(scope="module", autouse=True)
def unharmed(cluster: ClusterUnderTest) -> Iterator[None]:
    """After all bytes the same processes answer with the same bits, on every port."""
    before, runs = answer_of(cluster), {name: child.pid for name, child in cluster.local.children.items()}
    assert len(before) == 24
    yield
    until(lambda: answer_of(cluster) == before, "it does not answer as before", 30)
    assert {name: child.pid for name, child in cluster.local.children.items()} == runs
    for role in (ROUTER, ATTENTION, EXPERT):
        assert httpx2.get(f"http://{cluster.records(role)[0].metrics_address}/ready").status_code == 200, role
    for log in cluster.local.directory.glob("*.log"):
        lines = [line for line in log.read_text(errors="replace").splitlines() if "Traceback" in line]
        assert not [line for line in lines if "codec can't decode" not in line], "gRPC itself says no more than that"


def send(address: str, first: bytes, data: bytes) -> None:
    """Sends bytes over a connection of their own, behind `first`, and reads what comes within READ_S."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.settimeout(READ_S)
        try:
            connection.sendall(first + data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
        except OSError:
            pass  # it was cut, or says nothing


def fuzz(address: str, samples: list[bytes]) -> None:
    rng = random.Random(f"{SEED} {len(samples)} {samples[0]!r}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(partial(send, address, b""), [mutated(rng, samples) for _ in range(TRIES * TIMES)]))


def test_http_ports(cluster: ClusterUnderTest) -> None:
    """The routers' two, and the workers' metrics ports."""
    addresses = [cluster.records(role)[0].metrics_address for role in (ROUTER, ATTENTION, EXPERT)]
    for address in (cluster.local.urls[0].removeprefix("http://"), *addresses):
        fuzz(address, HTTP)


@pytest.mark.parametrize("role", [ROUTER, ATTENTION, EXPERT])
def test_grpc_ports(cluster: ClusterUnderTest, role: str) -> None:
    """Calls of members among them, each of which counts once, and of a client."""
    record = cluster.records(role)[0]
    table = cluster.do(cluster.membership.read_table())
    assert table is not None
    generate = attention_pb2.GenerateRequest(prompt_ids=[3, 4, 5], sampling=sampling_of(1, 2))
    by_role: dict[str, dict[str, Message]] = {
        ROUTER: {"Generate": router_pb2.TextRequest(prompt="the cat", sampling=sampling_of(1, 2))},
        ATTENTION: {
            "Describe": attention_pb2.AttentionDescribeRequest(),
            "Generate": generate,
            "GenerateMany": attention_pb2.AttemptMessage(attempt_id=1, request=generate),
        },
        EXPERT: {"Commit": expert_pb2.CommitRequest(table=table), "Load": expert_pb2.LoadRequest()},
    }
    signer = CallSigner(ClusterKey(file=cluster.local.key_file), ROUTER)
    samples = []
    for name, message in by_role[role].items():
        path = f"/caracal.{role.title()}/{name}"
        samples.append(http2_call(path, signer.metadata(path, record.boot_id), message.SerializeToString()))
    fuzz(record.address, samples)


def native_session(cluster: ClusterUnderTest) -> tuple[str, bytes, int]:
    """The address of native sessions, the greeting that opens one, and its id."""
    record = cluster.records(EXPERT)[0]
    dialer = Dialer(ClusterKey(file=cluster.local.key_file), ATTENTION)
    with dialer.threaded(record.address, EXPERT) as channel:
        stub = expert_pb2_grpc.ExpertStub(dialer.to_run(channel, record.boot_id))
        place = stub.Open(expert_pb2.OpenRequest(), timeout=5)
    hello = Frame(kind=HELLO, session=place.session, body=place.token).sealed().encoded()
    return f"{place.host}:{place.port}", hello, place.session


def test_the_native_port(cluster: ClusterUnderTest) -> None:
    """Before a greeting, and within sessions of a member: header by header, and as bytes."""
    address, hello, session = native_session(cluster)
    call = Frame(kind=CALL, session=session, call=1, rows=1, assignments=1, hidden=64, dtype=1, body=bytes(264))
    fuzz(address, [hello, call.sealed().encoded(), Frame(kind=PING).sealed().encoded()])
    rng = random.Random(SEED)
    for number in range(TRIES // 4 * TIMES):
        address, hello, session = native_session(cluster)
        call = Frame(kind=CALL, session=session, call=1, rows=1, assignments=1, hidden=64, dtype=1, body=bytes(264))
        data = call.sealed().encoded()
        send(address, hello, mutated(rng, [data]) if number % 2 else Frame(**odd_header(rng, session)).encoded() + data)


def odd_header(rng: random.Random, session: int) -> dict[str, Any]:
    """Fields of a frame whose checksum is right, some of them absurd."""
    sizes = {"rows": 32, "assignments": 32, "hidden": 32, "dtype": 32, "layer": 32, "body_bytes": 64, "epoch": 64}
    absurd = {name: rng.choice((0, 1, 1 << bits - 1, (1 << bits) - 1)) for name, bits in sizes.items()}
    chosen = rng.sample(sorted(absurd), rng.randint(1, 4))
    return {"kind": rng.choice((HELLO, CALL, PING, 7)), "session": session} | {name: absurd[name] for name in chosen}


@pytest.mark.parametrize("role", [ROUTER, ATTENTION, EXPERT])
def test_a_method_whose_name_is_no_text_closes_no_port(cluster: ClusterUnderTest, role: str) -> None:
    """By itself grpc.aio ends its server. An answer that is on its way goes on."""
    record, expected = cluster.records(role)[0], answer_of(cluster, 100)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(answer_of, cluster, 100)
        for _ in range(3):
            send(record.address, b"", http2_call(f"/caracal.{role.title()}/\udc80", (), b""))
        assert answer.result(30) == expected


@pytest.mark.parametrize("role", [ROUTER, ATTENTION])
def test_calls_of_unknown_methods_keep_nobody_waiting(cluster: ClusterUnderTest, role: str) -> None:
    expected = answer_of(cluster)
    with grpc.insecure_channel(cluster.records(role)[0].address) as channel:
        unknown: Any = channel.unary_unary(f"/caracal.{role.title()}/Another")
        calls = [unknown.future(b"", timeout=1) for _ in range(100)]
        assert answer_of(cluster) == expected
        codes = {call.code() for call in calls}
        assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
        reflection: Any = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as error:
            list(reflection(iter([b""]), timeout=5))
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
