"""Pages go from worker to worker over real sockets; whatever goes wrong costs a recomputation and not a bit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from caracal_proto import attention_pb2, attention_pb2_grpc
from support.attention_service import Worker, request, run, status, worker
from support.engine_driver import limits

from services.attention_worker.engine.step_cost import StepCost, Work
from services.attention_worker.migration.estimate import TransferRate, too_slow
from services.attention_worker.migration.page_server import PageServer
from services.prefixes.page_names import NAME_BYTES

SIZES = limits(num_pages=160, max_len=2048)
PROMPT = [1 + place % 89 for place in range(500)]
CUT, REST, MOST = 40, 60, 1500  # tokens: before a drain at least, after it, and of a request

Change = Callable[[int, attention_pb2.PagesReply, Any], Any]


def whole(got: list[tuple[int, int]]) -> int:
    """The pages that a successor need not compute."""
    return (len(PROMPT) + len(got) - 1) // 16


def asked(max_tokens: int, **more: Any) -> attention_pb2.GenerateRequest:
    made = request(PROMPT, max_tokens=max_tokens, ignore_eos=True, temperature=0.8, seed=4)
    made.MergeFrom(attention_pb2.GenerateRequest(**more))
    return made


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another thread's state
            await asyncio.sleep(0.002)


async def answer(one: Worker, made: attention_pb2.GenerateRequest) -> list[tuple[int, int]]:
    return [(token.id, token.logits_checksum) async for event in one.stub.Generate(made) for token in event.tokens]


async def drained(one: Worker) -> list[tuple[int, int]]:
    """The tokens of a request until the worker hands it back."""
    got: list[tuple[int, int]] = []
    call = one.stub.Generate(asked(MOST))
    async for event in call:
        got += [(token.id, token.logits_checksum) for token in event.tokens]
        if len(got) >= CUT:
            break
    await one.service.drain(move=True)
    with pytest.raises(grpc.aio.AioRpcError, match="draining"):
        got += [(token.id, token.logits_checksum) async for event in call for token in event.tokens]
    return got


SLOW, FAST = (Work(tokens=1, prompt_keys=10**7), 10.0), (Work(tokens=10**6, prompt_keys=10**8), 0.001)


def learns(one: Worker, work: Work, seconds: float) -> None:
    """Makes a worker expect that a prompt takes so long."""
    one.engine.scheduler.cost = StepCost()
    for _ in range(20):
        one.engine.scheduler.cost.observe(work, seconds)


async def continued(
    one: Worker, got: list[tuple[int, int]], source: str, seen: tuple[Work, float] = SLOW, **more: Any
) -> list[tuple[int, int]]:
    learns(one, *seen)
    pages_at = attention_pb2.PageSource(address=source, boot_id="b")
    return got + await answer(one, asked(len(got) + REST, emitted_ids=[id for id, _ in got], pages_at=pages_at, **more))


class Between(attention_pb2_grpc.AttentionServicer):
    """Passes Pages on to a worker, and changes what comes back."""

    def __init__(self, worker: Worker, change: Change) -> None:
        self._worker, self._change = worker, change

    def Describe(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def ApplyTable(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def Generate(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    def GenerateMany(self, messages: Any, context: Any) -> Any:
        raise NotImplementedError

    async def Pages(self, request: attention_pb2.PagesRequest, context: Any) -> AsyncIterator[attention_pb2.PagesReply]:
        number = 0
        async for reply in self._worker.stub.Pages(request):
            for page in reply.pages:
                one = attention_pb2.PagesReply(pages=[page])
                await self._change(number, one, context)
                yield one
                number += 1


@asynccontextmanager
async def between(worker: Worker, change: Change) -> AsyncIterator[str]:
    server = grpc.aio.server()
    attention_pb2_grpc.add_AttentionServicer_to_server(Between(worker, change), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def test_a_drained_workers_pages_are_taken_over() -> None:
    async def body() -> None:
        async with worker(SIZES) as source, worker(SIZES) as successor, worker(SIZES) as alone:
            got = await drained(source)
            assert len(source.engine.exchange.handed_over) == 1
            expected = await answer(alone, asked(len(got) + REST))
            assert await continued(successor, got, source.target) == expected
            stats = successor.migration.stats
            assert (stats.migrated, stats.pages_received, source.migration.stats.pages_sent) == (
                1,
                whole(got),
                whole(got),
            )
            assert stats.bytes_received == whole(got) * successor.engine.exchange.page_bytes
            assert successor.engine.counters.model_tokens == len(PROMPT) + len(got) + REST - whole(got) * 16 - 1
            await source.migration.server.handed_over(60, there)  # at once: nobody else will ask

    run(body)


async def there() -> bool:
    return True


def test_a_source_waits_no_longer_than_somebody_may_come() -> None:
    async def gone() -> bool:
        return False

    async def body() -> None:
        async with worker(SIZES) as source:
            await drained(source)
            await source.migration.server.handed_over(60, gone)
            await source.migration.server.handed_over(0.1, there)
            assert source.engine.exchange.handed_over

    run(body)


async def damage(number: int, reply: attention_pb2.PagesReply, context: Any) -> None:
    if number == 5:
        page = reply.pages[0]
        page.latents = bytes([page.latents[0] ^ 1]) + page.latents[1:]


async def swap_lengths(number: int, reply: attention_pb2.PagesReply, context: Any) -> None:
    if number == 5:
        reply.pages[0].latents += b"\0"


async def die(number: int, reply: attention_pb2.PagesReply, context: Any) -> None:
    if number == 5:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")


async def reject(number: int, reply: attention_pb2.PagesReply, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")


async def hang(number: int, reply: attention_pb2.PagesReply, context: Any) -> None:
    if number == 5:
        await asyncio.sleep(60)


async def say_more(number: int, reply: attention_pb2.PagesReply, context: Any) -> None:
    if number == 5:
        reply.pages.extend(reply.pages[:1] * 100)


CHANGES: dict[Change, tuple[str, int]] = {
    damage: ("damaged", 5),
    swap_lengths: ("rejected", 5),
    say_more: ("damaged", 5),
    die: ("unreachable", 5),
    reject: ("rejected", 0),
    hang: ("slow", 5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_goes_wrong_on_the_way_costs_no_bit(change: Change) -> None:
    async def body() -> None:
        async with worker(SIZES) as source, worker(SIZES) as successor, between(source, change) as address:
            got = await drained(source)
            found = await continued(successor, got, address)
            reason, came = CHANGES[change]
            assert dict(successor.migration.stats.fallbacks) == {reason: 1}
            assert successor.migration.stats.pages_received == came
            assert successor.engine.counters.model_tokens == len(PROMPT) + len(got) + REST - 16 * came - 1
            async with worker(SIZES) as alone:
                assert found == await answer(alone, asked(len(got) + REST))

    run(body)


def test_nobody_at_the_address_another_salt_and_a_worker_without_pages() -> None:
    async def body() -> None:
        async with worker(SIZES) as source, worker(SIZES) as successor, worker(SIZES) as empty:
            got = await drained(source)
            expected = await continued(successor, got, empty.target)
            assert await continued(successor, got, source.target, cache_salt=b"other") == expected
            assert await continued(successor, got, "127.0.0.1:1", cache_salt=b"third") == expected
            assert dict(successor.migration.stats.fallbacks) == {"not there": 2, "unreachable": 1}
            assert await continued(successor, got, source.target) == expected
            assert successor.migration.stats.migrated == 1
            assert not source.engine.exchange.handed_over, "it knows that the pages are here"

    run(body)


def test_who_lacks_tokens_that_were_not_delivered_is_the_successor_and_a_sequence_that_begins_alike_is_not() -> None:
    async def body() -> None:
        async with worker(SIZES) as source, worker(SIZES) as successor, worker(SIZES) as other:
            got = await drained(source)
            await continued(other, [((token + 1) % 89 + 1, checksum) for token, checksum in got], source.target)
            (own,) = source.engine.exchange.handed_over.values()
            assert len(own) > whole(got[:-20])
            await continued(successor, got[:-20], source.target)
            assert not source.engine.exchange.handed_over

    run(body)


def test_what_is_computed_sooner_is_not_fetched() -> None:
    async def body() -> None:
        async with worker(SIZES) as source, worker(SIZES) as successor:
            got = await drained(source)
            await continued(successor, got, source.target, FAST)
            assert dict(successor.migration.stats.fallbacks) == {"faster to compute": 1}
            assert source.migration.stats.pages_sent == 0
            assert not source.engine.exchange.handed_over, "it knows that it need not keep them"

    run(body)


def test_pages_in_use_make_no_room() -> None:
    async def body() -> None:
        few = limits(num_pages=128, max_len=2048)
        async with worker(SIZES) as source, worker(few) as successor, worker(SIZES) as alone:
            got = await drained(source)
            successor.model.step_s = 0.03  # so that the pages of this request are in use meanwhile
            other = successor.stub.Generate(request([3] * 1600, max_tokens=400, ignore_eos=True))
            await other.read()
            going_on = asyncio.ensure_future(continued(successor, got, source.target))
            await until(lambda: successor.migration.stats.fallbacks)
            successor.model.step_s = 0.0
            assert dict(successor.migration.stats.fallbacks) == {"no room": 1}
            other.cancel()
            assert await going_on == await answer(alone, asked(len(got) + REST))

    run(body)


def test_a_client_that_leaves_while_pages_come_leaves_nothing_behind() -> None:
    async def body() -> None:
        async with worker(SIZES) as source, worker(SIZES) as successor, between(source, hang) as address:
            got = await drained(source)
            pages_at = attention_pb2.PageSource(address=address, boot_id="b")
            learns(successor, *SLOW)
            call = successor.stub.Generate(asked(len(got) + REST, emitted_ids=[id for id, _ in got], pages_at=pages_at))
            await until(lambda: successor.service.preparing)
            call.cancel()
            await until(lambda: not successor.service.preparing and not successor.engine.busy)

    run(body)


def test_a_successor_that_drains_hands_back_what_waits_for_pages() -> None:
    async def body() -> None:
        async with worker(SIZES) as source, worker(SIZES) as successor, between(source, hang) as address:
            got = await drained(source)
            pages_at = attention_pb2.PageSource(address=address, boot_id="b")
            learns(successor, *SLOW)
            call = successor.stub.Generate(asked(len(got) + REST, emitted_ids=[id for id, _ in got], pages_at=pages_at))
            await until(lambda: successor.service.preparing)
            await successor.service.drain(move=True)
            assert await status(call) == (grpc.StatusCode.UNAVAILABLE, "draining")

    run(body)


def test_bad_calls_are_rejected_by_name() -> None:
    async def body() -> None:
        async with worker(SIZES) as one:
            bad = one.stub.Pages(attention_pb2.PagesRequest(names=b"x" * (NAME_BYTES + 1)))
            assert await status(bad) == (grpc.StatusCode.INVALID_ARGUMENT, "names has 33 bytes, and a name 32")
            long = asked(9, pages_at=attention_pb2.PageSource(address="a" * 301))
            assert (await status(one.stub.Generate(long)))[0] == grpc.StatusCode.INVALID_ARGUMENT

    run(body)


def test_the_server_of_a_stopped_engine_says_so() -> None:
    async def body() -> None:
        async with worker(SIZES) as one:
            one.engine.stop()
            await asyncio.to_thread(one.thread.join)
            call = one.stub.Pages(attention_pb2.PagesRequest(names=b"n" * NAME_BYTES))
            assert await status(call) == (grpc.StatusCode.UNAVAILABLE, "the engine has stopped")

    run(body)


def test_the_rate_follows_what_was_seen() -> None:
    rate = TransferRate()
    for _ in range(50):
        rate.observe(10**6, 1.0)
    rate.observe(0, 1.0)
    assert rate.seconds(10**7) == pytest.approx(10, rel=0.01)
    assert not too_slow(came=1, to_come=100, seconds=0.1, compute_s=0.1)
    assert too_slow(came=1, to_come=100, seconds=1.0, compute_s=90)
    assert not too_slow(came=1, to_come=100, seconds=1.0, compute_s=110)


def test_calls_are_bounded() -> None:
    async def body() -> None:
        async with worker(SIZES) as one:
            server: PageServer = one.migration.server
            calls = [server.pages(attention_pb2.PagesRequest(names=b"n" * NAME_BYTES)) for _ in range(40)]
            found = await asyncio.gather(*(anext(call, None) for call in calls), return_exceptions=True)
            rejected = [each for each in found if each is not None]
            assert {str(each) for each in rejected} == {"16 workers are being sent pages"}
            assert len(rejected) == 24

    run(body)
