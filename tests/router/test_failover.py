"""Attention workers die, stall, send wrong events and come back under running streams: clients see at most a pause."""

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
from support.fake_attention import FakeAttention, Script, answers_with, token
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

TEXT = "the cat sat on the mat, naïve 猫 🐈 hello world; the cat sat on the mat"
HI: list[Any] = [{"role": "user", "content": "hi"}]
Request = attention_pb2.GenerateRequest
Events = AsyncIterator[attention_pb2.GenerateEvent]


@pytest.fixture
def harness(assets_path: Path) -> Iterator[Harness]:
    fakes = [FakeAttention(answers_with([]), worker_id=name) for name in ("attention-0", "attention-1")]
    with Harness(assets_path, *fakes, progress_s=20, lost_s=0.3) as harness:
        for fake in fakes:
            fake.script = answers_with(harness.ids(TEXT), eos=EOS, pause=0.005)
        yield harness


def after(count: int, then: Callable[[Any], Any], script: Script) -> Script:
    """Returns `script` for the first `count` tokens of an attempt, then `then(context)`."""

    async def cut(request: Request, context: Any) -> Events:
        sent = 0
        async for event in script(request, context):
            if sent >= count:
                await then(context)
                return
            yield event
            sent += len(event.tokens)

    return cut


def abort_with(code: grpc.StatusCode, detail: str = "") -> Callable[[Any], Any]:
    return lambda context: context.abort(code, detail)


async def ends_early(_: Any) -> None:
    return


def stream(router: Harness, **options: Any) -> tuple[str, list[int], str | None]:
    """Returns (text, ids, finish reason) of one streamed chat."""
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


def expected(router: Harness) -> tuple[str, list[int], str]:
    return TEXT, [*router.ids(TEXT), EOS], "stop"


@pytest.mark.parametrize(
    "failure",
    [
        abort_with(grpc.StatusCode.UNAVAILABLE),
        abort_with(grpc.StatusCode.CANCELLED),
        abort_with(grpc.StatusCode.INTERNAL),
        abort_with(grpc.StatusCode.DEADLINE_EXCEEDED),
        abort_with(grpc.StatusCode.RESOURCE_EXHAUSTED),
        ends_early,
    ],
    ids=["unavailable", "cancelled", "internal", "deadline", "exhausted", "early"],
)
@pytest.mark.parametrize("tokens", [0, 1, 17])
def test_a_failed_attempt_continues_on_another_worker(
    harness: Harness, failure: Callable[[Any], Any], tokens: int
) -> None:
    first, second = harness.fakes
    first.script = after(tokens, failure, first.script)
    assert stream(harness) == expected(harness)
    assert [request.attempt for request in first.requests] == [1]
    assert [request.attempt for request in second.requests] == [2]
    assert list(second.requests[0].emitted_ids) == harness.ids(TEXT)[:tokens]
    assert second.requests[0].sampling == first.requests[0].sampling
    assert second.requests[0].prompt_ids == first.requests[0].prompt_ids


def test_a_worker_is_killed_mid_stream(harness: Harness) -> None:
    first, second = harness.fakes

    async def die(_: Any) -> None:
        harness.directory.workers = [second.record()]
        asyncio.get_running_loop().create_task(first.stop())
        await asyncio.sleep(60)

    first.script = after(9, die, first.script)
    assert stream(harness) == expected(harness)
    assert list(second.requests[0].emitted_ids) == harness.ids(TEXT)[:9]


def test_the_only_worker_comes_back_on_its_address(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([]))
    with Harness(assets_path, fake) as harness:
        fake.script = answers_with(harness.ids(TEXT), eos=EOS, pause=0.01)
        results: list[tuple[str, list[int], str | None]] = []
        client = threading.Thread(target=lambda: results.append(stream(harness)))
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
        assert results == [expected(harness)]
        assert 0 < len(fake.requests[1].emitted_ids) < len(harness.ids(TEXT))


def test_the_stream_stays_in_its_numerics_class(harness: Harness) -> None:
    first, second = harness.fakes
    second.numerics_class = "another"
    harness.directory.workers = [first.record(), second.record()]
    harness.do(harness.serving.attention_workers.refresh())
    first.script = after(5, abort_with(grpc.StatusCode.UNAVAILABLE), first.script)
    assert stream(harness)[0] == TEXT
    assert not second.requests
    assert len(first.requests) > 2, "it continued on the worker where it began"


def test_draining_and_tableless_workers_get_nothing_new(harness: Harness) -> None:
    first, second = harness.fakes
    harness.directory.workers = [first.record(draining=True), second.record()]
    harness.do(harness.serving.attention_workers.refresh())
    assert [stream(harness)[2] for _ in range(3)] == ["stop"] * 3
    assert (len(first.requests), len(second.requests)) == (0, 3)
    harness.directory.workers = [first.record(), second.record(epoch=0)]
    harness.do(harness.serving.attention_workers.refresh())
    stream(harness)
    assert len(first.requests) == 1


def test_a_drained_worker_hands_back_without_being_counted(harness: Harness) -> None:
    first, second = harness.fakes
    plain = answers_with(harness.ids(TEXT), eos=EOS)
    tries = 0

    def handed_back(request: Request, context: Any) -> Events:
        nonlocal tries
        tries += 1
        drained = after(0, abort_with(grpc.StatusCode.UNAVAILABLE, "draining"), plain)
        return (drained if tries < 6 else plain)(request, context)

    first.script = second.script = handed_back
    assert stream(harness) == expected(harness)
    assert tries == 6


def test_two_attempts_without_a_token_fail_the_request(harness: Harness) -> None:
    for fake in harness.fakes:
        fake.script = after(0, abort_with(grpc.StatusCode.INTERNAL, "/secret/path exploded"), fake.script)
    with pytest.raises(openai.InternalServerError) as caught:
        stream(harness)
    assert caught.value.code == "request_quarantined"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "secret" not in str(caught.value.body)
    assert sum(len(fake.requests) for fake in harness.fakes) == 2


def test_links_that_are_reset_under_it_do_not_fail_a_request(harness: Harness) -> None:
    """Three streams in a row end as they do when workers die; but these answer, as the same runs."""
    harness.fakes[0].resets, harness.fakes[1].resets = 2, 1
    assert stream(harness) == expected(harness)
    assert [fake.resets for fake in harness.fakes] == [0, 0]


def test_no_capacity_anywhere_is_a_retryable_error(harness: Harness) -> None:
    for fake in harness.fakes:
        fake.script = after(0, abort_with(grpc.StatusCode.RESOURCE_EXHAUSTED), fake.script)
    with pytest.raises(openai.InternalServerError) as caught:
        stream(harness)
    assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
    assert caught.value.response.headers["retry-after"] == "1"
    assert [len(fake.requests) for fake in harness.fakes] == [1, 1]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
def test_progress_resets_the_count(harness: Harness, code: grpc.StatusCode) -> None:
    for fake in harness.fakes:
        fake.script = after(1, abort_with(code), fake.script)
    assert stream(harness)[:2] == expected(harness)[:2]


def test_stale_and_skipping_tokens_are_dropped(harness: Harness) -> None:
    first, second = harness.fakes
    ids = [*harness.ids(TEXT), EOS]

    async def wrong_events(request: Request, _: Any) -> Events:
        for index in range(len(ids)):
            event = attention_pb2.GenerateEvent(attempt=request.attempt)
            event.tokens.append(token(max(0, index - 1), ids[max(0, index - 1)], request))
            event.tokens.append(token(index, ids[index], request))
            event.tokens.append(token(index + 2, 99, request))
            if index + 1 == len(ids):
                event.finish_reason, event.stop_id = "stop", EOS
            yield attention_pb2.GenerateEvent(attempt=request.attempt + 1, tokens=[token(index, 98, request)])
            yield event

    first.script = second.script = wrong_events
    assert stream(harness) == expected(harness)
    dropped = harness.metrics.registry.get_sample_value("caracal_gateway_dropped_tokens_total", {"model_name": MODEL})
    assert dropped == 3 * len(ids)


def test_a_stream_that_breaks_after_its_last_token_is_complete(harness: Harness) -> None:
    first, second = harness.fakes
    ids = [*harness.ids(TEXT), EOS]
    first.script = after(len(ids), ends_early, answers_with([*ids, 70, 71]))
    assert stream(harness) == expected(harness)
    first.script = after(4, ends_early, answers_with(ids))
    assert stream(harness, max_tokens=4)[1:] == (ids[:4], "length")
    assert not second.requests, "no further attempt was needed"


@pytest.mark.parametrize("tokens", [0, 3])
def test_a_request_without_progress_is_given_up(assets_path: Path, tokens: int) -> None:
    fake = FakeAttention(answers_with([]))
    with Harness(assets_path, fake, progress_s=0.6) as harness:
        fake.script = after(tokens, lambda _: asyncio.sleep(60), answers_with(harness.ids(TEXT)))
        if tokens:
            with pytest.raises(openai.APIError) as caught:
                stream(harness)
            assert caught.value.code == "no_progress"
        else:
            with pytest.raises(openai.InternalServerError) as error:
                stream(harness)
            assert (error.value.status_code, error.value.code) == (504, "no_progress")
            assert "no progress for 0.6 s" in error.value.message
        wait_until(lambda: fake.running == 0)


def test_a_prompt_that_goes_on_lives_longer_than_the_limit(assets_path: Path) -> None:
    """Its first token comes after five times the limit; then it hangs, and is given up."""
    fake = FakeAttention(answers_with([]))
    with Harness(assets_path, fake, progress_s=0.6) as harness:
        ids = harness.ids(TEXT)
        prompt_s: list[float] = []

        async def long_prompt(request: Request, context: Any) -> Events:
            began = time.monotonic()
            while time.monotonic() - began < 3:
                yield attention_pb2.GenerateEvent(attempt=request.attempt)
                await asyncio.sleep(0.1)
            prompt_s.append(time.monotonic() - began)
            async for event in after(4, lambda _: asyncio.sleep(60), answers_with(ids))(request, context):
                yield event

        fake.script = long_prompt
        with pytest.raises(openai.APIError) as caught:
            stream(harness)
        assert caught.value.code == "no_progress"
        assert len(prompt_s) == len(fake.requests) == 1
        assert prompt_s[0] > 3


def test_a_request_that_hangs_on_its_second_worker_is_given_up(assets_path: Path) -> None:
    first, second = (FakeAttention(answers_with([]), worker_id=name) for name in ("attention-0", "attention-1"))
    with Harness(assets_path, first, second, progress_s=0.6) as harness:
        first.script = after(2, abort_with(grpc.StatusCode.UNAVAILABLE), answers_with(harness.ids(TEXT)))
        second.script = after(0, lambda _: asyncio.sleep(60), answers_with(harness.ids(TEXT)))
        with pytest.raises(openai.APIError) as caught:
            stream(harness)
        assert caught.value.code == "no_progress"
        assert (len(first.requests), len(second.requests)) == (1, 1)


def test_a_silent_worker_without_a_lease_is_abandoned(harness: Harness) -> None:
    first, second = harness.fakes

    async def freeze(_: Any) -> None:
        harness.directory.workers = [second.record()]
        first.frozen = True
        await asyncio.sleep(60)

    first.script = after(6, freeze, first.script)
    assert stream(harness) == expected(harness)
    wait_until(lambda: first.cancelled == 1)


def test_a_frozen_worker_with_a_lease_is_replaced_by_another(harness: Harness) -> None:
    first, second = harness.fakes

    async def freeze(_: Any) -> None:
        first.frozen = True
        await asyncio.sleep(60)

    first.script = after(6, freeze, first.script)
    assert stream(harness) == expected(harness)
    assert list(second.requests[0].emitted_ids) == harness.ids(TEXT)[:6]
    assert [stream(harness)[2] for _ in range(2)] == ["stop"] * 2, "it gets no new sequence"
    assert len(first.requests) == 1
    first.frozen, first.script = False, answers_with(harness.ids(TEXT), eos=EOS)
    wait_until(lambda: stream(harness)[2] == "stop" and len(first.requests) > 1)


def test_a_slow_worker_that_answers_keeps_its_sequence(harness: Harness) -> None:
    first, second = harness.fakes
    first.script = answers_with(harness.ids("hello"), eos=EOS, pause=1.3)
    assert stream(harness)[0] == "hello"
    assert not second.requests


def test_a_frozen_worker_without_another_is_waited_for(assets_path: Path) -> None:
    fake = FakeAttention(answers_with([]), frozen=True)
    with Harness(assets_path, fake) as harness:
        fake.script = answers_with(harness.ids("hello"), eos=EOS, pause=1.5)
        assert stream(harness)[0] == "hello"
        assert len(fake.requests) == 1


def test_sequences_spread_over_the_workers(harness: Harness) -> None:
    answer = harness.client().chat.completions.create(model=MODEL, messages=HI, n=8)
    assert {choice.message.content for choice in answer.choices} == {TEXT}
    assert [len(fake.requests) for fake in harness.fakes] == [4, 4]
    assert not +harness.serving.attention_workers.open_on


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
