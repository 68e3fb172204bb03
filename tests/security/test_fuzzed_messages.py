"""Every message that a service receives, random and damaged, sent by a member to processes of each role: nothing dies,
no call fails as if it were this side's fault, and the error of an invalid one names the field.

`make fuzz` tries many more.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from caracal_proto import attention_pb2, expert_pb2, router_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from support.cluster_harness import ClusterUnderTest, answer_of, running_cluster, sampling_of, until
from support.fuzzing import SEED, changed, messages, mutated, names_of, profile

from services.membership.record import WorkerRecord
from services.security.calls import CALLERS
from services.security.channels import PLAIN, Dialer
from services.security.cluster_key import ClusterKey

pytestmark = pytest.mark.processes

EXAMPLES = 12  # random messages of a method, and as many changed ones
HTTP_NAMES = {"messages", "stop_token_ids", "allowed_token_ids"}  # of the gateway's fields, as errors have them
REPLIES = 3  # of a stream, before its call is cancelled
TIMEOUT_S = {"Rendezvous": 0.2, "Session": 1.0}  # others: 5.0
SERVICES = {"attention": attention_pb2, "expert": expert_pb2, "router": router_pb2}
METHODS = [
    method
    for module in SERVICES.values()
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
# What no caller can be blamed for; DEADLINE_EXCEEDED and CANCELLED are the test's own.
FAULTS = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DATA_LOSS}


@dataclass
class Outcome:
    """How a call ended, and its first replies."""

    code: grpc.StatusCode
    details: str
    replies: list[bytes]


class Member:
    """Calls one method of one process, signed as the cluster's own callers sign."""

    def __init__(self, cluster: ClusterUnderTest, method: MethodDescriptor) -> None:
        role = method.containing_service.name.lower()
        record: WorkerRecord = cluster.records(role)[0]
        self._path = f"/{method.containing_service.full_name}/{method.name}"
        self._method, self._timeout_s = method, TIMEOUT_S.get(method.name, 5.0)
        dialer = PLAIN
        if self._path in CALLERS:
            dialer = Dialer(ClusterKey(file=cluster.local.key_file), next(iter(CALLERS[self._path])))
        self._channel = dialer.threaded(record.address, role)
        self._calls: Any = dialer.to_run(self._channel, record.boot_id)

    def call(self, data: bytes) -> Outcome:
        method = self._method
        kind = "_".join("stream" if many else "unary" for many in (method.client_streaming, method.server_streaming))
        invoke = getattr(self._calls, kind)(self._path)
        replies = []
        try:
            answer = invoke(iter([data]) if method.client_streaming else data, timeout=self._timeout_s)
            for reply in answer if method.server_streaming else [answer]:
                replies.append(reply)
                if len(replies) == REPLIES and method.server_streaming:
                    answer.cancel()
                    break
        except grpc.RpcError as error:
            ended: Any = error
            return Outcome(ended.code(), ended.details() or "", replies)
        return Outcome(grpc.StatusCode.OK, "", replies)

    def close(self) -> None:
        self._channel.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    yield from running_cluster(tmp_path_factory.mktemp("cluster"), link="grpc")


@pytest.fixture(scope="module", autouse=True)
def unharmed(cluster: ClusterUnderTest) -> Iterator[None]:
    """After all messages the same processes answer with the same bits."""
    before, runs = answer_of(cluster), {name: child.pid for name, child in cluster.local.children.items()}
    assert len(before) == 24
    yield
    until(lambda: answer_of(cluster) == before, "it does not answer as before", 30)
    assert {name: child.pid for name, child in cluster.local.children.items()} == runs
    for log in cluster.local.directory.glob("*.log"):
        assert "Traceback" not in log.read_text(), log.read_text()[-5000:]


def valid_message(cluster: ClusterUnderTest, method: MethodDescriptor) -> Message:
    """One that the method takes, with most of its fields set."""
    table = cluster.do(cluster.membership.read_table())
    assert table is not None
    ids = list(range(3, 20))
    request = attention_pb2.GenerateRequest(
        request_id="r", attempt=1, prompt_ids=ids, emitted_ids=[7], sampling=sampling_of(1, 4)
    )
    by_type: dict[str, Message] = {
        "GenerateRequest": request,
        "AttemptMessage": attention_pb2.AttemptMessage(attempt_id=1, request=request),
        "TextRequest": router_pb2.TextRequest(prompt="the cat", sampling=sampling_of(1, 4), stop=["mat"]),
        "IdentifyRequest": router_pb2.IdentifyRequest(worker_id="router-0", boot_id="b"),
        "Table": table,
        "CommitRequest": expert_pb2.CommitRequest(table=table),
        "PrepareRequest": expert_pb2.PrepareRequest(epoch=table.epoch),
        "RendezvousItem": expert_pb2.RendezvousItem(group=5, max_bytes=1000),
        "ExpertCall": expert_pb2.ExpertCall(call=1, epoch=table.epoch, rows=1, row=bytes(4), expert=bytes(4)),
    }
    return by_type.get(method.input_type.name) or messages_class(method)()


def messages_class(method: MethodDescriptor) -> type[Message]:
    module = SERVICES[method.containing_service.name.lower()]
    found: type[Message] = getattr(module, method.input_type.name)
    return found


def names_a_field(method: MethodDescriptor, details: str) -> bool:
    """Whether an error names one, or one of several, such as layer 3 of the field `layers`."""
    words = set(re.findall(r"\w+", details))
    return bool((words | {f"{word}s" for word in words}) & (names_of(method.input_type) | HTTP_NAMES))


def check(method: MethodDescriptor, outcome: Outcome) -> None:
    assert outcome.code not in FAULTS, outcome
    if outcome.code is grpc.StatusCode.INVALID_ARGUMENT:
        assert names_a_field(method, outcome.details), outcome.details
    if method.name == "Session":
        for data in outcome.replies:
            reply = expert_pb2.ExpertReply.FromString(data)
            assert reply.status == expert_pb2.ExpertReply.OK or reply.message
    if method.name == "GenerateMany":
        for data in outcome.replies:
            for event in attention_pb2.AttemptEvents.FromString(data).events:
                code = next(code for code in grpc.StatusCode if code.value[0] == event.status)
                assert code not in FAULTS, event
                if code is grpc.StatusCode.INVALID_ARGUMENT:
                    assert names_a_field(method, event.details), event.details


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.containing_service.name}.{method.name}")
def test_random_messages(cluster: ClusterUnderTest, method: MethodDescriptor) -> None:
    member, valid = Member(cluster, method), valid_message(cluster, method)

    @profile(2 * EXAMPLES)
    @given(messages(method.input_type) | changed(valid))
    def run(message: Message) -> None:
        check(method, member.call(message.SerializeToString()))

    try:
        run()
    finally:
        member.close()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.containing_service.name}.{method.name}")
def test_damaged_messages(cluster: ClusterUnderTest, method: MethodDescriptor) -> None:
    """Bytes that need not be a message at all: then the answer says so."""
    member, valid = Member(cluster, method), valid_message(cluster, method).SerializeToString()

    @profile(EXAMPLES)
    @given(st.integers(0, 1 << 32))
    def run(number: int) -> None:
        outcome = member.call(mutated(random.Random(SEED + number), [valid, b"\x0a\xff\xff\xff\xff\x7f"]))
        if "the bytes are no valid message" in outcome.details:
            assert outcome.code is grpc.StatusCode.INVALID_ARGUMENT
            return
        check(method, outcome)

    try:
        run()
    finally:
        member.close()
