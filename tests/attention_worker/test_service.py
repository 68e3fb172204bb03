"""The Attention service over a real socket: one request, bad requests, disconnects, draining, health, reflection."""

import asyncio
import math
from random import Random
from typing import Any, cast

import grpc
import pytest
from caracal_proto import attention_pb2, attention_pb2_grpc, placement_pb2
from caracal_proto.sealing import sealed
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.attention_service import Worker, pages_free, request, run, status, worker
from support.engine_driver import Driver, limits
from support.fake_model import VOCAB, FakeModel

from services.attention_worker.engine.sequence import Sampling
from services.attention_worker.server import SERVICE

TABLE = placement_pb2.Table(epoch=7, numerics_class="caracal-test")


def test_one_request_streams_its_tokens_and_ends() -> None:
    async def body() -> None:
        async with worker() as one:
            events = [event async for event in one.stub.Generate(request())]
        tokens = [token for event in events for token in event.tokens]
        driver = Driver(FakeModel())
        expected = driver.submit([1, 2, 3], Sampling(max_tokens=20)).tokens
        driver.finish()
        assert [(t.index, t.id, t.logits_checksum) for t in tokens] == [
            (t.index, t.id, t.logits_checksum) for t in expected
        ]
        assert [event.finish_reason for event in events] == [""] * (len(events) - 1) + ["length"]
        assert {event.attempt for event in events} == {3}

    run(body)


def test_logprobs_and_stop_id_reach_the_client() -> None:
    async def body() -> None:
        async with worker() as one:
            events = [event async for event in one.stub.Generate(request(logprobs=True, top_logprobs=4))]
            token = events[0].tokens[0]
            stopped = [event async for event in one.stub.Generate(request(stop_ids=[token.id]))]
        assert token.top[0].id == token.id
        assert len(token.top) == 4
        assert token.top[0].logprob == token.logprob < 0
        assert stopped[-1].finish_reason == "stop"
        assert stopped[-1].stop_id == token.id

    run(body)


BAD: list[tuple[str, attention_pb2.GenerateRequest]] = [
    ("prompt_ids is empty", attention_pb2.GenerateRequest(sampling=attention_pb2.Sampling(max_tokens=1))),
    (f"prompt_ids has id {VOCAB}", request([1, VOCAB])),
    ("prompt_ids has id 4294967295", request([2**32 - 1])),
    ("prompt_ids has 256 tokens", request([1] * 256)),
    ("emitted_ids has 250 tokens", attention_pb2.GenerateRequest(prompt_ids=[1] * 10, emitted_ids=[1] * 250)),
    ("sampling.temperature is nan", request(temperature=math.nan)),
    ("sampling.temperature is inf", request(temperature=math.inf)),
    ("sampling.temperature is -1.0", request(temperature=-1)),
    ("sampling.top_p is 1.5", request(top_p=1.5)),
    ("sampling.min_p is nan", request(min_p=math.nan)),
    ("sampling.presence_penalty is -3.0", request(presence_penalty=-3)),
    ("sampling.frequency_penalty is nan", request(frequency_penalty=math.nan)),
    ("sampling.repetition_penalty is -1.0", request(repetition_penalty=-1)),
    (f"sampling.stop_ids has id {VOCAB + 4}", request(stop_ids=[VOCAB + 4])),
    (f"sampling.logit_bias has id {VOCAB}", request(logit_bias={VOCAB: 1.0})),
    ("sampling.logit_bias[3] is inf", request(logit_bias={3: math.inf})),
    ("sampling.top_logprobs is 65", request(top_logprobs=65)),
    ("weight is nan", attention_pb2.GenerateRequest(prompt_ids=[1], weight=math.nan)),
    ("weight is -1.0", attention_pb2.GenerateRequest(prompt_ids=[1], weight=-1)),
]


def test_bad_requests_are_rejected_by_the_name_of_the_field() -> None:
    async def body() -> None:
        async with worker() as one:
            for message, bad in BAD:
                code, details = await status(one.stub.Generate(bad))
                assert code == grpc.StatusCode.INVALID_ARGUMENT, message
                assert message in details
            assert (await status(one.stub.Generate(request())))[0] == grpc.StatusCode.OK
            assert one.engine.counters.prompt_tokens == 3, "nothing bad reached the engine"

    run(body)


def test_a_request_that_can_never_fit_is_resource_exhausted_with_the_counts() -> None:
    async def body() -> None:
        async with worker(limits(num_pages=4, max_len=256)) as one:
            code, details = await status(one.stub.Generate(request([1] * 60, max_tokens=100)))
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details == "160 tokens need 10 pages of 16, the cache has 4 (CARACAL_KV_PAGES)"

    run(body)


def test_five_hundred_disconnects_at_random_moments_leave_no_page_in_use() -> None:
    rng = Random(5)

    async def leave(one: Worker, few: asyncio.Semaphore) -> None:
        async with few:  # a worker takes no more calls of their own at once, and learns a little later who has left
            for _ in range(2000):
                if await begin_and_leave(one):
                    return
                await asyncio.sleep(0.002)
            raise AssertionError("it stays full")

    async def begin_and_leave(one: Worker) -> bool:
        """Whether it began."""
        call = one.stub.Generate(request([rng.randrange(VOCAB) for _ in range(rng.randint(1, 80))], max_tokens=150))
        if rng.random() < 0.2:
            await asyncio.sleep(rng.random() * 0.01)
            call.cancel()
            return True
        wanted = rng.randint(1, 8)
        try:
            async for _ in call:
                wanted -= 1
                if not wanted:
                    call.cancel()
                    break
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return False
        return True

    async def body() -> None:
        few = asyncio.Semaphore(3)
        async with worker(limits(num_pages=40, max_len=256)) as one:
            other = asyncio.create_task(status(one.stub.Generate(request(max_tokens=200))))
            for _ in range(10):
                await asyncio.gather(*(leave(one, few) for _ in range(50)))
            assert await other == (grpc.StatusCode.OK, ""), "a request that was not cancelled is undisturbed"
            await pages_free(one)
            assert len(one.engine.scheduler.running) == 0

    run(body)


def test_a_broken_connection_frees_the_pages() -> None:
    async def body() -> None:
        async with worker(limits(max_len=4096, num_pages=256)) as one:
            channel = grpc.aio.insecure_channel(one.target)
            stub: Any = attention_pb2_grpc.AttentionStub(channel)
            call = stub.Generate(request(max_tokens=4000))
            await anext(aiter(call))
            await channel.close()
            await pages_free(one)

    run(body)


def test_a_prompt_of_several_chunks_says_that_it_goes_on() -> None:
    async def body() -> None:
        # A thousand chunks: the first event is read long before the last, so that it is not merged with tokens.
        async with worker(limits(max_len=4096, num_pages=256, max_batch_tokens=4, max_running=2)) as one:
            asked = request(max_tokens=3)
            asked.prompt_ids.extend([5] * 4000)
            events = [event async for event in one.stub.Generate(asked)]
            assert [len(event.tokens) for event in events[:1]] == [0], "before its first token"
            assert all(event.tokens or not event.finish_reason for event in events)
            assert sum(len(event.tokens) for event in events) == 3
            whole = [event async for event in one.stub.Generate(request(max_tokens=3))]
            assert all(event.tokens for event in whole), "a prompt of one chunk has nothing to say"

    run(body)


def test_draining_hands_sequences_back() -> None:
    async def body() -> None:
        async with worker(limits(max_len=4096, num_pages=256)) as one:
            call = one.stub.Generate(request(max_tokens=4000))
            await anext(aiter(call))
            await one.service.drain(move=True)
            assert await status(call) == (grpc.StatusCode.UNAVAILABLE, "draining")
            assert await status(one.stub.Generate(request())) == (grpc.StatusCode.UNAVAILABLE, "draining")
            description = await one.stub.Describe(attention_pb2.AttentionDescribeRequest())
            assert description.draining
            assert description.kv_pages_used == 0

    run(body)


def test_a_drain_without_a_move_lets_running_sequences_finish() -> None:
    async def body() -> None:
        async with worker() as one:
            call = one.stub.Generate(request(max_tokens=200))
            await anext(aiter(call))
            await one.service.drain(move=False)
            assert await status(call) == (grpc.StatusCode.OK, "")

    run(body)


def test_tables_describe_health_and_reflection() -> None:
    async def body() -> None:
        async with worker() as one:
            health: Any = health_pb2_grpc.HealthStub(one.channel)
            asked = health_pb2.HealthCheckRequest(service=SERVICE)
            assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert (await one.stub.ApplyTable(TABLE)).epoch == 7
            assert (await health.Check(asked)).status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await one.stub.ApplyTable(placement_pb2.Table(epoch=8, numerics_class="caracal-other"))
            assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            again: Any = one.channel.unary_unary("/caracal.Attention/ApplyTable")
            await again(sealed(TABLE.SerializeToString()))
            with pytest.raises(grpc.aio.AioRpcError, match="epoch 7 is another table's here") as caught:
                await one.stub.ApplyTable(placement_pb2.Table(epoch=7))
            assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
            description = await one.stub.Describe(attention_pb2.AttentionDescribeRequest())
            assert (description.epoch, description.worker_id, description.max_model_len) == (7, "attention-0", 256)
            assert (description.kv_pages_total, description.page_size) == (64, 16)
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", one.channel))
            answers = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
            names = [service.name async for answer in answers for service in answer.list_services_response.service]
            assert {SERVICE, "grpc.health.v1.Health"} <= set(names)

    run(body)
