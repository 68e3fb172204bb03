"""Many attempts over one stream: both ends as they are, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from random import Random
from typing import Any

import grpc
import pytest
from caracal_proto import attention_pb2
from support.attention_service import Worker, pages_free, request, run, status, worker
from support.engine_driver import limits
from support.fake_model import VOCAB

from services.attention_worker.attempt_stream import MOST_REJECTED
from services.attention_worker.attempt_stream import AttemptStream as AttemptStreamServer
from services.attention_worker.attempts import Attempts, Rejected
from services.router.requests.attempt import Attempt, AttemptFailed
from services.router.requests.attempt_stream import AttemptStream
from services.router.requests.worker_choice import AttentionWorkerView

LONG = limits(max_len=4096, num_pages=256)


def view(one: Worker) -> AttentionWorkerView:
    return AttentionWorkerView(
        worker_id="attention-0", address=one.target, boot_id="b", numerics_class="caracal-test", epoch=1
    )


def begin(stream: AttemptStream, one: Worker, **sampling: Any) -> Attempt:
    return stream.begin(view(one), request(**sampling))


async def events_of(attempt: Attempt) -> list[attention_pb2.GenerateEvent]:
    events = []
    while (event := await attempt.read()) is not None:
        events.append(event)
    return events


def tokens_of(events: list[attention_pb2.GenerateEvent]) -> list[bytes]:
    return [token.SerializeToString() for event in events for token in event.tokens]


async def failure_of(attempt: Attempt) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(AttemptFailed) as caught:
        await events_of(attempt)
    return caught.value.code, caught.value.details


def test_attempts_side_by_side_give_what_each_gives_alone() -> None:
    prompts = [[1 + i, 2, 3] for i in range(12)]

    async def body() -> None:
        async with worker() as one:
            alone = [[e async for e in one.stub.Generate(request(p, logprobs=True, top_logprobs=2))] for p in prompts]
            stream = AttemptStream(one.channel)
            attempts = [stream.begin(view(one), request(p, logprobs=True, top_logprobs=2)) for p in prompts]
            together = await asyncio.gather(*map(events_of, attempts))
            await stream.close()
        assert [tokens_of(events) for events in together] == [tokens_of(events) for events in alone]
        assert {events[-1].finish_reason for events in together} == {"length"}
        assert {event.attempt for events in together for event in events} == {3}

    run(body)


def test_one_message_carries_the_tokens_of_a_step() -> None:
    async def body() -> None:
        async with worker() as one:
            call = one.stub.GenerateMany()
            for attempt_id in range(8):
                await call.write(attention_pb2.AttemptMessage(attempt_id=attempt_id, request=request(max_tokens=100)))
            await call.done_writing()
            messages = [message async for message in call]
        sizes = [len(message.events) for message in messages]
        assert max(sizes) == 8
        assert sum(len(e.event.tokens) for message in messages for e in message.events) == 800
        assert all(len({e.attempt_id for e in message.events}) == len(message.events) for message in messages)

    run(body)


@pytest.mark.parametrize("drains", [False, True])
def test_a_slow_connection_gets_everything_before_the_end(drains: bool) -> None:
    async def messages() -> AsyncIterator[attention_pb2.AttemptMessage]:
        for attempt_id in range(3):
            yield attention_pb2.AttemptMessage(attempt_id=attempt_id, request=request(max_tokens=30 + attempt_id))
        if drains:
            await asyncio.Event().wait()

    async def body() -> None:
        async with worker() as one:
            attempts = Attempts(one.engine, VOCAB, one.grammars)
            events: list[attention_pb2.AttemptEvent] = []
            with pytest.raises(Rejected) if drains else nullcontext():
                async for message in AttemptStreamServer(attempts, messages()).events():
                    events += message.events
                    attempts.draining = drains
                    await asyncio.sleep(0.05)  # the engine is done long before it is read again
            assert sum(len(event.event.tokens) for event in events) == 30 + 31 + 32
            assert sum(bool(event.event.finish_reason) for event in events) == 3

    run(body)


def test_what_is_wrong_with_one_attempt_disturbs_no_other() -> None:
    async def body() -> None:
        async with worker(limits(num_pages=6, max_len=256)) as one:
            stream = AttemptStream(one.channel)
            good = begin(stream, one)
            bad = begin(stream, one, top_p=2.0)
            large = stream.begin(view(one), request([1] * 60, max_tokens=100))
            assert (await failure_of(bad))[0] is grpc.StatusCode.INVALID_ARGUMENT
            assert (await failure_of(large))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert len(tokens_of(await events_of(good))) == 20
            assert not stream.ended
            await stream.close()

    run(body)


def test_a_cancelled_attempt_frees_its_pages_and_leaves_the_others() -> None:
    async def body() -> None:
        async with worker(LONG) as one:
            stream = AttemptStream(one.channel)
            left, other = begin(stream, one, max_tokens=4000), begin(stream, one, max_tokens=600)
            assert (await left.read()) is not None
            left.abandon()
            assert await left.read() is None
            assert len(tokens_of(await events_of(other))) == 600
            await pages_free(one)
            await stream.close()

    run(body)


def test_five_hundred_attempts_left_at_random_moments_leave_no_page_in_use() -> None:
    rng = Random(5)

    async def leave(stream: AttemptStream, one: Worker) -> None:
        attempt = begin(stream, one, max_tokens=150)
        for _ in range(rng.randint(0, 6)):
            if await attempt.read() is None:
                break
        attempt.cancel()

    async def body() -> None:
        async with worker(limits(num_pages=40, max_len=256, max_running=32)) as one:
            stream = AttemptStream(one.channel)
            other = asyncio.create_task(events_of(begin(stream, one, max_tokens=200)))
            for _ in range(10):
                await asyncio.gather(*(leave(stream, one) for _ in range(50)))
            assert len(tokens_of(await other)) == 200
            await pages_free(one)
            await stream.close()

    run(body)


def test_a_broken_connection_ends_all_attempts_on_both_sides() -> None:
    async def body() -> None:
        async with worker(LONG) as one:
            channel = grpc.aio.insecure_channel(one.target)
            stream = AttemptStream(channel)
            attempts = [begin(stream, one, max_tokens=4000) for _ in range(4)]
            assert all([await attempt.read() for attempt in attempts])
            await channel.close()
            assert len([await failure_of(attempt) for attempt in attempts]) == 4
            assert stream.ended
            assert (await failure_of(begin(stream, one)))[0] is grpc.StatusCode.UNAVAILABLE, "and so do later ones"
            await pages_free(one)

    run(body)


@pytest.mark.parametrize("move", [False, True])
def test_draining_ends_the_stream_after_its_attempts(move: bool) -> None:
    async def body() -> None:
        async with worker(LONG) as one:
            stream, idle = AttemptStream(one.channel), one.stub.GenerateMany()
            running = begin(stream, one, max_tokens=500)
            assert await running.read() is not None
            await one.service.drain(move=move)
            assert await status(idle) == (grpc.StatusCode.UNAVAILABLE, "draining")
            refused = begin(stream, one)
            assert await failure_of(refused) == (grpc.StatusCode.UNAVAILABLE, "draining")
            if move:
                assert await failure_of(running) == (grpc.StatusCode.UNAVAILABLE, "draining")
            else:
                assert (await events_of(running))[-1].finish_reason == "length"
            async with asyncio.timeout(10):
                while not stream.ended:  # noqa: ASYNC110 - another task's state
                    await asyncio.sleep(0.002)

    run(body)


def test_an_attempt_id_in_use_ends_the_stream_and_frees_everything() -> None:
    async def body() -> None:
        async with worker(LONG) as one:
            call = one.stub.GenerateMany()
            for _ in range(2):
                await call.write(attention_pb2.AttemptMessage(attempt_id=7, request=request(max_tokens=4000)))
            code, details = await status(call)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert details == "attempt_id 7 is in use on this stream"
            await pages_free(one)

    run(body)


def test_a_caller_that_reads_no_rejections_is_read_no_more() -> None:
    async def body() -> None:
        asked = 0

        async def messages() -> AsyncIterator[attention_pb2.AttemptMessage]:
            nonlocal asked
            for attempt_id in range(5 * MOST_REJECTED):
                asked += 1
                yield attention_pb2.AttemptMessage(attempt_id=attempt_id, request=request(top_p=2.0))

        async with worker() as one:
            rejections = 0
            async for message in AttemptStreamServer(Attempts(one.engine, VOCAB, one.grammars), messages()).events():
                rejections += len(message.events)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert asked <= rejections + MOST_REJECTED + 1
            assert rejections == 5 * MOST_REJECTED

    run(body)


def test_a_cancel_of_nothing_is_nothing() -> None:
    async def body() -> None:
        async with worker() as one:
            call = one.stub.GenerateMany()
            await call.write(attention_pb2.AttemptMessage(attempt_id=1))
            await call.write(attention_pb2.AttemptMessage(attempt_id=1, request=request(max_tokens=3)))
            await call.done_writing()
            events = [event async for message in call for event in message.events]
            assert sum(len(event.event.tokens) for event in events) == 3

    run(body)
