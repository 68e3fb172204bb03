"""A worker takes a bounded number of attempts, and few calls of their own: routers' requests are not starved."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
from caracal_proto import attention_pb2, attention_pb2_grpc
from support.attention_service import Worker, request, run, status, worker
from support.engine_driver import limits

from services.router.requests.attempt import Attempt
from services.router.requests.attempt_stream import AttemptStream
from services.router.requests.failover import BUSY
from services.router.requests.worker_choice import AttentionWorkerView

CALLS = 3000


def view(one: Worker) -> AttentionWorkerView:
    return AttentionWorkerView(worker_id="attention-0", address=one.target)


async def ended(attempt: Attempt) -> str:
    """The finish reason, or the status, of an attempt."""
    try:
        while (event := await attempt.read()) is not None:
            if event.finish_reason:
                return event.finish_reason
    except Exception as error:  # noqa: BLE001 - its text is looked at
        return str(error)
    return "nothing"


def test_three_thousand_direct_calls_leave_room_for_a_routers_request() -> None:
    async def body() -> None:
        async with worker(limits(max_running=16)) as one:
            calls = [asyncio.create_task(status(one.stub.Generate(request(max_tokens=100)))) for _ in range(CALLS)]
            await asyncio.sleep(0.1)
            async with grpc.aio.insecure_channel(one.target, options=(("grpc.use_local_subchannel_pool", 1),)) as own:
                stream = AttemptStream(own)
                attempts = [stream.begin(view(one), request(max_tokens=5)) for _ in range(8)]
                async with asyncio.timeout(10):
                    assert set(await asyncio.gather(*map(ended, attempts))) == {"length"}
                describe = attention_pb2_grpc.AttentionStub(own).Describe
                described = await describe(attention_pb2.AttentionDescribeRequest())
                assert described.places == 12, "routers leave as many as direct calls may have"
                await stream.close()
            found = Counter([(await call)[0] for call in calls])
            # UNAVAILABLE: more streams than one connection may have, where the caller does not know yet how many.
            codes = grpc.StatusCode
            assert set(found) <= {codes.OK, codes.RESOURCE_EXHAUSTED, codes.UNAVAILABLE}
            assert found[codes.OK] >= 4
            assert one.service.busy_rejections == found[codes.RESOURCE_EXHAUSTED]

    run(body)


def test_beyond_its_bound_a_worker_says_that_it_is_busy() -> None:
    async def body() -> None:
        async with worker(limits(max_running=4, max_len=4096, num_pages=512)) as one:
            stream = AttemptStream(one.channel)
            attempts = [stream.begin(view(one), request(max_tokens=2000)) for _ in range(12)]
            refused = [await ended(attempt) for attempt in attempts[8:]]
            assert all(f"RESOURCE_EXHAUSTED: {BUSY}" in one for one in refused)
            for attempt in attempts[:8]:
                attempt.cancel()
            assert await ended(stream.begin(view(one), request(max_tokens=3))) == "length"
            await stream.close()

    run(body)
