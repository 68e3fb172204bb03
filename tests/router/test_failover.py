"""Workers die, stall, lie and come back while streams run; clients see a pause at most, and the right ids."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from caracal_proto import attention_pb2
from support.fake_attention import FakeAttention, Script, says, token
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

TEXT = "the cat sat on the mat, naïve 猫 🐈 hello world; the cat sat on the mat"
HI: list[Any] = [{"role": "user", "content": "hi"}]
Request = attention_pb2.GenerateRequest
Events = AsyncIterator[attention_pb2.GenerateEvent]


@pytest.fixture
def pair(assets_path: Path) -> Iterator[Harness]:
    fakes = [FakeAttention(says([]), worker_id=name) for name in ("attention-0", "attention-1")]
    with Harness(assets_path, *fakes, deadline_s=20, lost_s=0.3) as harness:
        for fake in fakes:
            fake.script = says(harness.ids(TEXT), eos=EOS, pause=0.005)
        yield harness


def after(count: int, then: Callable[[Any], Any], script: Script) -> Script:
    """`script` until `count` tokens have come from this attempt, then `then(context)`."""

    async def cut(request: Request, context: Any) -> Events:
        sent = 0
        async for event in script(request, context):
            if sent >= count:
                await then(context)
                return
            yield event
            sent += len(event.tokens)

    return cut


def gives_up(code: grpc.StatusCode, detail: str = "") -> Callable[[Any], Any]:
    return lambda context: context.abort(code, detail)


async def ends_early(_: Any) -> None:
    return


def stream(router: Harness, **options: Any) -> tuple[str, list[int], str | None]:
    """(text, ids, finish reason) of one streamed chat."""
    text, ids, reason = "", list[int](), None
    chunks = router.client().chat.completions.create(
        model=MODEL, messages=HI, stream=True, extra_body={"return_token_ids": True}, **options
    )
    for chunk in chunks:
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        ids += (choice.model_extra or {}).get("token_ids", [])
        reason = choice.finish_reason or reason
    return text, ids, reason


def right(router: Harness) -> tuple[str, list[int], str]:
    return TEXT, [*router.ids(TEXT), EOS], "stop"


@pytest.mark.parametrize(
    "failure",
    [
        gives_up(grpc.StatusCode.UNAVAILABLE),
        gives_up(grpc.StatusCode.CANCELLED),
        gives_up(grpc.StatusCode.INTERNAL),
        gives_up(grpc.StatusCode.DEADLINE_EXCEEDED),
        gives_up(grpc.StatusCode.RESOURCE_EXHAUSTED),
        ends_early,
    ],
    ids=["unavailable", "cancelled", "internal", "deadline", "exhausted", "early"],
)
@pytest.mark.parametrize("tokens", [0, 1, 17])
def test_a_failed_attempt_goes_on_elsewhere(pair: Harness, failure: Callable[[Any], Any], tokens: int) -> None:
    first, second = pair.fakes
    first.script = after(tokens, failure, first.script)
    assert stream(pair) == right(pair)
    assert [request.attempt for request in first.requests] == [1]
    assert [request.attempt for request in second.requests] == [2]
    assert list(second.requests[0].emitted_ids) == pair.ids(TEXT)[:tokens]
    assert second.requests[0].sampling == first.requests[0].sampling
    assert second.requests[0].prompt_ids == first.requests[0].prompt_ids


def test_a_killed_server_mid_stream(pair: Harness) -> None:
    first, second = pair.fakes

    async def die(_: Any) -> None:
        pair.directory.workers = [second.record()]
        asyncio.get_running_loop().create_task(first.stop())
        await asyncio.sleep(60)

    first.script = after(9, die, first.script)
    assert stream(pair) == right(pair)
    assert list(second.requests[0].emitted_ids) == pair.ids(TEXT)[:9]


def test_the_only_worker_comes_back_on_its_address(assets_path: Path) -> None:
    fake = FakeAttention(says([]))
    with Harness(assets_path, fake) as harness:
        fake.script = says(harness.ids(TEXT), eos=EOS, pause=0.01)
        told: list[tuple[str, list[int], str | None]] = []
        client = threading.Thread(target=lambda: told.append(stream(harness)))
        client.start()
        wait_until(lambda: fake.opened == 1)
        time.sleep(0.1)
        port = fake.port
        harness.do(fake.stop())
        harness.directory.workers = []
        time.sleep(0.5)
        assert client.is_alive(), "the stream waits"
        harness.do(fake.start(port))
        harness.directory.workers = [fake.record(boot_id="second")]
        client.join(20)
        assert told == [right(harness)]
        assert 0 < len(fake.requests[1].emitted_ids) < len(harness.ids(TEXT))


def test_the_stream_stays_in_its_numerics_class(pair: Harness) -> None:
    first, second = pair.fakes
    second.numerics_class = "another"
    pair.directory.workers = [first.record(), second.record()]
    pair.do(pair.cluster.attention_workers.refresh())
    first.script = after(5, gives_up(grpc.StatusCode.UNAVAILABLE), first.script)
    assert stream(pair)[0] == TEXT
    assert not second.requests
    assert len(first.requests) > 2, "it went on where it began"


def test_draining_and_tableless_workers_get_nothing_new(pair: Harness) -> None:
    first, second = pair.fakes
    pair.directory.workers = [first.record(draining=True), second.record()]
    pair.do(pair.cluster.attention_workers.refresh())
    assert [stream(pair)[2] for _ in range(3)] == ["stop"] * 3
    assert (len(first.requests), len(second.requests)) == (0, 3)
    pair.directory.workers = [first.record(), second.record(epoch=0)]
    pair.do(pair.cluster.attention_workers.refresh())
    stream(pair)
    assert len(first.requests) == 1


def test_a_drained_worker_hands_back_without_being_counted(pair: Harness) -> None:
    first, second = pair.fakes
    plain = says(pair.ids(TEXT), eos=EOS)
    tries = 0

    def handed_back(request: Request, context: Any) -> Events:
        nonlocal tries
        tries += 1
        gone = after(0, gives_up(grpc.StatusCode.UNAVAILABLE, "draining"), plain)
        return (gone if tries < 6 else plain)(request, context)

    first.script = second.script = handed_back
    assert stream(pair) == right(pair)
    assert tries == 6


def test_three_attempts_without_a_token_are_the_end(pair: Harness) -> None:
    for fake in pair.fakes:
        fake.script = after(0, gives_up(grpc.StatusCode.INTERNAL, "/secret/path exploded"), fake.script)
    with pytest.raises(openai.InternalServerError) as caught:
        stream(pair)
    assert caught.value.code == "request_quarantined"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "secret" not in str(caught.value.body)
    assert sum(len(fake.requests) for fake in pair.fakes) == 3


def test_no_room_anywhere_is_worth_another_try(pair: Harness) -> None:
    for fake in pair.fakes:
        fake.script = after(0, gives_up(grpc.StatusCode.RESOURCE_EXHAUSTED), fake.script)
    with pytest.raises(openai.InternalServerError) as caught:
        stream(pair)
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert caught.value.response.headers["retry-after"] == "1"
    assert [len(fake.requests) for fake in pair.fakes] == [1, 1]


def test_progress_resets_the_count(pair: Harness) -> None:
    for fake in pair.fakes:
        fake.script = after(1, gives_up(grpc.StatusCode.UNAVAILABLE), fake.script)
    assert stream(pair)[:2] == right(pair)[:2]


def test_stale_and_skipping_tokens_are_dropped(pair: Harness) -> None:
    first, second = pair.fakes
    ids = [*pair.ids(TEXT), EOS]

    async def liar(request: Request, _: Any) -> Events:
        for index in range(len(ids)):
            event = attention_pb2.GenerateEvent(attempt=request.attempt)
            event.tokens.append(token(max(0, index - 1), ids[max(0, index - 1)], request))
            event.tokens.append(token(index, ids[index], request))
            event.tokens.append(token(index + 2, 99, request))
            if index + 1 == len(ids):
                event.finish_reason, event.stop_id = "stop", EOS
            yield attention_pb2.GenerateEvent(attempt=request.attempt + 1, tokens=[token(index, 98, request)])
            yield event

    first.script = second.script = liar
    assert stream(pair) == right(pair)
    dropped = pair.metrics.registry.get_sample_value("caracal_gateway_dropped_tokens_total", {"model_name": MODEL})
    assert dropped == 3 * len(ids)


def test_an_end_that_was_reached_but_not_told(pair: Harness) -> None:
    first, second = pair.fakes
    ids = [*pair.ids(TEXT), EOS]
    first.script = after(len(ids), ends_early, says([*ids, 70, 71]))
    assert stream(pair) == right(pair)
    first.script = after(4, ends_early, says(ids))
    assert stream(pair, max_tokens=4)[1:] == (ids[:4], "length")
    assert not second.requests, "nothing was left to ask for"


@pytest.mark.parametrize("tokens", [0, 3])
def test_the_deadline(assets_path: Path, tokens: int) -> None:
    fake = FakeAttention(says([]))
    with Harness(assets_path, fake, deadline_s=0.6) as harness:
        fake.script = after(tokens, lambda _: asyncio.sleep(60), says(harness.ids(TEXT)))
        if tokens:
            with pytest.raises(openai.APIError) as caught:
                stream(harness)
            assert caught.value.code == "deadline_exceeded"
        else:
            with pytest.raises(openai.InternalServerError) as refused:
                stream(harness)
            assert refused.value.status_code == 504
        wait_until(lambda: fake.running == 0)


def test_a_silent_worker_without_a_lease_is_given_up(pair: Harness) -> None:
    first, second = pair.fakes

    async def freeze(_: Any) -> None:
        pair.directory.workers = [second.record()]
        await asyncio.sleep(60)

    first.script = after(6, freeze, first.script)
    assert stream(pair) == right(pair)
    wait_until(lambda: first.cancelled == 1)


def test_a_frozen_worker_with_a_lease_is_left_for_another(pair: Harness) -> None:
    first, second = pair.fakes

    async def freeze(_: Any) -> None:
        first.frozen = True
        await asyncio.sleep(60)

    first.script = after(6, freeze, first.script)
    assert stream(pair) == right(pair)
    assert list(second.requests[0].emitted_ids) == pair.ids(TEXT)[:6]
    assert [stream(pair)[2] for _ in range(2)] == ["stop"] * 2, "nothing new goes to it"
    assert len(first.requests) == 1
    first.frozen, first.script = False, says(pair.ids(TEXT), eos=EOS)
    wait_until(lambda: stream(pair)[2] == "stop" and len(first.requests) > 1)


def test_a_slow_worker_that_answers_keeps_its_sequence(pair: Harness) -> None:
    first, second = pair.fakes
    first.script = says(pair.ids("hello"), eos=EOS, pause=1.3)
    assert stream(pair)[0] == "hello"
    assert not second.requests


def test_a_frozen_worker_without_another_is_waited_for(assets_path: Path) -> None:
    fake = FakeAttention(says([]), frozen=True)
    with Harness(assets_path, fake) as harness:
        fake.script = says(harness.ids("hello"), eos=EOS, pause=1.5)
        assert stream(harness)[0] == "hello"
        assert len(fake.requests) == 1


def test_sequences_spread_over_the_workers(pair: Harness) -> None:
    answer = pair.client().chat.completions.create(model=MODEL, messages=HI, n=8)
    assert {choice.message.content for choice in answer.choices} == {TEXT}
    assert [len(fake.requests) for fake in pair.fakes] == [4, 4]
    assert not +pair.cluster.attention_workers.open_on


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
