"""Who is alive does not depend on load: not on the router's own lag, nor on how slow a worker is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from support.fake_attention import FakeAttention, answers_with
from support.gateway_assets import EOS
from support.gateway_harness import MODEL, Harness

from services.process.loop_time import within

LAG_S = 0.3  # of each turn of the loop: an answer to Describe takes several turns


@pytest.fixture
def harness(assets_path: Path) -> Iterator[Harness]:
    fakes = [FakeAttention(answers_with([]), worker_id=f"attention-{number}") for number in range(3)]
    with Harness(assets_path, *fakes, lost_s=0.3) as harness:
        yield harness


def complete(harness: Harness) -> str:
    return harness.client().completions.create(model=MODEL, prompt=[5, 6]).choices[0].text


async def lag(seconds: float) -> None:
    """Holds the loop up at each turn, for so long in all."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(LAG_S)  # noqa: ASYNC251  that is what is tested
        await asyncio.sleep(0)


@pytest.mark.parametrize("listed", [True, False])
def test_a_router_that_lags_takes_no_worker_for_dead(harness: Harness, listed: bool) -> None:
    first = harness.fakes[0]

    async def slow(request: Any, context: Any) -> Any:
        if not listed:
            harness.directory.workers = [fake.record() for fake in harness.fakes[1:]]
        lagging = asyncio.ensure_future(lag(4))
        await asyncio.sleep(0)
        async for event in answers_with(harness.ids("hello"), eos=EOS, pause=2.0)(request, context):
            yield event
        await lagging

    first.script = slow
    assert complete(harness) == "hello"
    assert [len(fake.requests) for fake in harness.fakes] == [1, 0, 0]


def test_a_silent_attempt_beside_one_that_goes_on_is_not_suspect(harness: Harness) -> None:
    """As one that waits in a worker's queue."""
    first = harness.fakes[0]
    harness.directory.workers = [first.record()]
    harness.do(harness.serving.attention_workers.refresh())

    async def script(request: Any, context: Any) -> Any:
        first.frozen = True  # what comes of the other attempt says enough
        pause = 0.1 if request.sampling.max_tokens > 1 else 2.0
        await asyncio.sleep(pause)
        async for event in answers_with(harness.ids("hello") * 60, eos=EOS, pause=pause)(request, context):
            yield event

    first.script = script

    async def both() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=harness.url + "/v1", api_key="unused", max_retries=0) as client:
            ask = client.completions.create
            return await asyncio.gather(*(ask(model=MODEL, prompt=[5, 6], max_tokens=most) for most in (60, 1)))

    assert all(answer.choices[0].finish_reason == "length" for answer in asyncio.run(both()))
    assert len(first.requests) == 2


def test_workers_that_hand_back_are_no_sign_against_a_request(harness: Harness) -> None:
    tries = 0

    async def script(request: Any, context: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries <= 4:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no expert worker answers")
        async for event in answers_with(harness.ids("hello"), eos=EOS)(request, context):
            yield event

    for fake in harness.fakes:
        fake.script = script
    assert complete(harness) == "hello"
    assert tries == 5


def test_a_request_that_kills_two_workers_is_poison(harness: Harness) -> None:
    def killer(fake: FakeAttention) -> Any:
        async def script(request: Any, context: Any) -> Any:
            asyncio.get_running_loop().create_task(fake.stop())
            await asyncio.sleep(60)
            yield None

        return script

    for fake in harness.fakes:
        fake.script = killer(fake)
    with pytest.raises(openai.InternalServerError) as caught:
        complete(harness)
    assert caught.value.code == "request_quarantined"
    assert sorted(len(fake.requests) for fake in harness.fakes) == [0, 1, 1]


def test_a_time_limit_leaves_out_the_loops_lag() -> None:
    async def answers() -> str:
        for _ in range(6):  # as a call takes a few turns of the loop
            await asyncio.sleep(0)
        return "here"

    async def scenario() -> tuple[str, float]:
        lagging = asyncio.ensure_future(lag(2))
        await asyncio.sleep(0)
        answer = await within(0.5, answers())
        await lagging
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await within(0.5, asyncio.sleep(60))
        return answer, time.monotonic() - began

    answer, took = asyncio.run(scenario())
    assert answer == "here"
    assert 0.5 <= took < 2
