"""Bits that flip on the wire between processes: what is parsed is what was sent, or the call ends and is made again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import grpc
import pytest
import torch
from caracal_proto import attention_pb2, expert_pb2
from caracal_proto.sealing import Damaged, Seals, sealed
from google.protobuf.message import DecodeError
from support.attention_service import request
from support.attention_service import worker as attention_worker
from support.engine_driver import Driver
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
from support.fake_model import FakeModel
from support.flipping_proxy import FlippingProxy, flipping_proxy
from support.native_proxy import NativeProxy
from support.reference_dispatcher import ReferenceDispatcher

from services.attention_worker.engine.sequence import Sampling
from services.checkpoint.reader import Checkpoint
from services.router.dispatch.expert_workers import MOST_DAMAGED
from services.router.dispatch.grpc_link import GrpcLink
from services.router.dispatch.native_fanout import NativeFanout
from services.router.requests.attempt import AttemptFailed
from services.router.requests.attempt_stream import AttemptStream
from services.router.requests.damaged_links import FIRST_S, LAST_S, MOST, WITHIN_S, DamagedLinks
from services.router.requests.worker_choice import AttentionWorkerView
from services.security.channels import PLAIN
from services.security.identity import ATTENTION

pytestmark = pytest.mark.processes

DTYPE = torch.bfloat16
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def test_no_flipped_bit_gets_through() -> None:
    """Of a call's first message, too, which may as well have had no checksum."""
    message = request(PROMPT)
    data = sealed(message.SerializeToString())
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        later = Seals()
        later.check(data)
        with pytest.raises(Damaged):
            later.check(bytes(flipped))
        try:
            Seals().check(bytes(flipped))
            found = attention_pb2.GenerateRequest.FromString(bytes(flipped))
        except (Damaged, DecodeError):
            continue
        found.DiscardUnknownFields()
        assert found == message, "only the mark was hit"


def test_random_bytes_are_not_taken_for_sealed_ones() -> None:
    random = Random(0)
    for size in range(40):
        Seals().check(random.randbytes(size))


def view(port: int) -> AttentionWorkerView:
    return AttentionWorkerView(worker_id="attention-0", address=f"127.0.0.1:{port}")


async def ids_of(stream: AttemptStream, port: int) -> list[int]:
    """The tokens of one attempt. Raises AttemptFailed."""
    attempt, ids = stream.begin(view(port), request(PROMPT)), list[int]()
    while (event := await attempt.read()) is not None:
        ids += [token.id for token in event.tokens]
    return ids


@pytest.mark.parametrize("way", ["up", "down"])
def test_damage_between_router_and_attention_worker_ends_the_stream(way: str) -> None:
    driver = Driver(FakeModel())
    expected = driver.submit(PROMPT, Sampling(max_tokens=20)).tokens
    driver.finish()

    async def body() -> None:
        async with attention_worker() as one:
            with flipping_proxy(int(one.target.rpartition(":")[2])) as proxy:
                if way == "up":
                    proxy.up = bytes(PROMPT)
                else:
                    proxy.down = b"\x1d" + expected[0].logits_checksum.to_bytes(4, "little")[:1]
                proxy.left = 1
                channel = PLAIN.aio(f"127.0.0.1:{proxy.port}", ATTENTION)
                try:
                    stream = AttemptStream(PLAIN.to_run(channel, "b"))
                    with pytest.raises(AttemptFailed) as caught:
                        await ids_of(stream, proxy.port)
                    assert (caught.value.code, caught.value.lost) == (grpc.StatusCode.DATA_LOSS, True)
                    assert stream.damaged
                    again = AttemptStream(PLAIN.to_run(channel, "b"))
                    assert await ids_of(again, proxy.port) == [token.id for token in expected]
                    assert not again.damaged
                    assert proxy.flipped == 1
                    for each in (stream, again):
                        await each.close()
                finally:
                    await channel.close()

    asyncio.run(body())


@pytest.fixture
def one(checkpoint: Checkpoint) -> Iterator[Worker]:
    with workers(checkpoint, DTYPE, 1) as running:
        load_everything(running[0].experts)
        yield running[0]


def through(one: Worker, proxy: FlippingProxy) -> None:
    one.endpoint.address = f"127.0.0.1:{proxy.port}"


def test_damaged_ids_of_a_call_over_grpc_cost_a_resend(checkpoint: Checkpoint, one: Worker) -> None:
    """The ids of rows and experts: what a checksum of the rows alone does not cover."""
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    batch = random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    expected = run(plain, 0, gate[0], batch)
    with flipping_proxy(int(one.endpoint.address.rpartition(":")[2])) as proxy:
        through(one, proxy)
        table = place(1, checkpoint, [one.endpoint], lambda layer, expert: [0])
        with open_dispatcher(checkpoint, GrpcLink) as dispatcher:
            dispatcher.apply(table)
            assert torch.equal(run(dispatcher, 0, gate[0], batch), expected)
            row = one.service.calls[-1].row
            proxy.up, proxy.left = row[: len(row) - 3], 4
            assert torch.equal(run(dispatcher, 0, gate[0], batch), expected)
            assert proxy.flipped == 4
            assert dispatcher.stats.total().retries == 4


def test_damaged_replies_over_grpc_cost_a_resend(checkpoint: Checkpoint, one: Worker) -> None:
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    batch = random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    expected = run(plain, 0, gate[0], batch)
    replies = []

    def keep(reply: expert_pb2.ExpertReply) -> expert_pb2.ExpertReply:
        replies.append(reply)
        return reply

    one.service.fault = keep
    with flipping_proxy(int(one.endpoint.address.rpartition(":")[2])) as proxy:
        through(one, proxy)
        with open_dispatcher(checkpoint, GrpcLink) as dispatcher:
            dispatcher.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
            assert torch.equal(run(dispatcher, 0, gate[0], batch), expected)
            proxy.down, proxy.left = replies[-1].y.data[:9], 2
            assert torch.equal(run(dispatcher, 0, gate[0], batch), expected)
            assert proxy.flipped == dispatcher.stats.total().retries == 2


@pytest.mark.parametrize("what", ["damaged_calls", "damaged_replies"])
def test_damage_over_native_sessions_costs_resends(checkpoint: Checkpoint, one: Worker, what: str) -> None:
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    batch = random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    proxy = one.service.proxy
    assert isinstance(proxy, NativeProxy)
    with open_dispatcher(checkpoint, connecting("native", checkpoint, DTYPE)) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        for damaged in (1, 5):
            setattr(proxy, what, damaged)
            assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))
        assert dispatcher.stats.total().retries == MOST_DAMAGED, "then the link is given up, and a new one is well"


@pytest.mark.parametrize("what", ["damaged_replies", "damaged_call_headers", "damaged_reply_headers"])
def test_one_damaged_frame_is_a_resend_and_says_nothing_against_the_worker(
    checkpoint: Checkpoint, one: Worker, what: str
) -> None:
    """A body costs the call alone; behind a header nothing can be read, so the session ends, of either side."""
    gate, plain = gates(checkpoint), ReferenceDispatcher(checkpoint, DTYPE)
    batch = random_batch(0, checkpoint.config.hidden_size, DTYPE, tokens=12)
    proxy, fanout = one.service.proxy, connecting("native", checkpoint, DTYPE)
    assert isinstance(proxy, NativeProxy)
    assert isinstance(fanout, NativeFanout)
    with open_dispatcher(checkpoint, fanout) as dispatcher:
        dispatcher.apply(place(1, checkpoint, [one.endpoint], lambda layer, expert: [0]))
        setattr(proxy, what, 1)
        assert torch.equal(run(dispatcher, 0, gate[0], batch), run(plain, 0, gate[0], batch))
        assert getattr(proxy, what) == 0
        assert (dispatcher.stats.total().retries, dispatcher.suspects) == (1, 0)
        assert fanout.stats.broken == int(what != "damaged_replies")


def test_a_link_that_damages_often_is_avoided() -> None:
    links = DamagedLinks()
    for turn in range(MOST - 1):
        assert links.note("a", float(turn)) == 0
    assert links.note("b", 1.0) == 0
    assert links.note("a", 2.0) == FIRST_S
    assert links.avoided(3.0) == {"a"}
    assert links.avoided(2.5 + FIRST_S) == set()
    for turn in range(MOST - 1):
        assert links.note("a", 100.0 + turn) == 0
    assert links.note("a", 101.0 + WITHIN_S) == 0, "not within a short time"
    assert links.note("a", 101.5 + WITHIN_S) == 0
    assert links.note("a", 102.0 + WITHIN_S) == 2 * FIRST_S <= LAST_S
